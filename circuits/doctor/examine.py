"""The examination: all checks of a model and, where there is one, of a task."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

import circuits.doctor.agreement as agreement
import circuits.doctor.behaviour as behaviour
import circuits.doctor.cost as cost
import circuits.doctor.pairs as pairs
import circuits.doctor.reach as reach
import circuits.doctor.runs as runs
import circuits.doctor.structure as structure
from circuits.doctor.finding import Finding, Report, Skipped
from circuits.doctor.probes import ROWS, sample
from circuits.doctor.rows import Reading, sound_rows
from patching.ablations import zero
from patching.lens.text import prompt_texts
from patching.memory import is_lack_of_memory
from patching.metrics import Metric, logit_diff
from patching.model import Model
from patching.tasks.task import Task

Found = Finding | Skipped
Check = Callable[[], Finding | list[Finding]]


def examine(
    model: Model,
    task: Task | Reading | None = None,
    metric: Metric = logit_diff,
    *,
    batch_size: int = 16,
) -> Report:
    """Is this model, and this task for it, fit for finding circuits?

    Without a task the checks run on a few random tokens. `batch_size` is what memory is predicted
    for. A file with bad rows is read by `read_rows`, whose sound rows are examined further.

    >>> from patching.models import induction
    >>> report = examine(Model.load("truth/induction"), induction(n=6).task)
    >>> report.of("prefers the answer").measured, report.exit_code
    (1.0, 0)

    Raises:
        ValueError: if the batch size is no number of examples.
    """
    if batch_size < 1:
        raise ValueError(f"a batch holds at least one example, got batch_size={batch_size}")
    reading = sound_rows(task) if isinstance(task, Task) else task
    of_task: list[Found] = []
    fitting = seen = None
    if reading is not None:
        of_task += _static(model, reading)
        fitting = _fitting(model, reading)
    of_model = list(_of_model(model, fitting and fitting.task, metric, batch_size))
    whole = all(f.verdict != "unusable" for f in of_model[:1] if isinstance(f, Finding))
    if fitting is not None and fitting.task is not None and whole:
        observed = _observed(model, fitting, metric)
        seen = observed if isinstance(observed, behaviour.Behaviour) else None
        text = fitting.task.is_text
        judged = behaviour.judge(seen, metric, text=text) if seen else None
        of_task += judged or [_unmeasured(str(observed))]
        if seen and any(prompt.is_long for prompt in fitting.task.prompts):
            of_task.append(behaviour.usable_rows(seen, fitting.task))
        of_task += _of_scores(model, fitting.task, metric)
    return Report(
        model=model.name,
        task=None if reading is None else reading.name,
        findings=tuple(f for f in (*of_model, *of_task) if isinstance(f, Finding)),
        skipped=tuple(f for f in (*of_model, *of_task) if isinstance(f, Skipped)),
        ability=None if seen is None else seen.ability.sentence,
        examples=_examples(model, reading),
    )


def _examples(model: Model, reading: Reading | None) -> tuple[str, ...]:
    if reading is None or reading.task is None:
        return ()
    return prompt_texts(model.tokenizer, reading.task)


def _of_model(model: Model, task: Task | None, metric: Metric, batch_size: int) -> Iterator[Found]:
    """From the simplest on: with NaN in the model, nothing else can be measured."""
    sound = structure.finite(model)
    yield sound
    yield from _try("no hooks left behind", lambda: structure.nothing_left(model))
    if sound.verdict == "unusable":
        yield Skipped("all other checks of the model", "model", "it computes NaN")
        return
    yield from _try("writers rebuild the stream", lambda: structure.rebuilt(model))
    yield from _try("backward rules act", lambda: reach.rules_fire(model))
    yield from _try("activations shown", lambda: reach.places_shown(model))
    prompts, sloped = sample(model, task, metric)
    yield from _try("edges sum to nodes", lambda: agreement.sums_to_nodes(model, prompts, sloped))
    if model.dtype in agreement.STEPS:
        yield from _try("scores are slopes", lambda: agreement.slopes(model, prompts, sloped))
    else:
        yield Skipped("scores are slopes", "model", f"{model.dtype} is too coarse for slopes")
    if model.two_way:
        yield Skipped("padding does not matter", "model", "it reads both ways, and padding too")
    else:
        yield from _try("padding does not matter", lambda: runs.padding(model, prompts))
    yield from _noise(model, prompts, sloped)
    longest = prompts if task is None else task
    sloped = metric if longest.is_text else sloped
    yield from _try("memory", lambda: cost.memory(model, longest, sloped, batch_size))


def _noise(model: Model, prompts: Task, metric: Metric) -> Iterator[Found]:
    if model.dtype not in runs.HALF:
        why = f"{str(model.dtype).removeprefix('torch.')} is wide enough"
        yield Skipped("dtype noise", "model", why)
    elif why := runs.why_no_copy(model):
        yield Skipped("dtype noise", "model", why)
    else:
        yield from _try("dtype noise", lambda: runs.noise(model, prompts, metric))


def _static(model: Model, reading: Reading) -> Iterator[Found]:
    yield from pairs.row_faults(reading)
    if reading.task is None:
        yield Skipped("all other checks of the task", "task", "it has no sound row")
        return
    task, rows = reading.task, reading.rows
    if not task.is_plain:
        yield pairs.several_tokens(task)
    if len(task.span_names) > 1:
        yield pairs.spans(task, rows)
    yield pairs.fits(model, task, rows)
    if model.tokenizer is None:
        yield Skipped("one BOS, words are known", "task", f"{model.name} has no tokenizer")
    else:
        yield pairs.one_bos(model.tokenizer, task, rows)
        yield pairs.known_tokens(model.tokenizer, task, rows)
    yield pairs.distinct(task, rows)
    if len(task) >= 5:
        yield pairs.varied(task)
    else:
        yield Skipped("answers vary", "task", f"{len(task)} rows are too few to tell")
    if task.is_text:
        yield Skipped(
            "pairs are close",
            "task",
            "a text has no corrupt prompts: what is left with "
            "every writer replaced by zeros stands for them",
        )
    else:
        yield pairs.differing(task)


def _fitting(model: Model, reading: Reading) -> Reading | None:
    """The rows that the model can read; None if there are none."""
    if reading.task is None:
        return None
    bad = set(pairs.fits(model, reading.task, reading.rows).rows)
    kept = [
        (number, prompt)
        for number, prompt in zip(reading.rows, reading.task.prompts, strict=True)
        if number not in bad
    ]
    if not kept:
        return None
    task = replace(reading.task, prompts=tuple(prompt for _, prompt in kept))
    return Reading(reading.name, reading.n_rows, task, tuple(n for n, _ in kept), reading.faults)


def _observed(model: Model, reading: Reading, metric: Metric) -> behaviour.Behaviour | ValueError:
    assert reading.task is not None, "only readings with sound rows come here"
    look = behaviour.observe_text if reading.task.is_text else behaviour.observe
    try:
        return look(model, reading.task, metric, reading.rows)
    except ValueError as error:
        return error


def _of_scores(model: Model, task: Task, metric: Metric) -> Iterator[Found]:
    if task.is_text:
        few = task.take(min(ROWS, len(task)))
        yield Skipped("scores add up", "task", "writers are replaced, and not only the prompt")
        agrees = partial(agreement.exact_agrees, model, few, metric, zero)
        yield from _try("sample agrees with exact", agrees)
        return
    prompts, sloped = sample(model, task, metric)
    if prompts.prompts[0] not in task.prompts:
        why = f"{sloped.__name__} needs wrong answers, and some rows have none"
        yield Skipped("scores add up", "task", why)
        yield Skipped("sample agrees with exact", "task", why)
        return
    yield from _try("scores add up", lambda: agreement.adds_up(model, prompts, sloped))
    yield from _try(
        "sample agrees with exact", lambda: agreement.exact_agrees(model, prompts, sloped)
    )


def _try(name: str, check: Check) -> Iterator[Finding]:
    """A check's findings; what it raises is a finding too, for a doctor does not stop there.

    Raises:
        RuntimeError: if memory runs out.
    """
    try:
        found = check()
    except ValueError as error:
        found = _broken(name, error)
    except RuntimeError as error:
        if is_lack_of_memory(error):
            raise
        found = _broken(name, error)
    yield from found if isinstance(found, list) else [found]


def _broken(name: str, error: Exception) -> Finding:
    return Finding(
        name=name,
        subject="model",
        verdict="unusable",
        measured=torch.nan,
        threshold=0,
        unit="",
        means=f"The check could not be made: {error}",
        advice="Mend what is said there first; if nothing else is amiss, this is a fault of ours.",
    )


def _unmeasured(why: str) -> Finding:
    return Finding(
        name="prefers the answer",
        subject="task",
        verdict="unusable",
        measured=torch.nan,
        threshold=0,
        unit="",
        means=f"The metric cannot be measured: {why}.",
        advice="Give rows what the metric needs, or take another metric.",
    )
