"""Stochastic gradient descent on a few tensors: seeded, stoppable at any step, resumable.

Everything random in a step follows from the seed and the step's number, so that all there is to
save are the tensors, Adam's two means of each, and the curves. Knows no model.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.files.tensors import read_tensors, require_like, write_tensors
from patching.history import History, check_curves
from patching.modes import as_typed, with_gradients
from patching.progress import Progress
from patching.work.fingerprint import difference, told_apart

STATE = "state.safetensors"
_FORMAT = "training state 1"
LOSS = "loss"
_CURVE = "curve "
_DECAY, _DECAY_SQUARE, _EPS = 0.9, 0.999, 1e-8  # Kingma and Ba 2015, arXiv:1412.6980
_GAIN = 1e-3  # what share of the loss must still be gained for a training to go on

_BEARING = ("steps", "rate", "batch_size", "seed", "patience")
_SHAPING = ("warm_up", "cool_down")  # told where there is any


@dataclass(frozen=True)
class Schedule:
    """How long to train, how fast, on how many examples a step, and where to keep the state.

    `patience`: stop when the mean loss of so many steps is no lower than that of as many before.
    `folder`: the state is written there every `save_every` steps and at the end; the same training
    started again goes on from it, and ends with the same numbers. The rate grows over `warm_up`
    steps and falls to 0 over the share `cool_down` of all steps, the last ones.

    Raises:
        ValueError: if a number is less than 1, or the rate none that descends.
    """

    steps: int = 300
    rate: float = 0.2
    batch_size: int = 16
    seed: int = 0
    patience: int | None = None
    folder: str | Path | None = None
    save_every: int = 25
    warm_up: int = 0
    cool_down: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "patience", "save_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; at least 1 would be right")
        if not 0 <= self.rate < math.inf:
            raise ValueError(f"the rate is {self.rate}; a number from 0 up would be right")
        if self.warm_up < 0 or not 0 <= self.cool_down <= 1:
            raised = f"warm_up {self.warm_up}, cool_down {self.cool_down}"
            raise ValueError(f"{raised}: 0 steps or more, a share from 0 to 1 would be right")

    @property
    def options(self) -> dict[str, int | float | None]:
        """What of it bears on the result, for provenance."""
        said = asdict(self)
        return {n: said[n] for n in (*_BEARING, *_SHAPING) if n in _BEARING or said[n]}

    def factor(self, number: int) -> float:
        """What the rate is multiplied by in a step."""
        rising = (number + 1) / self.warm_up if self.warm_up else 1.0
        falls = self.cool_down * self.steps
        return min(1.0, rising, (self.steps - number) / falls if falls else 1.0)


@dataclass(frozen=True, eq=False)
class Parameter:
    """A tensor to learn: where it starts and its learning rate.

    `ascends` is for multipliers, which the loss is made larger by.
    """

    start: Float[Tensor, "..."]
    rate: float
    ascends: bool = False


@dataclass(frozen=True, eq=False)
class Step:
    """What a step is taken on: its number, the examples' rows and a source of noise."""

    number: int
    rows: Int[Tensor, " batch"]
    noise: torch.Generator


@runtime_checkable
class Objective(Protocol):
    """The loss at some values, and what else is to be watched."""

    def __call__(
        self, values: Mapping[str, Tensor], step: Step
    ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
        """The loss, with a gradient by the values, and numbers by name."""
        ...


@dataclass
class _State:
    values: dict[str, Tensor]
    means: dict[str, Tensor]
    squares: dict[str, Tensor]
    curves: dict[str, list[float]]
    kept: dict[str, Tensor]

    @property
    def n_steps(self) -> int:
        return len(self.curves.get(LOSS, []))


@as_typed()
def descend(
    parameters: Mapping[str, Parameter],
    objective: Objective,
    n_examples: int,
    schedule: Schedule,
    *,
    facts: Mapping[str, object],
    functions: object = (),
    earliest: int = 0,
    kept: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], History]:
    """Minimise an objective by Adam on batches of the examples, shuffled anew every epoch.

    Args:
        parameters: what to learn, by name.
        objective: called once a step.
        n_examples: how many rows there are to draw batches from.
        schedule: how long, and where the state is kept.
        facts: what the training is of; a kept state of another training is refused.
        functions: those whose names alone the facts know.
        earliest: no early stop before this step.
        kept: tensors that the objective changes in place from step to step, to be kept with the
            state and put back where a training goes on.

    Returns:
        The values at the end, and the curves.

    Raises:
        ValueError: if the loss is not finite, the folder holds the state of another training, or
            functions or hooks cannot be told from others and there is a folder.
    """
    identity = {**facts, "schedule": schedule.options}
    if schedule.folder is not None:
        starts = {name: parameter.start for name, parameter in parameters.items()}
        identity["functions"] = told_apart(facts, (functions, starts))
    identity = json.loads(json.dumps(identity))
    state = _open_state(parameters, {} if kept is None else kept, schedule, identity)
    stopped = "all steps done"
    with Progress("learning", schedule.steps, done=state.n_steps) as progress:
        for number in range(state.n_steps, schedule.steps):
            if _is_flat(state.curves.get(LOSS, []), schedule.patience, earliest):
                stopped = "no further gain"
                break
            step = _step(number, n_examples, schedule)
            _take(state, parameters, objective, step, schedule.factor(number))
            progress.say(f"loss {state.curves[LOSS][-1]:.4g}")
            progress.at(state.n_steps)
            if state.n_steps % schedule.save_every == 0:
                _save(state, schedule, identity)
    _save(state, schedule, identity)
    curves = {
        name: torch.tensor(curve, dtype=torch.float64) for name, curve in state.curves.items()
    }
    return state.values, History(curves, stopped)


def _step(number: int, n_examples: int, schedule: Schedule) -> Step:
    size = min(schedule.batch_size, n_examples)
    epoch, place = divmod(number, n_examples // size)
    rows = _order(schedule.seed, epoch, n_examples)[place * size : (place + 1) * size]
    return Step(number, rows.sort().values, _generator(schedule.seed, 2 * number + 1))


@lru_cache(maxsize=1)
def _order(seed: int, epoch: int, n_examples: int) -> Int[Tensor, " example"]:
    """The examples in the order of an epoch."""
    return torch.randperm(n_examples, generator=_generator(seed, 2 * epoch))


def _generator(seed: int, stream: int) -> torch.Generator:
    """Random numbers that differ between seeds and between streams of a seed."""
    return torch.Generator().manual_seed((seed * 1_000_003 + stream) % 2**63)


def _take(
    state: _State,
    parameters: Mapping[str, Parameter],
    objective: Objective,
    step: Step,
    factor: float,
) -> None:
    live = {name: value.detach().requires_grad_() for name, value in state.values.items()}
    with with_gradients():
        loss, watched = objective(live, step)
    found = float(loss.detach())
    if not math.isfinite(found):
        raise ValueError(
            f"the loss is {found} at step {step.number}; a lower learning rate would be "
            "right, if weights and metric hold no NaN"
        )
    names = list(live)
    gradients = torch.autograd.grad(
        loss, [live[name] for name in names], allow_unused=True, materialize_grads=True
    )
    for name, gradient in zip(names, gradients, strict=True):
        _adam(state, name, gradient, parameters[name], step.number + 1, factor)
    for name, value in {LOSS: found, **watched}.items():
        state.curves.setdefault(name, []).append(value)


def _adam(
    state: _State, name: str, gradient: Tensor, parameter: Parameter, number: int, factor: float
) -> None:
    mean, square = state.means[name], state.squares[name]
    mean = _DECAY * mean + (1 - _DECAY) * gradient
    square = _DECAY_SQUARE * square + (1 - _DECAY_SQUARE) * gradient**2
    size = (square / (1 - _DECAY_SQUARE**number)).sqrt() + _EPS
    change = factor * parameter.rate * (mean / (1 - _DECAY**number)) / size
    state.means[name], state.squares[name] = mean, square
    state.values[name] = state.values[name] + (change if parameter.ascends else -change)


def _is_flat(losses: list[float], patience: int | None, earliest: int) -> bool:
    if patience is None or len(losses) < earliest + 2 * patience:
        return False
    before = sum(losses[-2 * patience : -patience]) / patience
    return sum(losses[-patience:]) / patience > before - _GAIN * abs(before)


def _open_state(
    parameters: Mapping[str, Parameter],
    kept: dict[str, Tensor],
    schedule: Schedule,
    identity: Mapping[str, object],
) -> _State:
    start = {name: parameter.start.detach().clone() for name, parameter in parameters.items()}
    nothing = {name: torch.zeros_like(value) for name, value in start.items()}
    state = _State(start, nothing, dict(nothing), {}, kept)
    if schedule.folder is not None and (Path(schedule.folder) / STATE).exists():
        _load(state, Path(schedule.folder) / STATE, schedule, identity)
    return state


def _save(state: _State, schedule: Schedule, identity: Mapping[str, object]) -> None:
    if schedule.folder is None:
        return
    tensors = {f"{kind} {name}": some[name] for kind, some in _kinds(state) for name in some}
    for name, curve in state.curves.items():
        tensors[f"{_CURVE}{name}"] = torch.tensor(curve, dtype=torch.float64)
    said = {"of": identity, "steps": state.n_steps}
    write_tensors(Path(schedule.folder) / STATE, tensors, _FORMAT, said)


def _load(state: _State, path: Path, schedule: Schedule, identity: Mapping[str, object]) -> None:
    """Fill a state with what was saved of it.

    Raises:
        ValueError: if the file is damaged or of another training.
    """
    saved, facts = read_tensors(path, _FORMAT)
    if facts.get("of") != identity:
        raise ValueError(
            f"{path} is the state of another training{difference(facts.get('of'), identity)}; "
            "give the same options, or an empty folder"
        )
    curves = {name: saved.pop(name) for name in [*saved] if name.startswith(_CURVE)}
    wanted = {f"{kind} {name}": x for kind, some in _kinds(state) for name, x in some.items()}
    require_like(path, saved, wanted)
    check_curves(path, curves, f"{_CURVE}{LOSS}", schedule.steps)
    below = any((x < 0).any() for name, x in saved.items() if name.startswith("squares"))
    if below or facts.get("steps") != len(curves.get(_CURVE + LOSS, ())):
        raise ValueError(f"{path} holds other steps than it says, or squares below 0; delete it")
    for kind, some in _kinds(state):
        for name, value in some.items():
            some[name] = saved[f"{kind} {name}"].to(value)
    for name, curve in curves.items():
        state.curves[name.removeprefix(_CURVE)] = curve.tolist()


def _kinds(state: _State) -> list[tuple[str, dict[str, Tensor]]]:
    names = ("values", "means", "squares", "kept")
    return [(name, getattr(state, name)) for name in names]
