"""Judging reweighted neurons: chosen on some conflicts, tested on others, against random neurons.

The number of neurons h and the factor beta are chosen on development conflicts (`sweep`, `best`);
everything else is measured on held-out ones: the rate of following the context as beta grows, the
same for random neurons of the same layers, context-aware decoding, and what the edit costs
elsewhere. Shi et al. 2024 (IRCAN), arXiv:2406.18406.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from patching.decoding import ALPHA
from patching.files.brief import briefly
from patching.grid import Grid
from patching.model import Model
from patching.neurons.conflicts import ConflictTask
from patching.neurons.editing import check_beta, check_neurons, random_like, scale_neurons
from patching.neurons.edits import Edit, rates_under
from patching.neurons.measures import FOLLOWS, MEASURES, task_accuracy, token_losses
from patching.neurons.selection import Neurons
from patching.runs.batches import Doing
from patching.tasks.task import Task
from patching.work import Run

ORIGINAL, DECODED, EDITED, BOTH = "original", "CAD", "edited", "edited + CAD"


@dataclass(frozen=True)
class TrialPlan:
    """What is tried: h by beta on development conflicts, all betas and controls on held-out ones.

    `alpha` is of context-aware decoding. A beta of 1, no edit, is always measured too.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)
    betas: tuple[float, ...] = (0.0, 0.5, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    n_controls: int = 5
    alpha: float = ALPHA
    seed: int = 0
    batch_size: int = 64


@briefly
@dataclass(frozen=True, eq=False)
class SideEffect:
    """What the edit does elsewhere: one value per prompt without and with it.

    `quantity` is `accuracy`, 1 or 0, or `loss`, nats a token, of which `weights` says how many
    tokens each prompt has.
    """

    name: str
    quantity: str
    before: Float[Tensor, " example"]
    after: Float[Tensor, " example"]
    weights: Float[Tensor, " example"]


@dataclass(frozen=True, eq=False)
class Trial:
    """Everything that was measured of some neurons.

    Grids: `dev` `[example, neurons, beta]` and `held_out` `[example, beta, measure]`; `control`
    `[example, seed, beta]` is the rate of following the context with random neurons,
    `decodings` `[example, decoding, measure]` compares ways to answer. `neurons` are the h best
    at `beta`, both chosen on the development conflicts.
    """

    neurons: Neurons
    beta: float
    dev: Grid
    held_out: Grid
    control: Grid
    decodings: Grid
    side_effects: tuple[SideEffect, ...]
    plan: TrialPlan
    tasks: tuple[ConflictTask, ConflictTask] = field(repr=False)

    @property
    def gain(self) -> Float[Tensor, " example"]:
        """Following the context, edited minus original, per held-out conflict."""
        followed = self.decodings.select(measure=FOLLOWS)
        return followed.select(decoding=EDITED).values - followed.select(decoding=ORIGINAL).values

    def change(self, beta: str, measure: str = FOLLOWS) -> Float[Tensor, " example"]:
        """A measure at a beta minus that of the original model, per held-out conflict."""
        of = self.held_out.select(measure=measure)
        return of.select(beta=beta).values - of.select(beta=label(1.0)).values

    @property
    def gain_over_control(self) -> Float[Tensor, " example"]:
        """Following the context, edited minus the mean of the random controls, at `beta`."""
        edited = self.decodings.select(measure=FOLLOWS, decoding=EDITED).values
        return edited - self.control.select(beta=label(self.beta)).values.mean(dim=1)


def sweep(
    model: Model,
    task: ConflictTask,
    neurons: Neurons,
    *,
    sizes: Sequence[int] = TrialPlan.sizes,
    betas: Sequence[float] = TrialPlan.betas,
    batch_size: int = 64,
    run: Run | None = None,
) -> Grid:
    """The rate of following the context for the best h neurons at each beta: h by beta.

    >>> from patching.neurons import toy_conflicts
    >>> model = Model.load("toy")
    >>> task = toy_conflicts(model.tokenizer, n=8, seed=0)
    >>> sweep(model, task, Neurons([(1, 4), (2, 7)]), sizes=(1, 2), betas=(0.0, 1.0)).axes
    {'neurons': ('1', '2'), 'beta': ('0', '1')}

    Raises:
        ValueError: if there are fewer neurons than asked for, the model has no such neuron, or a
            beta is negative or not finite.
    """
    _check(model, neurons, sizes, betas)
    sets = [neurons.take(h) for h in sizes]
    rates = _over_betas(model, task, sets, betas, Doing(batch_size, run))[..., 0]
    axes = {"neurons": tuple(map(str, sizes)), "beta": tuple(map(label, betas))}
    return Grid("rate of following the context", rates, axes)


def best(grid: Grid) -> tuple[int, float]:
    """The h and beta of a `sweep` with the highest rate; of equal ones the mildest edit.

    Only betas above 1 are chosen from: they strengthen the neurons, and the others show what
    weakening does. Milder is fewer neurons, then a smaller beta.

    Raises:
        ValueError: if no beta is above 1.
    """
    sizes, betas = (tuple(map(float, labels)) for labels in grid.axes.values())
    places = [(i, j) for i in range(len(sizes)) for j in range(len(betas)) if betas[j] > 1]
    if not places:
        raise ValueError("no beta is above 1; give some that strengthen the neurons, such as 2")
    rates = grid.mean
    i, j = min(places, key=lambda at: (-float(rates[at]), sizes[at[0]], betas[at[1]]))
    return int(sizes[i]), betas[j]


def control_rates(
    model: Model,
    task: ConflictTask,
    neurons: Neurons,
    *,
    betas: Sequence[float] = TrialPlan.betas,
    seeds: Sequence[int] = range(TrialPlan.n_controls),
    batch_size: int = 64,
    run: Run | None = None,
) -> Grid:
    """The rate of following the context with random neurons of the same layers: seed by beta.

    Raises:
        ValueError: if there is no seed, or as `sweep` and `random_like`.
    """
    if not seeds:
        raise ValueError("a control needs at least one seed")
    _check(model, neurons, (len(neurons),), betas)
    drawn = [random_like(neurons, model, seed) for seed in seeds]
    rates = _over_betas(model, task, drawn, betas, Doing(batch_size, run))[..., 0]
    axes = {"seed": tuple(map(str, seeds)), "beta": tuple(map(label, betas))}
    return Grid("rate of following the context", rates, axes)


def run_trial(
    model: Model,
    neurons: Neurons,
    tasks: tuple[ConflictTask, ConflictTask],
    plan: TrialPlan | None = None,
    *,
    elsewhere: Mapping[str, Task] | None = None,
    run: Run | None = None,
) -> Trial:
    """Choose h and beta on the first task, judge on the second and, for side effects, elsewhere.

    `neurons` come best first and must have been found on the first task alone. On each task of
    `elsewhere` accuracy and the loss of its prompts' own tokens are measured; so is the loss on
    the questions of the held-out conflicts. A `run` keeps all that is measured on conflicts, by
    batches and edits, and says who does it; what is measured elsewhere is soon done.

    Raises:
        ValueError: as `sweep` and `random_like`, or if the model cannot read a task.
    """
    plan = plan or TrialPlan()
    betas = tuple(sorted({1.0, *plan.betas}))
    dev_task, test_task = tasks
    doing = Doing(plan.batch_size, run)
    how = {"betas": betas, "batch_size": plan.batch_size, "run": run}
    dev = sweep(model, dev_task, neurons, sizes=plan.sizes, **how)
    h, beta = best(dev)
    chosen = neurons.take(h)
    held_out = Grid(
        "rate",
        _over_betas(model, test_task, [chosen], betas, doing)[:, 0],
        {"beta": tuple(map(label, betas)), "measure": MEASURES},
    )
    seeds = range(plan.seed, plan.seed + plan.n_controls)
    control = control_rates(model, test_task, chosen, seeds=seeds, **how)
    decodings = _decodings(model, test_task, Edit(chosen, beta, plan.alpha), doing)
    effects = _side_effects(model, test_task, chosen, beta, elsewhere or {})
    return Trial(chosen, beta, dev, held_out, control, decodings, effects, plan, tasks)


def label(beta: float | int) -> str:
    """A beta as a label of an axis."""
    return f"{beta:g}"


def _check(model: Model, neurons: Neurons, sizes: Sequence[int], betas: Sequence[float]) -> None:
    """What can be wrong is said before the first run.

    Raises:
        ValueError: if there is nothing to try, too few neurons, a strange one or a strange beta.
    """
    if not sizes or not betas:
        raise ValueError("a sweep needs at least one number of neurons and one beta")
    check_neurons(model, neurons)
    for h in sizes:
        neurons.take(h)
    for beta in betas:
        check_beta(beta)


def _over_betas(
    model: Model,
    task: ConflictTask,
    sets: Sequence[Neurons],
    betas: Sequence[float],
    doing: Doing,
) -> Float[Tensor, "example set beta measure"]:
    edits = [Edit(neurons, beta) for neurons in sets for beta in betas]
    return rates_under(model, task, edits, doing).unflatten(1, (len(sets), len(betas)))


def _decodings(model: Model, task: ConflictTask, edit: Edit, doing: Doing) -> Grid:
    plain = replace(edit, beta=1.0)
    edits = [replace(plain, alpha=0.0), plain, replace(edit, alpha=0.0), edit]
    axes = {"decoding": (ORIGINAL, DECODED, EDITED, BOTH), "measure": MEASURES}
    return Grid("rate", rates_under(model, task, edits, doing), axes)


def _side_effects(
    model: Model,
    task: ConflictTask,
    neurons: Neurons,
    beta: float | int,
    elsewhere: Mapping[str, Task],
) -> tuple[SideEffect, ...]:
    asked = tuple(dict.fromkeys(c.without_context for c in task.conflicts))
    texts = {"questions without context": asked}
    texts |= {name: tuple(p.clean for p in other.prompts) for name, other in elsewhere.items()}
    before = _measure_elsewhere(model, elsewhere, texts)
    with scale_neurons(model, neurons, beta):
        after = _measure_elsewhere(model, elsewhere, texts)
    return tuple(
        SideEffect(name, quantity, values, after[name, quantity][0], weights)
        for (name, quantity), (values, weights) in before.items()
    )


def _measure_elsewhere(
    model: Model, tasks: Mapping[str, Task], texts: Mapping[str, Sequence[Sequence[int]]]
) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    found = {}
    for name, task in tasks.items():
        right = task_accuracy(model, task)
        found[name, "accuracy"] = right, torch.ones_like(right)
    for name, some in texts.items():
        losses = token_losses(model, some)
        found[name, "loss"] = losses[:, 0] / losses[:, 1], losses[:, 1]
    return found
