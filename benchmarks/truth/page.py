"""The page of the docs: what is measured, the tables, and who loses where. All of it generated."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from benchmarks.truth.cells import Cell, estimate
from benchmarks.truth.contenders import BASELINE, RANDOM
from benchmarks.truth.subjects import FULL
from patching.intervals import Estimate

GOOD = 0.95
"""An AUROC below this says that true edges were missed."""

KNOWN_COLUMNS = {
    "AUROC": "auroc",
    "AUPRC": "auprc",
    "true edges found": "recovered",
}
TRAINED_COLUMNS = {
    "CMD": "cmd",
    "CPR": "cpr",
    "1 %": "kept_1",
    "5 %": "kept_5",
    "10 %": "kept_10",
    "Pearson": "pearson",
}

INTRODUCTION = """\
# Which method finds true circuits

<!-- Written by `make truth`: change benchmarks/truth/page.py instead. -->

Every scorer, search and learned mask of the project on models whose circuit is known, and on
trained models whose effects were all measured. `make truth` makes this page, its pictures and
[the full table](truth.csv) anew; without its `--learned`, the masks are left out
([what they are](how-to/search.md)), which take most of the time.

**Cost** is processor time on one thread, in plain forward and backward passes of the Hugging Face
model over the same prompts, timed in between: the median over rounds, then over tasks. The models
are tiny, so that fixed work weighs more than in a large one; and exact patching costs less, for its
cost grows with the number of edges.

Intervals, in brackets, are of 95 % over tasks (bootstrap); both formats of a known circuit count as
one task. Edges are ranked by absolute score. `rule x path` are combinations without a name of their
own. `, greedy` grows circuits from the logits down instead of taking the best edges, and so has no
scores to judge. Masks (`edge-pruning`, `ugs`, those in `hybrid`) are trained once a task, for the
middle size, and choose the circuits of the other sizes too. `random` is the mean of five draws.
"""

KNOWN_LOSS = "On known circuits, those of the true size find clearly"

KNOWN = """\
## Known circuits

{n} models wired by code ([which](models.md#embedded)), {formats}. The true edges
are those **active** under the task's counterfactual: edges that carry the same in both runs cannot
have an effect, and no method is marked down for them. AUROC: the chance that a true edge has more
score than another (0.5 by chance). AUPRC: average precision. *True edges found*: their share in
the circuit of as many edges as the true one has. *Worst*: the least AUROC, and where. Compiled
programs (Tracr) are left out: their MLPs are step functions without a slope, on which gradients
fail alike, so that they tell no method from another; the tests check exact patching on them.

![Cost against quality on known circuits](pictures/truth-known.svg)
"""

TRAINED = """\
## Trained models

Circuits are found on {found} prompts of a task and judged on others, by logit difference under
resample ablation. Faithfulness at 1, 5 and 10 % of the edges, pruned: 1 is the whole model, 0 the
corrupt run. CMD (0 is best, 0.75 keeps nothing) and CPR (1 is like the model; more is overshooting)
are [areas over all sizes](how-to/judge.md). Pearson is with the exact effect of every edge, in
float64. The best 1 % of the edges seldom connect, and then pruning leaves nothing of them. Models
that are not embedded came by `--model FOLDER --tasks FILES --add`: found on one half of a file,
judged on the other, and without a Pearson.

![Cost against quality on trained models](pictures/truth-trained.svg)
"""


SINGLE = ("eap", "eap-ig", "relp", "gim", "relp x inputs", "gim x inputs")
"""Single cheap methods, of which `auto` is to be as good as the best."""

CHOSEN = """\
## `auto` against the best single method

`auto` compares circuits of 5 % of the edges on parts of the search's prompts that their scores have
not seen, by three selectors. Beside it the
single cheap method whose circuits of that size are nearest to the model on held-out prompts, which
is known only afterwards, of {singles}.
On known circuits `auto` finds {found:.2f} of the true edges, the best single method, `{best}`,
{best_found:.2f}.
"""


def page(cells: Sequence[Cell]) -> str:
    """The whole page, as Markdown."""
    known, trained = by_kind(cells)
    parts = [INTRODUCTION, "## Who loses where\n", *losses(cells)]
    if known:
        models = {cell.model for cell in known}
        n_llama = sum(model.endswith("-llama") for model in models)
        formats = f"{len(models) - n_llama} in GPT-2's format and {n_llama} as a Llama"
        parts += [KNOWN.format(n=len(models), formats=formats), known_table(known)]
    parts += chosen_table(known, trained)
    if trained:
        parts.append(TRAINED.format(found=FULL.found))
    for model, of_model in groups(trained).items():
        n = len({cell.task for cell in of_model})
        parts += [f"### `{model}`, {n} tasks\n", trained_table(of_model)]
    return "\n".join(parts)


def by_kind(cells: Iterable[Cell]) -> tuple[list[Cell], list[Cell]]:
    """Those of known circuits, and those of trained models."""
    known: list[Cell] = []
    trained: list[Cell] = []
    for cell in cells:
        (known if cell.subject.is_known else trained).append(cell)
    return known, trained


def groups(cells: Iterable[Cell], field: str = "model") -> dict[str, list[Cell]]:
    """Cells by model, method or task."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(getattr(cell, field), []).append(cell)
    return found


def known_table(cells: Sequence[Cell]) -> str:
    """One row per method, the best average precision first."""
    methods = groups(cells, "method")
    order = sorted(methods, key=lambda name: -_key(methods[name], "auprc", "recovered"))
    rows = []
    for name in order:
        worst = min(methods[name], key=lambda cell: _or(cell.auroc, 2.0))
        where = "–" if worst.auroc is None else f"{worst.auroc:.2f} `{worst.model}`"
        where = "1.00" if worst.auroc == 1 else where
        numbers = [_shown(estimate(methods[name], m)) for m in KNOWN_COLUMNS.values()]
        rows.append([f"`{name}`", *numbers, where, _cost(methods[name])])
    return _table(["method", *KNOWN_COLUMNS, "worst", "cost"], rows)


def trained_table(cells: Sequence[Cell]) -> str:
    """One row per method of one model, the most faithful at 10 % of the edges first."""
    methods = groups(cells, "method")
    order = sorted(methods, key=lambda name: -_key(methods[name], "kept_10", "kept_10"))
    rows = [
        [
            f"`{name}`",
            *(_shown(estimate(methods[name], m)) for m in TRAINED_COLUMNS.values()),
            _cost(methods[name]),
        ]
        for name in order
    ]
    return _table(["method", *TRAINED_COLUMNS, "cost"], rows)


def chosen_table(known: Sequence[Cell], trained: Sequence[Cell]) -> list[str]:
    """Where what was chosen by evidence is within the interval of the best single method."""
    edges = {name: estimate(of, "recovered") for name, of in groups(known, "method").items()}
    found = {name: e.value for name, e in edges.items() if e and name in (*SINGLE, "auto")}
    rows = []
    for of_subject in groups(trained, "subject").values():
        by_name = {cell.method: cell for cell in of_subject if cell.kept_5 is not None}
        single = [by_name[name] for name in SINGLE if name in by_name]
        if "auto" not in by_name or not single:
            continue
        best, own = min(single, key=_off), by_name["auto"]
        theirs, ours = _at_5(best), _at_5(own)
        within = theirs.low <= ours.value <= theirs.high or _off(own) <= _off(best)
        said = [best.model, best.task, f"`{best.method}`", _shown(theirs), _shown(ours)]
        rows.append([*said, "yes" if within else "**no**"])
    if "auto" not in found or len(found) < 2 or not rows:
        return []
    own = found.pop("auto")
    best = max(found, key=lambda name: found[name])
    names = ", ".join(f"`{name}`" for name in SINGLE)
    text = CHOSEN.format(singles=names, found=own, best=best, best_found=found[best])
    head = ["model", "task", "best single method", "kept by it", "by `auto`", "within, or nearer"]
    return [text, _table(head, rows)]


def _at_5(cell: Cell) -> Estimate:
    """What circuits of 5 % of the edges keep."""
    values = cell.kept_5, cell.kept_5_low, cell.kept_5_high
    return Estimate(*(_or(value, 0.0) for value in values))


def _off(cell: Cell) -> float:
    """How far circuits of 5 % of the edges are from the model."""
    return abs(1 - _at_5(cell).value)


def losses(cells: Sequence[Cell]) -> list[str]:
    """Who loses where, in words made from the numbers."""
    known, trained = by_kind(cells)
    lines = [*_missed(known)]
    for other in (BASELINE, RANDOM):
        lines += _against(known, "recovered", other, KNOWN_LOSS)
    for model, of_model in groups(trained).items():
        where = f"On `{model}`, circuits of 10 % of the edges keep clearly"
        for other in (BASELINE, RANDOM):
            lines += _against(of_model, "kept_10", other, where)
    return [f"- {line}" for line in lines] + [""]


def _missed(cells: Sequence[Cell]) -> list[str]:
    """Which methods miss edges of known circuits."""
    methods = groups([cell for cell in cells if cell.auroc is not None], "method")
    perfect = [name for name, of in methods.items() if all(c.auroc == 1 for c in of)]
    lines = [f"AUROC 1 on every known circuit: {_names(perfect)}."] if methods else []
    for name, of_method in methods.items():
        bad = sorted((c for c in of_method if _or(c.auroc, 1.0) < GOOD), key=_auroc)
        if bad and name != RANDOM:
            worst = ", ".join(f"`{cell.model}` {_auroc(cell):.2f}" for cell in bad[:3])
            more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
            count = f"{len(bad)} of {len(of_method)} known circuits"
            lines.append(f"`{name}` misses true edges (AUROC < {GOOD}) of {count}: {worst}{more}.")
    return lines


def _against(cells: Sequence[Cell], measure: str, other: str, where: str) -> list[str]:
    """Who is clearly below, or above, another method by a measure: paired over tasks."""
    methods = groups(cells, "method")
    if other not in methods:
        return []
    reference = {cell.subject: cell for cell in methods[other]}
    worse, better = [], []
    for name, of_method in methods.items():
        pairs = [_minus(cell, reference[cell.subject], measure) for cell in of_method]
        found = estimate(pairs, measure)
        if name in (other, RANDOM) or found is None:
            continue
        (worse if found.high < 0 else better if found.low > 0 else []).append((name, found))
    lines = [f"{where} less than those of `{other}`: {_ranked(worse)}."]
    if other == BASELINE:
        lines.append(f"{where} more than those of `{other}`: {_ranked(better)}.")
    return lines


def _minus(cell: Cell, other: Cell, measure: str) -> Cell:
    a, b = cell.measure(measure), other.measure(measure)
    return replace(cell, **{measure: None if a is None or b is None else a - b})


def _ranked(found: Sequence[tuple[str, Estimate]]) -> str:
    ordered = sorted(found, key=lambda item: -abs(item[1].value))
    return ", ".join(f"`{name}` ({value.value:+.2f})" for name, value in ordered) or "none"


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _auroc(cell: Cell) -> float:
    return _or(cell.auroc, 2.0)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _key(cells: Sequence[Cell], measure: str, instead: str) -> float:
    found = estimate(cells, measure) or estimate(cells, instead)
    return found.value if found else -1.0


def _cost(cells: Sequence[Cell]) -> str:
    cost = median_cost(cells)
    return "–" if cost is None else f"{cost:.2g}" if cost < 9.95 else f"{cost:.0f}"


def median_cost(cells: Iterable[Cell]) -> float | None:
    """The median cost over subjects."""
    costs = sorted(cell.cost for cell in cells if cell.cost is not None)
    return costs[len(costs) // 2] if costs else None


def _shown(found: Estimate | None) -> str:
    """A number with its interval, which one task or equal ones do not have."""
    if found is None:
        return "–"
    low, high = _digits(found.low), _digits(found.high)
    interval = "" if low == high or found.low != found.low else f" [{low}, {high}]"
    return _digits(found.value) + interval


def _digits(x: float) -> str:
    text = f"{x:.2f}"
    return "0.00" if text == "-0.00" else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    marks = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, marks, *rows)) + "\n"
