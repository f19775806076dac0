"""Does the model do the task, and do the corrupt prompts take it away? Row by row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.circuit import Circuit
from circuits.doctor.finding import Finding, at_least, at_most, named
from circuits.reporting.report import MIN_GAP, MIN_SHARE_RIGHT, Verdict, usable
from circuits.running.evaluation import evaluate_all
from patching.ablations import zero
from patching.files.brief import briefly
from patching.metrics import WITHOUT_GRADIENT, Metric, accuracy, kl, measure
from patching.model import Model
from patching.modes import without_gradients
from patching.suited import telling
from patching.tasks.task import Task

BATCH = 32
MOST_WRONG_SIGNED = 0.25
LEAST_ACCURATE = 0.5
MOST_RIGHT_WHEN_CORRUPT = 0.9


@briefly
@dataclass(frozen=True, eq=False)
class Behaviour:
    """The metric and accuracy of every row in both runs, and what tells right from wrong.

    `telling` is positive where the model prefers the answer: the metric itself, or what stands in
    for one that cannot tell (the difference from wrong answers for `kl`).
    """

    rows: tuple[int, ...]
    clean: Float[Tensor, " row"]
    corrupt: Float[Tensor, " row"]
    telling: Float[Tensor, " row"]
    telling_corrupt: Float[Tensor, " row"]
    right: Float[Tensor, " row"]
    right_corrupt: Float[Tensor, " row"]

    @property
    def ability(self) -> Verdict:
        """Whether the model can do the task: the rule that `circuits discover` goes by."""
        return usable(self.telling, self.clean, self.corrupt)


def observe_text(model: Model, task: Task, metric: Metric, rows: Sequence[int]) -> Behaviour:
    """Run a text whole, and with every writer replaced by zeros: it has no corrupt prompts.

    Raises:
        ValueError: if the metric cannot be measured on a row.
    """
    sign = telling(metric, task.prompts)
    metrics, full = (metric, sign, accuracy), [Circuit.full(model.graph)]
    runs = evaluate_all(model, task, full, metrics, ablation=zero, batch_size=BATCH)
    return Behaviour(tuple(rows), *(side for run in runs for side in (run.clean, run.corrupt)))


@without_gradients
def observe(model: Model, task: Task, metric: Metric, rows: Sequence[int]) -> Behaviour:
    """Run clean and corrupt prompts once and measure every row.

    Raises:
        ValueError: if the metric cannot be measured on a row.
    """
    sign = telling(kl if metric in WITHOUT_GRADIENT else metric, task.prompts)
    columns: list[list[Tensor]] = [[] for _ in range(6)]
    for batch in task.batches(BATCH, model.device):
        runs = [model.answer_logits(prompts, batch) for prompts in (batch.clean, batch.corrupt)]
        batch = replace(batch, clean_logits=runs[0])
        found = [measure(m, run, batch) for m in (metric, sign, accuracy) for run in runs]
        for column, values in zip(columns, found, strict=True):
            column.append(values.double().cpu())
    return Behaviour(tuple(rows), *(torch.cat(column) for column in columns))


def judge(seen: Behaviour, metric: Metric, *, text: bool = False) -> list[Finding]:
    """What the runs say of the task; of a `text`, nobody expects most tokens to be foreseen."""
    if text:
        return [_prefers(seen), _gap(seen, metric), _signs(seen)]
    return [
        _prefers(seen),
        _gap(seen, metric),
        _signs(seen),
        _accuracy(seen),
        _corrupt(seen),
    ]


def usable_rows(seen: Behaviour, task: Task) -> Finding:
    """How many rows there are on which the model prefers the answer and the pair has a gap.

    Those with answers of one token apart from those with several.
    """
    good = ((seen.telling > 0) & (seen.clean > seen.corrupt)).tolist()
    long = [prompt.is_long for prompt in task.prompts]
    several = sum(is_good for is_good, is_long in zip(good, long, strict=True) if is_long)
    needed = math.ceil(MIN_SHARE_RIGHT * len(task))
    return Finding(
        name="usable rows",
        subject="task",
        verdict=at_least(sum(good), needed),
        measured=sum(good),
        threshold=needed,
        unit=f"of {len(task)} rows, {several} of several tokens",
        means=f"{sum(good) - several} of {len(task) - sum(long)} rows with answers of one token "
        f"and {several} of {sum(long)} with several: the answer is preferred, and more so than on "
        "the corrupt prompt.",
        advice="Take rows whose answers the model knows.",
        more_is_better=True,
    )


def _prefers(seen: Behaviour) -> Finding:
    share = seen.ability.share_right
    wrong = seen.telling <= 0
    verdict = at_least(share, MIN_SHARE_RIGHT, MIN_SHARE_RIGHT)
    swapped = share < 1 - MIN_SHARE_RIGHT and seen.ability.gap < 0
    return Finding(
        name="prefers the answer",
        more_is_better=True,
        subject="task",
        verdict=verdict,
        measured=share,
        threshold=MIN_SHARE_RIGHT,
        unit="of clean rows",
        means=f"It prefers a wrong answer in {named(_rows(seen, wrong))}."
        if wrong.any()
        else "On every clean prompt the model prefers the answer.",
        advice="Answers and wrong answers, or clean and corrupt prompts, look swapped: "
        "exchange them."
        if swapped
        else "Take a task that this model can do, or a model that can do this task.",
        rows=_rows(seen, wrong),
        drop=verdict == "good" and bool(wrong.any()),
    )


def _gap(seen: Behaviour, metric: Metric) -> Finding:
    ability = seen.ability
    ratio = ability.gap / ability.spread if ability.spread else _signed_infinity(ability.gap)
    verdict = at_least(ratio, MIN_GAP, MIN_GAP) if ratio else "unusable"
    means = f"Clean minus corrupt {metric.__name__}: {ability.gap:+.3g}, spread over rows "
    means += f"{ability.spread:.3g}; {float(seen.clean.mean()):+.3g} in the clean run."
    advice = "Corrupt prompts must take the behaviour away; larger must be better."
    if ability.gap < 0 and float((seen.telling_corrupt > 0).double().mean()) > MIN_SHARE_RIGHT:
        advice = "The corrupt prompts do better: exchange clean and corrupt."
    return Finding(
        name="gap between clean and corrupt",
        more_is_better=True,
        subject="task",
        verdict=verdict,
        measured=ratio,
        threshold=MIN_GAP,
        unit="spreads",
        means=means,
        advice=advice,
        details=(("mean", ability.gap), ("spread", ability.spread)),
    )


def _signs(seen: Behaviour) -> Finding:
    wrong = seen.clean <= seen.corrupt
    share = float(wrong.double().mean())
    return Finding(
        name="rows with a gap of the wrong sign",
        subject="task",
        verdict=at_most(share, MOST_WRONG_SIGNED),
        measured=share,
        threshold=MOST_WRONG_SIGNED,
        unit="of the rows",
        means=f"The corrupt prompt does as well or better in {named(_rows(seen, wrong))}: there "
        "the faithfulness of a circuit means nothing."
        if share
        else "In every row the clean prompt does better.",
        advice="Make corrupt prompts that differ in what the answer hangs on; rows dropped for "
        "what the model does must be told of.",
        rows=_rows(seen, wrong),
        drop=0 < share <= 0.5,
    )


def _accuracy(seen: Behaviour) -> Finding:
    share = float(seen.right.mean())
    return Finding(
        name="accuracy on clean prompts",
        more_is_better=True,
        subject="task",
        verdict=at_least(share, LEAST_ACCURATE),
        measured=share,
        threshold=LEAST_ACCURATE,
        unit="of clean rows",
        means="The most likely token of the whole vocabulary is an answer.",
        advice="The model would say something else: its preference "
        "between the answers may be a by-product. Look at what it says.",
        rows=_rows(seen, seen.right == 0),
    )


def _corrupt(seen: Behaviour) -> Finding:
    share = float((seen.telling_corrupt > 0).double().mean())
    accurate = float(seen.right_corrupt.mean())
    return Finding(
        name="prefers the answer when corrupt",
        subject="task",
        verdict=at_most(share, MOST_RIGHT_WHEN_CORRUPT),
        measured=share,
        threshold=MOST_RIGHT_WHEN_CORRUPT,
        unit="of corrupt rows",
        means=f"On corrupt prompts the answer should be lost; accuracy there is {accurate:.0%}.",
        advice="The answer can be had without what differs: corrupt "
        "more, or expect circuits that miss part of the behaviour.",
        details=(("accuracy", accurate),),
    )


def _rows(seen: Behaviour, chosen: Bool[Tensor, " row"]) -> tuple[int, ...]:
    return tuple(number for number, is_in in zip(seen.rows, chosen.tolist(), strict=True) if is_in)


def _signed_infinity(gap: float) -> float:
    return float("inf") if gap > 0 else float("-inf")
