"""References: BibTeX entries of the papers that methods come from, by their arXiv number.

`scoring.METHODS` names the source of every method with its number; rules, paths, tasks and numbers
that a search used besides are in the tables here. Entries are written from the papers' own front
matter, as arXiv has it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from circuits.scoring import METHODS


@dataclass(frozen=True)
class Reference:
    """A paper: `key` is what is cited, `short` how the text names it, `source` where it is."""

    key: str
    short: str
    authors: str
    title: str
    year: int
    source: str

    @property
    def bibtex(self) -> str:
        """The entry for a .bib file."""
        arxiv = self.source.removeprefix("arXiv:")
        where = f"note = {{{self.source}}}"
        if arxiv != self.source:
            where = (
                f"eprint = {{{arxiv}}},\n  archivePrefix = {{arXiv}},\n  note = {{{self.source}}}"
            )
        return (
            f"@misc{{{self.key},\n  author = {{{self.authors}}},\n  title = {{{{{self.title}}}}},\n"
            f"  year = {{{self.year}}},\n  {where}\n}}\n"
        )


_PAPERS = (
    Reference(
        "syed2023attribution",
        "Syed et al. 2023",
        "Syed, Aaquib and Rager, Can and Conmy, Arthur",
        "Attribution Patching Outperforms Automated Circuit Discovery",
        2023,
        "arXiv:2310.10348",
    ),
    Reference(
        "hanna2024faith",
        "Hanna et al. 2024",
        "Hanna, Michael and Pezzelle, Sandro and Belinkov, Yonatan",
        "Have Faith in Faithfulness: Going Beyond Circuit Overlap When Finding Model Mechanisms",
        2024,
        "arXiv:2403.17806",
    ),
    Reference(
        "marks2024sparse",
        "Marks et al. 2024",
        "Marks, Samuel and Rager, Can and Michaud, Eric J. and Belinkov, Yonatan and Bau, David "
        "and Mueller, Aaron",
        "Sparse Feature Circuits: Discovering and Editing Interpretable Causal Graphs in Language "
        "Models",
        2024,
        "arXiv:2403.19647",
    ),
    Reference(
        "jafari2025relp",
        "Rezaei Jafari et al. 2025",
        "{Rezaei Jafari}, Farnoush and Eberle, Oliver and Khakzar, Ashkan and Nanda, Neel",
        "RelP: Faithful and Efficient Circuit Discovery in Language Models via Relevance Patching",
        2025,
        "arXiv:2508.21258",
    ),
    Reference(
        "edin2025gim",
        "Edin et al. 2025",
        r"Edin, Joakim and Csord{\'a}s, R{\'o}bert and Ruotsalo, Tuukka and Wu, Zhengxuan and "
        r"Maistro, Maria and Christensen, Casper L. and Huang, Jing and Maal{\o}e, Lars",
        "GIM: Improved Interpretability for Large Language Models",
        2025,
        "arXiv:2505.17630",
    ),
    Reference(
        "kramar2024atp",
        "Kramár et al. 2024",
        r"Kram{\'a}r, J{\'a}nos and Lieberum, Tom and Shah, Rohin and Nanda, Neel",
        "AtP*: An efficient and scalable method for localizing LLM behaviour to components",
        2024,
        "arXiv:2403.00745",
    ),
    Reference(
        "ferrando2024information",
        "Ferrando & Voita 2024",
        "Ferrando, Javier and Voita, Elena",
        "Information Flow Routes: Automatically Interpreting Language Models at Scale",
        2024,
        "arXiv:2403.00824",
    ),
    Reference(
        "zhang2024practices",
        "Zhang & Nanda 2024",
        "Zhang, Fred and Nanda, Neel",
        "Towards Best Practices of Activation Patching in Language Models: Metrics and Methods",
        2024,
        "arXiv:2309.16042",
    ),
    Reference(
        "ali2022xai",
        "Ali et al. 2022",
        r"Ali, Ameen and Schnake, Thomas and Eberle, Oliver and Montavon, Gr{\'e}goire and "
        r"M{\"u}ller, Klaus-Robert and Wolf, Lior",
        "XAI for Transformers: Better Explanations through Conservative Propagation",
        2022,
        "arXiv:2202.07304",
    ),
    Reference(
        "achtibat2024attnlrp",
        "Achtibat et al. 2024",
        "Achtibat, Reduan and Hatefi, Sayed Mohammad Vakilzadeh and Dreyer, Maximilian and Jain, "
        "Aakriti and Wiegand, Thomas and Lapuschkin, Sebastian and Samek, Wojciech",
        "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for Transformers",
        2024,
        "arXiv:2402.05602",
    ),
    Reference(
        "miller2024transformer",
        "Miller et al. 2024",
        "Miller, Joseph and Chughtai, Bilal and Saunders, William",
        "Transformer Circuit Faithfulness Metrics are not Robust",
        2024,
        "arXiv:2407.08734",
    ),
    Reference(
        "wang2022interpretability",
        "Wang et al. 2022",
        "Wang, Kevin and Variengien, Alexandre and Conmy, Arthur and Shlegeris, Buck and "
        "Steinhardt, Jacob",
        "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small",
        2022,
        "arXiv:2211.00593",
    ),
    Reference(
        "hanna2023greater",
        "Hanna et al. 2023",
        "Hanna, Michael and Liu, Ollie and Variengien, Alexandre",
        "How does GPT-2 compute greater-than?: Interpreting mathematical abilities in a "
        "pre-trained language model",
        2023,
        "arXiv:2305.00586",
    ),
    Reference(
        "efron1979bootstrap",
        "Efron 1979",
        "Efron, Bradley",
        "Bootstrap Methods: Another Look at the Jackknife",
        1979,
        "The Annals of Statistics 7(1), 1--26",
    ),
)

REFERENCES: Mapping[str, Reference] = {
    paper.source.removeprefix("arXiv:"): paper for paper in _PAPERS
}
"""By arXiv number, or by the journal where a paper has none."""

RULES = {
    "ln": ("2202.07304",),
    "relp": ("2508.21258",),
    "relp-ah": ("2508.21258", "2202.07304"),
    "relp-no-identity": ("2508.21258",),
    "attn-lrp": ("2402.05602",),
    "gim": ("2505.17630",),
    "gim-no-gates": ("2505.17630",),
}
PATHS = {
    "clean-corrupt": ("2403.17806",),
    "inputs": ("2403.17806",),
    "activations": ("2403.19647",),
    "activations-own": ("2403.19647",),
}
TASKS = {"ioi": ("2211.00593",), "greater-than": ("2305.00586",)}
SELECTORS = {"greedy": ("2403.17806",)}
FAITHFULNESS = ("2407.08734",)
INTERVALS = ("The Annals of Statistics 7(1), 1--26",)


def of_method(method: str, rule: str, path: str) -> tuple[str, ...]:
    """The papers behind a way of scoring; a rule on a path that has no name cites both."""
    if method in METHODS:
        return tuple(re.findall(r"arXiv:([\d.]+\d)", METHODS[method].source))
    found = (*RULES.get(rule, ()), *PATHS.get(path, ()))
    return found or of_method("eap", "", "")


def bibtex(numbers: Sequence[str]) -> str:
    """The entries of a .bib file, each once."""
    return "\n".join(REFERENCES[number].bibtex for number in dict.fromkeys(numbers))
