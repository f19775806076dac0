"""docs/real.md: made of facts alone."""

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from benchmarks.real.facts import COST, Fact

HEAD = """# Methods and circuits on a real model

<!-- Written by `make real MODEL=FOLDER`: change benchmarks/real/page.py instead. -->

Every number is one of [one file](real.csv), or a mean over splits of some of it. A split is some
prompts to find on and as many others to judge on; no prompt is in two splits. Intervals are of
95 %, over judging prompts, as if splits had been drawn by themselves."""

METHODS_SAY = """Circuits of the best edges by absolute score, pruned: the share they keep of
the clean-corrupt gap at sizes from 0.1 to 10 % of the edges. Areas over MIB's ten sizes: CMD, 0
is best, on the logarithmic and the linear axis; CPR by signed score. `auto` compares circuits
of 1 % of the edges on quarters of the prompts, by scores of the other three and three selectors,
keeps the best, and pays for what its recipes score. Behind a comma stands a selector that is not
`top_n`. *passes* are plain forward and backward ones by count, *s* is time of one
core's own (not of the clock, but other work on the machine still slows it), *MB* peak memory
above what was in use: the first scoring of a process pays for what later ones find in place."""

BY_SIZE, SMOOTHED = ", by size", ", smoothed"
KEPT = ("0.1%", "0.3%", "1.0%", "3.0%", "10.0%")
AREAS = ("log CMD", "CMD", "CPR")
COSTS = ("passes", "seconds", "megabytes")
LABELS = {"seconds": "s", "megabytes": "MB", **{name: name.replace("%", " %") for name in KEPT}}


def page(facts: Sequence[Fact]) -> str:
    """The whole page; parts that were not measured are left out, or said to be so."""
    parts = [HEAD, *_cost(facts)]
    makers: tuple[Callable[[Sequence[Fact]], list[str]], ...] = (
        _summary,
        _selectors,
        _methods,
        _circuits,
        _nodes,
        _rivals,
        _searches,
    )
    for make in makers:
        parts += make(facts)
    return "\n\n".join(parts) + "\n"


def _cost(facts: Sequence[Fact]) -> list[str]:
    """What all of it took."""
    hours = sum(fact.value for fact in _of(facts, COST)) / 3600
    return [f"Its cells took {hours:.1f} hours of one core, all together."] if hours else []


def _summary(facts: Sequence[Fact]) -> list[str]:
    """Is `auto` as good as the best single method, by log CMD?"""
    rows = []
    for task, of_task in _groups(_of(facts, "method"), "task").items():
        means = {name: _mean(some, "log CMD") for name, some in _groups(of_task, "of").items()}
        own = means.pop("auto", None)
        means = {name: mean for name, mean in means.items() if "," not in name}
        if own is None or not means:
            continue
        best = min(means, key=lambda name: means[name].value)
        within = "yes" if own.value <= means[best].high else "**no**"
        rows.append([task, _code(best), _range(means[best]), f"{own.value:.3f}", within])
    if not rows:
        return []
    head = ["task", "best single method", "its log CMD", "`auto`", "within its interval, or better"]
    return ["## `auto` against the best", _table(head, rows, "lllrl")]


def _methods(facts: Sequence[Fact]) -> list[str]:
    parts = []
    for task, of_task in _groups(_of(facts, "method"), "task").items():
        splits = sorted({fact.split + 1 for fact in of_task})
        methods = _groups(of_task, "of")
        n = {name: len({fact.split for fact in some}) for name, some in methods.items()}
        parts += [f"### {task}", f"Splits measured: {', '.join(map(str, splits))} of 3."]
        rows = []
        for name, some in sorted(methods.items(), key=lambda item: _mean(item[1], "log CMD").value):
            less = f" ({n[name]} of {len(splits)})" if n[name] < len(splits) else ""
            rows.append([_code(name) + less, *_numbers(some)])
        head = ["method", *(LABELS.get(at, at) for at in (*KEPT, *AREAS, *COSTS))]
        parts.append(_table(head, rows, "l" + "r" * (len(head) - 1)))
        kept = [fact.said for fact in of_task if fact.name == "kept" and fact.said]
        parts += [f"`auto` kept, split by split: {'; '.join(kept)}."] if kept else []
    return ["## Cheap methods", METHODS_SAY, *parts] if parts else []


def _numbers(facts: Sequence[Fact]) -> list[str]:
    """A method's columns."""
    means = {name: _mean(facts, name) for name in (*KEPT, *AREAS, *COSTS)}
    row = [_number(means[at].value, 2) for at in KEPT]
    row += [_range(means["log CMD"]), _number(means["CMD"].value, 3)]
    row += [_number(means["CPR"].value, 2)]
    return [*row, *(_number(max(means[at].value, 0.0), int(at == "passes")) for at in COSTS)]


SELECTORS_SAY = """`top_n` takes the largest means of scores over prompts, `by_mean_size` the
largest means of their sizes, `by_smoothed_size` means of sizes smoothed by those of an edge's ends,
`auto` what it kept. *kept* is by circuits of 1 % of the edges, pruned; *shared* the Jaccard index
of the circuits of two resamples of the prompts that were scored, before pruning."""

SELECTED = {
    "eap-ig": "top-n",
    f"eap-ig{BY_SIZE}": "mean-size",
    f"eap-ig{SMOOTHED}": "smoothed-size",
}
"""Methods of one kind of scores, with their selectors."""


def _selectors(facts: Sequence[Fact]) -> list[str]:
    """What selectors do to what is kept, and how steady circuits are."""
    rows = []
    for task, of_task in _groups(_of(facts, "method"), "task").items():
        methods = _groups(of_task, "of")
        some = [methods[name] for name in (*SELECTED, "auto") if name in methods]
        if len(some) <= len(SELECTED):
            continue
        shared = [[f.value for f in one if f.name.startswith("shared, ")] for one in some]
        if not all(shared):
            continue
        kept = [_range(_mean(one, "1.0%"), 2) for one in some]
        row = [task, f"{len({fact.split for fact in some[0]})}"]
        rows.append([*row, *kept, *(_number(fmean(values), 2) for values in shared)])
    names = [f"`eap-ig`, {selector}" for selector in SELECTED.values()] + ["`auto`"]
    head = ["task", "splits", *(f"kept: {n}" for n in names), *(f"shared: {n}" for n in names)]
    said = ["## Which edges are taken", SELECTORS_SAY, _table(head, rows, "lr" + "l" * 4 + "r" * 4)]
    return said if rows else []


CIRCUITS_SAY = """The smallest circuit by what `auto` kept that keeps 80 % on the
prompts it was found on (first split), and its heads whose edges score most. *looks like*: by
where the last position attends most (span and share), by what the head adds to the answers'
logits directly (*promotes*, in shares of the clean metric), and by attention to the token
before, to earlier mentions of a token and to what followed those. *lost* is exact: the share of
the gap lost when the head's edges are removed from the whole model: all of them; those to the
logits; to the queries of heads listed that write; to other inputs of heads listed. A role is
refuted where what it asks does not go its way: a head that writes must lose half of what it is
worth by its edge to the logits, one that writes against must gain there, S-inhibition must lose
a third of its worth by the writers' queries, any other by the heads listed. Names of roles:
Wang et al. 2022, arXiv:2211.00593."""

_LOST = ("all", "to the logits", "to writers' queries", "to other inputs")


def _circuits(facts: Sequence[Fact]) -> list[str]:
    parts = []
    for task, of_task in _groups(_of(facts, "circuit", "head"), "task").items():
        whole = {fact.name: fact for fact in of_task if fact.part == "circuit"}
        kept = whole["held out"]
        parts += [
            f"### {task}: heads",
            f"{whole['edges'].value:,.0f} edges keep {_range(kept, 2)} on other prompts.",
        ]
        if any(fact.name == "picture" for fact in of_task):
            file = f"pictures/real-{task.replace(':', '-')}.svg"
            parts.append(f"![The strongest edges of {task}, and heads whose roles hold]({file})")
        rows = []
        for head, some in _groups(_of(of_task, "head"), "of").items():
            named = {fact.name: fact for fact in some}
            rows.append(
                [
                    head,
                    named["role"].said,
                    named["test"].said,
                    f"{named['attends'].said} {named['attends'].value:.2f}",
                    f"{named['promotes'].value:+.2f}",
                    *(f"{named[way].value:+.2f}" for way in _LOST),
                ]
            )
        head = ["head", "looks like", "test", "attends", "promotes", *(f"lost: {w}" for w in _LOST)]
        parts.append(_table(head, rows, "llllrrrrr"))
    return ["## Circuits of `auto`, and what their heads do", CIRCUITS_SAY, *parts] if parts else []


NODES_SAY = """Pearson's r of estimates with exact patching (denoising) over layers and
positions, two prompts of one length: attribution patching (*plain*), RelP, and attribution
along five steps of the inputs."""


def _nodes(facts: Sequence[Fact]) -> list[str]:
    rows, refused = [], []
    for task, of_task in _groups(_of(facts, "nodes"), "task").items():
        refused += [f"{task}: {fact.said}." for fact in of_task if fact.name == "refused"]
        for kind, some in _groups([f for f in of_task if f.of], "of").items():
            r = {fact.name: fact.value for fact in some}
            rows.append([task, kind, *(f"{value:.3f}" for value in r.values())])
    names = list(dict.fromkeys(fact.name for fact in _of(facts, "nodes") if fact.of))
    if not rows:
        return []
    table = _table(["task", "activation", *map(_code, names)], rows, "ll" + "r" * len(names))
    return ["## Nodes", NODES_SAY, table, *refused]


def _rivals(facts: Sequence[Fact]) -> list[str]:
    parts = []
    for task, of_task in _groups(_of(facts, "rivals"), "task").items():
        search = {fact.name: fact for fact in of_task if fact.of == "search"}
        rows = []
        for number, some in _groups([f for f in of_task if f.of != "search"], "of").items():
            one = {fact.name: fact for fact in some}
            row = [number, f"{one['edges'].value:,.0f}", f"{one['largest overlap'].value:.3f}"]
            rows.append([*row, *(_range(one[at], 2) for at in ("search prompts", "held out"))])
        head = ["circuit", "edges", "largest overlap", "kept, search prompts", "kept, held out"]
        parts += [
            f"### {task}: rivals",
            f"{search['ended'].said} {search['circuits run'].value:.0f} circuits were run for it, "
            f"in {search['seconds'].value:.0f} s of one core. Without any of their edges the whole "
            f"model keeps {_range(search['without'], 2)} on the search's prompts.",
            _table(head, rows, "lrrrr"),
        ]
    return ["## Other circuits that keep as much", *parts] if parts else []


def _searches(facts: Sequence[Fact]) -> list[str]:
    parts = []
    for task, of_task in _groups(_of(facts, "search"), "task").items():
        rows = []
        for name, some in _groups(of_task, "of").items():
            one = {fact.name: fact for fact in some}
            row = [_code(name), f"{one['edges'].value:,.0f}", _range(one["1.0%"], 2)]
            rows.append([*row, f"{one['seconds'].value:.0f}"])
        parts += [f"### {task}: searches", _table(["method", "edges", "kept", "s"], rows, "lrrr")]
    said = """Circuits of at most 1 % of the edges, first split: budgeted search with 200 runs
from three recipes along the inputs, edge pruning and UGS with 100 steps from scratch (their papers
take thousands)."""
    return ["## Searched and learned", said, *parts] if parts else []


def _of(facts: Iterable[Fact], *parts: str) -> list[Fact]:
    return [fact for fact in facts if fact.part in parts]


def _groups(facts: Iterable[Fact], by: str) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(str(getattr(fact, by)), []).append(fact)
    return found


def _mean(facts: Iterable[Fact], name: str) -> Fact:
    """Over splits; half widths of the interval add up as standard errors do."""
    some = [fact for fact in facts if fact.name == name]
    if not some:
        return Fact("", "", "", -1, name)
    value = fmean(fact.value for fact in some)
    below = math.hypot(*(fact.value - fact.low for fact in some)) / len(some)
    above = math.hypot(*(fact.high - fact.value for fact in some)) / len(some)
    first = some[0]
    return Fact(first.part, first.task, first.of, -1, name, value, value - below, value + above)


def _range(fact: Fact, digits: int = 3) -> str:
    value, low, high = (f"{number:.{digits}f}" for number in (fact.value, fact.low, fact.high))
    return f"{value} ({low} to {high})"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _code(name: str) -> str:
    return f"`{name}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    lines = [head, ["---:" if side == "r" else "---" for side in sides], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
