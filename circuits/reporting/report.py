"""The report of a search: can the model do the task, and how good is the circuit?

Makes Markdown from measured numbers; runs no model.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.scores import Ranking
from patching.files.visible import in_markdown, visible

if TYPE_CHECKING:
    from circuits.judging.resampling import Resampled

MIN_SHARE_RIGHT = 0.6
MIN_GAP = 0.1
SIGN = (
    "A positive score means that the edge helps the metric in the clean run; a negative one, that "
    "it works against it. Scores are in units of the metric."
)
BY_CHANCE = (
    "Random paths are the control: circuits of as many edges, all on paths from embed to logits, "
    "drawn at random."
)
_MACHINERY = ("memory",)
_NOTHING: tuple[object, ...] = (None, [], (), {}, "")
_FAITHFULNESS = (
    "Faithfulness = (circuit - empty) / (clean - empty), of means over the prompts: 1 is the whole "
    "model, 0 the empty circuit, which under resampling is the corrupt run. Edges outside a "
    "circuit are ablated: {ablation}."
)


def explain_faithfulness(ablation: str) -> str:
    """What the number means, under the ablation it was measured with."""
    return _FAITHFULNESS.format(ablation=ablation)


@dataclass(frozen=True)
class Verdict:
    """Whether the model can do a task, and why.

    `share_right` is the fraction of clean prompts with a positive metric; `gap` the mean of clean
    minus corrupt, `spread` its standard deviation over the prompts, both in units of the metric.
    """

    share_right: float
    gap: float
    spread: float

    @property
    def can_do(self) -> bool:
        """Whether a circuit found on the task can mean something."""
        return self.share_right >= MIN_SHARE_RIGHT and self.gap > 0 and not self.gap_is_small

    @property
    def gap_is_small(self) -> bool:
        """Whether clean and corrupt prompts hardly differ, compared with the prompts' spread."""
        return self.gap < MIN_GAP * self.spread

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.can_do:
            return (
                f"The model can do this task: it prefers the answer on {self.share_right:.0%} of "
                "the clean prompts."
            )
        return f"The model cannot do this task: {'; '.join(self._reasons())}."

    def _reasons(self) -> list[str]:
        reasons = []
        if self.share_right < MIN_SHARE_RIGHT:
            reasons.append(
                f"it prefers the answer on only {self.share_right:.0%} of the clean prompts "
                f"({MIN_SHARE_RIGHT:.0%} needed)"
            )
        if not self.gap > 0:
            reasons.append(f"clean prompts do no better than corrupt ones (gap {self.gap:+.3g})")
        elif self.gap_is_small:
            reasons.append(
                f"the clean-corrupt gap of {self.gap:.3g} is lost in its spread of "
                f"{self.spread:.3g} over the prompts"
            )
        return reasons


@dataclass(frozen=True)
class Measured:
    """A circuit's size and what it reached; `faithfulness` is None where clean = corrupt."""

    edges: int
    metric: float
    faithfulness: float | None


@dataclass(frozen=True)
class Findings:
    """Everything a report says. `sizes` are circuits of the same selector, `random` of no one."""

    circuit: Circuit
    ranking: Ranking
    metric_name: str
    verdict: Verdict
    prompts: str
    clean: float
    corrupt: float
    found: Measured
    sizes: Sequence[Measured]
    random: Sequence[Measured]
    settings: Mapping[str, object]
    examples: Sequence[str] = ()
    resampled: "Resampled | None" = None


def usable(
    telling: Float[Tensor, " example"],
    clean: Float[Tensor, " example"],
    corrupt: Float[Tensor, " example"],
) -> Verdict:
    """Judge whether a model can do a task.

    It cannot if fewer than 60 % of the clean prompts get a positive value, or if the mean gap
    between clean and corrupt has the wrong sign or is below 10 % of its standard deviation.

    Args:
        telling: per clean prompt, positive where the model prefers the answer.
        clean: the metric in the clean run.
        corrupt: the metric in the corrupt run.
    """
    gaps = (clean - corrupt).double()
    return Verdict(
        share_right=float((telling > 0).double().mean()),
        gap=float(gaps.mean()),
        spread=float(gaps.std(correction=0)),
    )


def readable(metric_name: str, value: float) -> str:
    """A metric for people: KL is shown positive, though inside it is negated."""
    return f"{-value + 0.0:#.4g}" if metric_name == "kl" else f"{value:+.3f}"


def title(metric_name: str) -> str:
    """A metric's name for people, with its unit and direction."""
    return {
        "logit-diff": "logit difference",
        "prob-diff": "probability difference",
        "kl": "KL from the clean run (nats, smaller is better)",
    }.get(metric_name, metric_name)


def percent(faithfulness: float | None) -> str:
    """Faithfulness for people."""
    return "undefined" if faithfulness is None else f"{round(faithfulness, 3) + 0.0:.1%}"


def of_edge(score: float | None) -> str:
    """An edge's score for people."""
    return "" if score is None else f"{score:+#.3g}"


def stated(provenance: Mapping[str, object]) -> dict[str, str]:
    """What people read of a provenance, in words; what is empty or of the machinery is left out."""
    return {
        field: f"circuits {shlex.join(map(str, value))}"
        if field == "command" and isinstance(value, list | tuple)
        else plain(value)
        for field, value in provenance.items()
        if field not in _MACHINERY and value not in _NOTHING
    }


def plain(value: object) -> str:
    """A value of a provenance in words: a table as `key value, ...`, a missing value as `-`."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in stated(value).items()) or "-"
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def render(findings: Findings, *, figure: str, top: int = 20) -> str:
    """The report as Markdown; `figure` is the file name of the drawing beside it."""
    task, model = (in_markdown(str(findings.settings.get(key))) for key in ("task", "model"))
    prompts = in_markdown(findings.prompts)
    parts = [
        f"# {task} in {model}: a circuit of {findings.circuit.size:,} edges",
        _verdict(findings.verdict),
        "## How good it is",
        f"Measured on {prompts}.{_examples(findings)}",
        _runs(findings),
        *([f"{findings.resampled.sentence}."] if findings.resampled else []),
        explain_faithfulness(in_markdown(str(findings.settings.get("ablation", "resample")))),
        *([BY_CHANCE] if findings.random else []),
        f"![The circuit]({figure})",
        SIGN,
        "## Faithfulness by size",
        f"Circuits of the same scores and selector at other sizes, on {prompts}.",
        _sizes(findings),
        f"## Strongest edges (by {findings.ranking} score)",
        _edges(findings, top),
        "## Settings",
        settings_table(findings.settings),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns after the first are aligned right if they hold numbers."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    numeric = [i > 0 and all(_is_number(row[i]) for row in cells) for i in range(len(head))]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), rule, *cells])


def settings_table(settings: Mapping[str, object]) -> str:
    """Settings as a Markdown table, as text: names in them are other people's."""
    rows = [(in_markdown(key), in_markdown(value)) for key, value in stated(settings).items()]
    return table(("setting", "value"), rows)


def strongest(circuit: Circuit, k: int, ranking: Ranking) -> list[tuple[str, str, float | None]]:
    """The k best edges of a circuit, or the first k of one without scores."""
    edges = circuit.scored_edges()
    signed = ranking == "signed"
    return sorted(edges, key=lambda e: -((e[2] or 0) if signed else abs(e[2] or 0)))[:k]


def _verdict(verdict: Verdict) -> str:
    said = f"**{verdict.sentence}**"
    if verdict.can_do:
        return said
    return f"{said} Scores, circuit and figure were written all the same; they explain nothing."


def _examples(findings: Findings) -> str:
    """Some prompts as code, so that nothing in them is Markdown."""
    if not findings.examples:
        return ""
    lines = "\n".join(f"    {visible(' '.join(one.splitlines()))}" for one in findings.examples)
    return f" The first of them, with their answers:\n\n{lines}"


def _runs(findings: Findings) -> str:
    name, n_edges = findings.metric_name, findings.circuit.graph.n_edges
    found, size = findings.found, findings.circuit.size
    rows = [
        ("clean run (all edges)", f"{n_edges:,}", readable(name, findings.clean), percent(1.0)),
        ("**this circuit**", f"{size:,}", *_reached(name, found)),
        *(
            (f"random paths {i}", f"{r.edges:,}", *_reached(name, r))
            for i, r in enumerate(findings.random, 1)
        ),
        ("no edge", "0", readable(name, findings.corrupt), percent(0.0)),
    ]
    return table(("", "edges", title(name), "faithfulness"), rows)


def _sizes(findings: Findings) -> str:
    n_edges, name = findings.circuit.graph.n_edges, findings.metric_name
    rows = [
        (f"{m.edges:,}", f"{m.edges / n_edges:.2%}", *_reached(name, m)) for m in findings.sizes
    ]
    return table(("edges", "of all edges", title(name), "faithfulness"), rows)


def _edges(findings: Findings, top: int) -> str:
    rows = [
        (str(i), f"`{source}->{dest}`", of_edge(score))
        for i, (source, dest, score) in enumerate(
            strongest(findings.circuit, top, findings.ranking), 1
        )
    ]
    return table(("", "edge", "score"), rows)


def _reached(metric_name: str, measured: Measured) -> tuple[str, str]:
    return readable(metric_name, measured.metric), percent(measured.faithfulness)


def _is_number(cell: str) -> bool:
    return cell[-1:].isdigit() or cell.endswith("%") or cell == "undefined"
