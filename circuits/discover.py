"""The main job in one call: score, select, judge on other prompts, draw, report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from circuits.circuit import Circuit
from circuits.export import save
from circuits.judging.chance import connected_circuits
from circuits.judging.resampling import Resampled, resampled
from circuits.judging.smallest import ENOUGH, smallest_of
from circuits.reporting.measurements import Kind, Measurements
from circuits.reporting.report import Findings, Measured, Verdict, render, usable
from circuits.running.evaluation import Evaluation, evaluate
from circuits.running.trial import Trial, prepare
from circuits.scores import Ranking, Scores
from patching.ablations import Ablation, resample
from patching.files.whole import write_text
from patching.lens.text import prompt_texts
from patching.metrics import Metric
from patching.model import Model
from patching.span_graph import kept_apart
from patching.suited import telling
from patching.tasks import Task
from patching.work import Run, leads

N_RANDOM = 3
FILES = (
    *("scores.safetensors", "circuit.json", "circuit.svg", "circuit.pdf"),
    *("report.md", "measurements.json"),
)


@dataclass(frozen=True)
class Search:
    """What to look for and how. `select` makes a circuit of a given size from scores.

    Without a `size`, the circuit is the smallest that keeps `faithfulness` of the clean-corrupt gap
    on the prompts of the search. With `resamples`, which need scores by prompt, findings hold an
    interval that contains the search. `run` keeps what circuits came to, and says who ran them;
    `score` has its own.
    """

    metric: Metric
    metric_name: str
    score: Callable[[Model, Task, Metric], Scores]
    select: Callable[[Scores, int], Circuit]
    ranking: Ranking
    size: int | None = None
    faithfulness: float = ENOUGH
    ablation: Ablation = resample
    seed: int = 0
    batch_size: int = 16
    run: Run | None = None
    resamples: int = 0


def discover(
    model: Model, found: Task, held_out: Task | None, search: Search, out: str | Path
) -> Findings:
    """Search on `found`, judge on `held_out` (or in-sample, without), and leave `FILES` in `out`.

    Nothing is refused because the model cannot do the task: the findings say so.

    Raises:
        ValueError: if the graph has fewer edges than asked for, or the task or metric does not
            fit the method.
    """
    out = Path(out)
    graph = kept_apart(model.graph, found.apart)
    if search.size is not None and search.size > graph.n_edges:
        raise ValueError(
            f"cannot choose {search.size} edges; the graph of {model.name} has {graph.n_edges}"
        )
    tasks = [found, held_out] if held_out else [found]
    verdict = check_task(
        model, tasks, search.metric, search.batch_size, run=search.run, ablation=search.ablation
    )
    scores = search.score(model, found, search.metric)
    scores = replace(scores, provenance={**scores.provenance, "verdict": verdict.sentence})
    circuit = _choose(model, found, search, scores)
    findings, measurements = _judge(model, tasks, search, verdict, scores, circuit)
    if search.run is not None and not leads(search.run.engine):
        return findings
    out.mkdir(parents=True, exist_ok=True)
    scores.save(out / "scores.safetensors")
    for name in ("circuit.json", "circuit.svg", "circuit.pdf"):
        save(circuit, out / name)
    write_text(out / "report.md", render(findings, figure="circuit.svg"))
    measurements.save(out / "measurements.json")
    return findings


def sizes_around(size: int, n_edges: int) -> list[int]:
    """1, 2, 5, 10, ... up to all edges, and the size asked for.

    >>> sizes_around(40, 300)
    [1, 2, 5, 10, 20, 40, 50, 100, 200, 300]
    """
    steps = {factor * 10**power for power in range(len(str(n_edges))) for factor in (1, 2, 5)}
    return sorted({n for n in steps if n < n_edges} | {size, n_edges})


def check_task(
    model: Model,
    tasks: Sequence[Task],
    metric: Metric,
    batch_size: int,
    *,
    run: Run | None = None,
    ablation: Ablation = resample,
) -> Verdict:
    """Whether the model can do the task at all, on all prompts together.

    A text, which has no corrupt prompts, is held against what is left under the ablation.

    A metric without a sign (`kl`, a log-probability) cannot tell; the difference from the wrong
    answers then does, or accuracy where there are none.
    """
    sign = telling(metric, (prompt for task in tasks for prompt in task.prompts))

    def measure_on(task: Task, metric: Metric) -> Evaluation:
        full = [Circuit.full(model.graph)]
        against = ablation if task.is_text else resample
        return evaluate(model, task, full, metric, ablation=against, batch_size=batch_size, run=run)

    runs = [measure_on(task, metric) for task in tasks]
    told = runs if sign is metric else [measure_on(task, sign) for task in tasks]
    return usable(
        torch.cat([run.clean for run in told]),
        torch.cat([run.clean for run in runs]),
        torch.cat([run.corrupt for run in runs]),
    )


def measure(evaluation: Evaluation, circuits: Sequence[Circuit]) -> list[Measured]:
    """Size, mean metric and faithfulness of every evaluated circuit."""
    means, kept = evaluation.values.mean(dim=1).tolist(), evaluation.faithfulness.tolist()
    return [
        Measured(circuit.size, mean, faithfulness if math.isfinite(faithfulness) else None)
        for circuit, mean, faithfulness in zip(circuits, means, kept, strict=True)
    ]


def _choose(model: Model, found: Task, search: Search, scores: Scores) -> Circuit:
    """Of the size asked for, or the smallest that keeps enough on the prompts of the search."""
    if search.size is not None:
        return search.select(scores, search.size)
    choose = partial(search.select, scores)
    trial = _trial(model, found, search)
    return smallest_of(trial, choose, search.faithfulness, wrong_sign=True)


def _trial(model: Model, task: Task, search: Search) -> Trial:
    return prepare(
        model,
        task,
        search.metric,
        ablation=search.ablation,
        batch_size=search.batch_size,
        kept_in=search.run,
    )


def requested(circuit: Circuit) -> int:
    """How many edges a selector was asked for, before any were pruned; else the circuit's size."""
    said = circuit.provenance.get("selection")
    number = said.get("requested") if isinstance(said, Mapping) else None
    return number if isinstance(number, int) else circuit.size


def _judge(
    model: Model,
    tasks: Sequence[Task],
    search: Search,
    verdict: Verdict,
    scores: Scores,
    circuit: Circuit,
) -> tuple[Findings, Measurements]:
    """Run the circuit, others of its kind and random ones on the last of the tasks."""
    judged = tasks[-1]
    nested = _nested(search, scores, circuit)
    chance = connected_circuits(circuit, N_RANDOM, seed=search.seed)
    circuits = [*nested, *chance]
    evaluation = evaluate(
        model,
        judged,
        circuits,
        search.metric,
        ablation=search.ablation,
        batch_size=search.batch_size,
        run=search.run,
    )
    measured = measure(evaluation, circuits)
    findings = Findings(
        circuit=circuit,
        ranking=search.ranking,
        metric_name=search.metric_name,
        verdict=verdict,
        prompts=_describe(tasks[0], tasks[1] if len(tasks) > 1 else None),
        clean=float(evaluation.clean.mean()),
        corrupt=float(evaluation.corrupt.mean()),
        found=measured[nested.index(circuit)],
        sizes=measured[: len(nested)],
        random=measured[len(nested) :],
        settings=_settings(circuit, scores, judged),
        examples=prompt_texts(model.tokenizer, judged),
        resampled=_resample(model, judged, search, scores, circuit),
    )
    return findings, _record(findings, evaluation, circuits)


def _resample(
    model: Model, judged: Task, search: Search, scores: Scores, circuit: Circuit
) -> Resampled | None:
    """Circuits of this size found on resamples of the search's prompts, if asked for."""
    if not search.resamples:
        return None
    size, trial = requested(circuit), _trial(model, judged, search)
    return resampled(
        trial,
        scores,
        lambda one: search.select(one, size),
        n=search.resamples,
        seed=search.seed,
        wrong_sign=True,
    )


def _nested(search: Search, scores: Scores, circuit: Circuit) -> list[Circuit]:
    """The circuit among those of the same kind at other sizes, from small to large."""
    size = requested(circuit)
    sizes = sizes_around(size, circuit.graph.n_edges)
    others = (search.select(scores, n) for n in sizes if n != size)
    return sorted(dict.fromkeys((circuit, *others)), key=lambda one: one.size)


def _record(
    findings: Findings, evaluation: Evaluation, circuits: Sequence[Circuit]
) -> Measurements:
    """What every circuit reached on every prompt, for reports that are made later."""
    n_nested = len(findings.sizes)
    nested: list[Kind] = [
        "circuit" if circuit is findings.circuit else "size" for circuit in circuits[:n_nested]
    ]
    chance: list[Kind] = ["random"] * (len(circuits) - n_nested)
    return Measurements(
        metric=findings.metric_name,
        ranking=findings.ranking,
        n_edges=findings.circuit.graph.n_edges,
        prompts=findings.prompts,
        verdict=findings.verdict.sentence,
        judged_on=str(findings.settings["judged_on"]),
        kinds=(*nested, *chance),
        edges=tuple(circuit.size for circuit in circuits),
        values=evaluation.values.double().cpu(),
        clean=evaluation.clean.double().cpu(),
        corrupt=evaluation.corrupt.double().cpu(),
    )


def _describe(found: Task, held_out: Task | None) -> str:
    if held_out is None:
        return f"the {len(found)} prompts of the search itself (in-sample)"
    searched = {(prompt.clean, prompt.corrupt) for prompt in found.prompts}
    shared = sum((prompt.clean, prompt.corrupt) in searched for prompt in held_out.prompts)
    also = f", {shared} of which the search saw too" if shared else ""
    return f"{len(held_out)} held-out prompts{also} (the search used {len(found)} prompts)"


def _settings(circuit: Circuit, scores: Scores, judged: Task) -> dict[str, object]:
    settings = {key: value for key, value in circuit.provenance.items() if key != "verdict"}
    settings |= {"judged_on": f"{judged.name}, tokens {judged.hash}"}
    if scores.completeness is not None:
        mean, largest = float(scores.completeness.mean()), float(scores.completeness.abs().max())
        settings["completeness_delta"] = f"mean {mean:+.3g}, largest {largest:.3g}"
    if scores.caution is not None:
        settings["caution"] = scores.caution
    return settings
