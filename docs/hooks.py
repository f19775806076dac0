"""What is done to pages when the site is built. `mkdocs.yml` names this file as a hook.

Tables come from the code, so that the documentation says what it does: `<!-- table: NAME -->`
becomes a table. And the one script that the theme would fetch is replaced by our own.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

MARKER = re.compile(r"<!-- table: (.+?) -->")
FETCHED = re.compile(r'"https://unpkg\.com/iframe-worker/[^"]*"')


class Page(Protocol):
    """What is used of MkDocs' pages."""

    url: str


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the tables of a page; MkDocs calls this for each."""
    return MARKER.sub(lambda found: table(found[1]), markdown)


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Take the search from the site itself; MkDocs calls this for each page."""
    up = "../" * page.url.count("/")
    return FETCHED.sub(f'"{up}search.js"', output)


def on_post_template(output_content: str, **_: object) -> str:
    """The same for pages of the theme's own (404.html)."""
    return FETCHED.sub('"search.js"', output_content)


def table(name: str) -> str:
    """One of `TABLES` as Markdown.

    Raises:
        ValueError: if there is none of this name.
    """
    if name not in TABLES:
        raise ValueError(f"no table {name!r}; there are {', '.join(TABLES)}")
    head, *rows = TABLES[name]()
    return "\n".join(_line(row) for row in (head, ["---"] * len(head), *rows))


Rows = Iterable[Sequence[str]]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _linked(source: str) -> str:
    """A source with its arXiv number as a link."""
    return re.sub(r"arXiv:(\d+\.\d+)", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)


def _says(thing: Callable[..., object]) -> str:
    """The first sentence of a docstring."""
    return (thing.__doc__ or "").strip().split("\n")[0].rstrip(".")


def _api(thing: Callable[..., object]) -> str:
    """A function's name, linked to its entry in the API reference."""
    name = getattr(thing, "__name__", "")
    return f"[`{name}`][{thing.__module__}.{name}]"


def _mark(holds: bool) -> str:
    return "yes" if holds else "–"


def _scorers() -> Rows:
    from circuits.scoring.methods import METHODS

    yield ("In the shell", "In Python", "What it is", "Cost", "Source")
    for name, method in METHODS.items():
        function = method.function
        yield (f"`{name}`", _api(function), _says(function), method.cost, _linked(method.source))


def _laws() -> Rows:
    from circuits.scoring.methods import METHODS

    yield (
        *("Method", "Additive", "Complete", "Exact if linear", "By prompt"),
        *("Any ablation", "Steps", "Needs"),
    )
    for name, method in METHODS.items():
        needs = [
            *(["pairs that differ"] if method.paired else []),
            *(["a slope"] if method.by_gradient else []),
            *([f"{method.n_layers} layers"] if method.n_layers > 1 else []),
        ]
        laws = (method.additive, method.complete, method.exact_if_linear, method.by_prompt)
        marks = [_mark(law) for law in (*laws, method.takes_ablation, method.takes_steps)]
        yield (f"`{name}`", *marks, ", ".join(needs) or "clean prompts")


def _neurons() -> Rows:
    from patching.neurons.methods import NEURON_METHODS

    yield ("In the shell", "In Python", "What it is", "Cost", "Source")
    for name, method in NEURON_METHODS.items():
        function = method.function
        yield (f"`{name}`", _api(function), _says(function), method.cost, _linked(method.source))


def _tokens() -> Rows:
    from patching.token_attribution import TOKEN_METHODS

    yield ("Name", "Baseline unless told otherwise", "Gradient needed")
    for name, method in TOKEN_METHODS.items():
        baseline = method.baseline.__name__ if method.uses_baseline else "none"
        yield (f"`{name}`", baseline, _mark(method.differentiates))


def _rules() -> Rows:
    from patching.rules import RULES

    yield ("Rule", "Its parts")
    for name, rule in RULES.items():
        parts = [getattr(part, "__name__", "softmax_rule") for part in rule.parts]
        yield (f"`{name}`", ", ".join(f"`{part}`" for part in parts) or "the gradient as it is")


def _paths() -> Rows:
    from circuits.scoring import PATHS

    yield ("Path", "Cost", "Complete")
    for name, make in PATHS.items():
        path = make()
        yield (f"`{name}`", path.cost, _mark(path.completes))


def _metrics() -> Rows:
    from patching.metrics import METRICS

    yield ("In the shell", "In Python", "What it is")
    for name, metric in METRICS.items():
        yield (f"`{name}`", _api(metric), _says(metric))


def _tasks() -> Rows:
    from patching.models import TOY_GENERATORS
    from patching.tasks import FAMILIES

    yield ("`--task`", "What it asks", "Other corruptions and forms (`NAME:CORRUPTION`)", "Source")
    for name, family in FAMILIES.items():
        others = ", ".join(f"`{other}`" for other in (*family.corruptions[1:], *family.forms))
        yield (f"`{name}`", family.asks, others or "–", _linked(family.source))
    for name in sorted({*TOY_GENERATORS} - {*FAMILIES}):
        yield (f"`{name}`", _says(TOY_GENERATORS[name]), "–", "for `toy` and `toy-llama`")


def _formats() -> Rows:
    from circuits.export import FORMATS

    yield ("Suffix", "For", "Read back", "Does not hold")
    for suffix, entry in FORMATS.items():
        yield (f"`{suffix}`", entry.what, _mark(entry.read is not None), ", ".join(entry.loses))


TABLES: dict[str, Callable[[], Rows]] = {
    "edge scorers": _scorers,
    "laws": _laws,
    "neuron methods": _neurons,
    "token methods": _tokens,
    "rules": _rules,
    "paths": _paths,
    "metrics": _metrics,
    "tasks": _tasks,
    "formats": _formats,
}
