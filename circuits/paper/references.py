"""References: BibTeX entries of the papers that methods come from, by their arXiv number.

`scoring.METHODS` and `tasks.FAMILIES` name the source of every method and task; rules, paths and
numbers that a search used besides are in the tables here. The entries stand in `papers`.
"""

import re
from collections.abc import Mapping, Sequence

from circuits.paper.papers import PAPERS, Reference
from circuits.scoring import METHODS
from patching.tasks import FAMILIES

REFERENCES: Mapping[str, Reference] = {
    paper.source.removeprefix("arXiv:"): paper for paper in PAPERS
}
"""By arXiv number, or by where it is where a work has none."""

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
    "adjusted": ("2502.06852",),
    "adjusted-scaled": ("2502.06852",),
}
SELECTORS = {"greedy": ("2403.17806",)}
FAITHFULNESS = ("2407.08734",)
SOFTWARE = ("Python package circuit-workbench", "Python package transformer-lens")
INTERVALS = ("The Annals of Statistics 7(1), 1--26",)


def of_task(task: str) -> tuple[str, ...]:
    """The paper that a generated task comes from, whatever its corruption (`ioi:swap`)."""
    family = FAMILIES.get(task.partition(":")[0].partition(",")[0])
    return () if family is None else _of_source(family.source)


def of_method(method: str, rule: str, path: str) -> tuple[str, ...]:
    """The papers behind a way of scoring; a rule on a path that has no name cites both."""
    if method in METHODS:
        return _of_source(METHODS[method].source)
    found = (*RULES.get(rule, ()), *PATHS.get(path, ()))
    return found or of_method("eap", "", "")


def bibtex(numbers: Sequence[str]) -> str:
    """The entries of a .bib file, each once."""
    return "\n".join(REFERENCES[number].bibtex for number in dict.fromkeys(numbers))


def _of_source(source: str) -> tuple[str, ...]:
    """The numbers in a source; where it has none, the paper that is named so."""
    numbers = tuple(re.findall(r"arXiv:([\d.]+\d)", source))
    return numbers or tuple(number for number, paper in REFERENCES.items() if paper.short == source)
