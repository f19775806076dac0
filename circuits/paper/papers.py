"""The papers that methods and tasks come from, written from their own front matter."""

import re
from dataclasses import dataclass

from circuits.paper.venues import VENUES


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
        """The entry for a .bib file: in proceedings, an article, or where else it is."""
        kind, where = self._where()
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "year": str(VENUES.get(self.key, ("", self.year))[1]),
            **where,
        }
        lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{kind}{{{self.key},\n{lines}\n}}\n"

    def _where(self) -> tuple[str, dict[str, str]]:
        """The kind of entry, and the fields that say where the work is."""
        arxiv = self.source.removeprefix("arXiv:")
        eprint = {"eprint": arxiv, "archivePrefix": "arXiv"} if arxiv != self.source else {}
        if self.key in VENUES:
            return "inproceedings", {"booktitle": VENUES[self.key][0], **eprint}
        if eprint:
            return "article", {"journal": f"arXiv preprint arXiv:{arxiv}", **eprint}
        found = re.fullmatch(r"(.+) (\d+)\((\d+)\), (\d+--\d+)", self.source)
        if found:
            return "article", dict(
                zip(("journal", "volume", "number", "pages"), found.groups(), strict=True)
            )
        if self.source.startswith("Python package"):
            return "software", {"note": self.source}
        return "misc", {"howpublished": self.source}


PAPERS = (
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
        "zhang2025eapgp",
        "Zhang et al. 2025",
        "Zhang, Lin and Dong, Wenshuo and Zhang, Zhuoran and Yang, Shu and Hu, Lijie and Liu, "
        "Ninghao and Zhou, Pan and Wang, Di",
        "EAP-GP: Mitigating Saturation Effect in Gradient-based Automated Circuit Identification",
        2025,
        "arXiv:2502.06852",
    ),
    Reference(
        "dhamdhere2018important",
        "Dhamdhere et al. 2018",
        "Dhamdhere, Kedar and Sundararajan, Mukund and Yan, Qiqi",
        "How Important Is a Neuron?",
        2018,
        "arXiv:1805.12233",
    ),
    Reference(
        "zhang2026lies",
        "Zhang & Wang 2026",
        "Zhang, Luyang and Wang, Jialu",
        "When Attribution Patching Lies: Diagnosis and a Second-Order Correction",
        2026,
        "arXiv:2606.09899",
    ),
    Reference(
        "linzen2016assessing",
        "Linzen et al. 2016",
        "Linzen, Tal and Dupoux, Emmanuel and Goldberg, Yoav",
        "Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies",
        2016,
        "arXiv:1611.01368",
    ),
    Reference(
        "vig2020causal",
        "Vig et al. 2020",
        "Vig, Jesse and Gehrmann, Sebastian and Belinkov, Yonatan and Qian, Sharon and Nevo, "
        "Daniel and Sakenis, Simas and Huang, Jason and Singer, Yaron and Shieber, Stuart",
        "Causal Mediation Analysis for Interpreting Neural NLP: The Case of Gender Bias",
        2020,
        "arXiv:2004.12265",
    ),
    Reference(
        "heimersheim2023docstring",
        "Heimersheim and Janiak 2023",
        "Heimersheim, Stefan and Janiak, Jett",
        "A circuit for Python docstrings in a 4-layer attention-only transformer",
        2023,
        "AI Alignment Forum",
    ),
    Reference(
        "olsson2022context",
        "Olsson et al. 2022",
        "Olsson, Catherine and Elhage, Nelson and Nanda, Neel and Joseph, Nicholas and DasSarma, "
        "Nova and Henighan, Tom and Mann, Ben and Askell, Amanda and others",
        "In-context Learning and Induction Heads",
        2022,
        "arXiv:2209.11895",
    ),
    Reference(
        "elhage2021mathematical",
        "Elhage et al. 2021",
        "Elhage, Nelson and Nanda, Neel and Olsson, Catherine and Henighan, Tom and Joseph, "
        "Nicholas and Mann, Ben and Askell, Amanda and others",
        "A Mathematical Framework for Transformer Circuits",
        2021,
        "Transformer Circuits Thread",
    ),
    Reference(
        "huang2024ravel",
        "Huang et al. 2024",
        "Huang, Jing and Wu, Zhengxuan and Potts, Christopher and Geva, Mor and Geiger, Atticus",
        "RAVEL: Evaluating Interpretability Methods on Disentangling Language Model "
        "Representations",
        2024,
        "arXiv:2402.17700",
    ),
    Reference(
        "todd2023function",
        "Todd et al. 2023",
        "Todd, Eric and Li, Millicent L. and {Sen Sharma}, Arnab and Mueller, Aaron and Wallace, "
        "Byron C. and Bau, David",
        "Function Vectors in Large Language Models",
        2023,
        "arXiv:2310.15213",
    ),
    Reference(
        "wiegreffe2024answer",
        "Wiegreffe et al. 2024",
        "Wiegreffe, Sarah and Tafjord, Oyvind and Belinkov, Yonatan and Hajishirzi, Hannaneh and "
        "Sabharwal, Ashish",
        "Answer, Assemble, Ace: Understanding How LMs Answer Multiple Choice Questions",
        2024,
        "arXiv:2407.15018",
    ),
    Reference(
        "stolfo2023mechanistic",
        "Stolfo et al. 2023",
        "Stolfo, Alessandro and Belinkov, Yonatan and Sachan, Mrinmaya",
        "A Mechanistic Interpretation of Arithmetic Reasoning in Language Models using Causal "
        "Mediation Analysis",
        2023,
        "arXiv:2305.15054",
    ),
    Reference(
        "tigges2023sentiment",
        "Tigges et al. 2023",
        "Tigges, Curt and Hollinsworth, Oskar John and Geiger, Atticus and Nanda, Neel",
        "Linear Representations of Sentiment in Large Language Models",
        2023,
        "arXiv:2310.15154",
    ),
    Reference(
        "efron1979bootstrap",
        "Efron 1979",
        "Efron, Bradley",
        "Bootstrap Methods: Another Look at the Jackknife",
        1979,
        "The Annals of Statistics 7(1), 1--26",
    ),
    Reference(
        "nanda2022transformerlens",
        "Nanda & Bloom 2022",
        "Nanda, Neel and Bloom, Joseph",
        "TransformerLens",
        2022,
        "Python package transformer-lens",
    ),
    Reference(
        "circuitworkbench",
        "circuit-workbench",
        "{The authors of circuit-workbench}",
        "Circuit Workbench: finding, judging and drawing circuits of language models",
        2026,
        "Python package circuit-workbench",
    ),
)
