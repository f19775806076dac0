"""Training of sparse dictionaries on a model's own activations: TopK or BatchTopK.

TopK keeps the k largest features of each token (Gao et al. 2024, arXiv:2406.04093); BatchTopK the
k largest of a token in the mean over a batch, which ends as one threshold for all (Bussmann et al.
2024, arXiv:2412.06410). Decoder rows have norm 1; features that have been silent for long learn
from what is not rebuilt. Everything random follows from the seed and the step's number, so a
training that was stopped goes on as if nothing had happened.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patching.descent import Parameter, Schedule, Step, descend
from patching.dictionaries.dictionary import Dictionary
from patching.history import History

KINDS = ("topk", "batchtopk")
_SEEN = 20_000  # tokens that a transcoder's first encoder is fitted on
_LEAST = torch.finfo(torch.float32).tiny
_KEPT = 0.99  # of the running mean of BatchTopK's threshold


@dataclass(frozen=True)
class Recipe:
    """What is trained and how.

    `k` features are active on a token (batchtopk: in the mean), of `features` in all. `rate` is
    Adam's step size; None takes what was found best: 0.01 for transcoders, 0.005 for autoencoders.
    It grows over the first 100 steps and falls to 0 over the last fifth. A feature that was not
    active for `silent_after` steps is silent; `revive` is the weight of the loss that silent ones
    learn from.

    Raises:
        ValueError: if there is no such kind, or a number is out of range.
    """

    kind: str = "topk"
    features: int = 512
    k: int = 12
    steps: int = 2000
    batch_size: int = 512
    rate: float | None = None
    revive: float = 1 / 32
    silent_after: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no kind of dictionary {self.kind!r}; {' or '.join(KINDS)}")
        if not 1 <= self.k <= self.features:
            raise ValueError(
                f"{self.k} of {self.features} features are to be active; 1 to {self.features} "
                "would be right"
            )

    def schedule(self, *, crosses: bool, folder: str | Path | None) -> Schedule:
        """How long and how fast."""
        rate = self.rate if self.rate is not None else 1e-2 if crosses else 5e-3
        return Schedule(
            steps=self.steps,
            rate=rate,
            batch_size=self.batch_size,
            seed=self.seed,
            folder=folder,
            save_every=max(25, self.steps // 8),
            warm_up=min(100, self.steps),
            cool_down=0.2,
        )


def train_dictionary(
    x: Float[Tensor, "token d_in"],
    y: Float[Tensor, "token d_out"],
    recipe: Recipe,
    *,
    reads: str,
    writes: str,
    folder: str | Path | None = None,
    facts: Mapping[str, object] | None = None,
) -> tuple[Dictionary, History]:
    """Learn what rebuilds `y` from `x`, and the curve of the loss.

    Args:
        x: what is read; with `reads == writes` an autoencoder is trained, of `x` alone.
        y: what is rebuilt.
        recipe: the kind and its numbers.
        reads: the place of `x`.
        writes: the place of `y`.
        folder: where the state is kept; the same training goes on from there.
        facts: what the activations are of, so that another training's state is refused.

    Raises:
        ValueError: if there are fewer tokens than a batch, activations do not vary, or the loss is
            not finite.
    """
    crosses = reads != writes
    if len(x) < recipe.batch_size:
        raise ValueError(f"{len(x)} tokens are fewer than a batch of {recipe.batch_size}")
    units = _Units.of(x, y)
    objective = _Objective(x, y, units, recipe)
    schedule = recipe.schedule(crosses=crosses, folder=folder)
    start = _start(x, y, units, recipe, crosses=crosses)
    said = {**(facts or {}), "reads": reads, "writes": writes, "recipe": asdict(recipe)}
    values, history = descend(
        {name: Parameter(value, schedule.rate) for name, value in start.items()},
        objective,
        len(x),
        schedule,
        facts={"of": "dictionary", **said},
        kept=objective.kept,
    )
    return _finished(values, units, objective, recipe, (reads, writes), said), history


@dataclass(frozen=True, eq=False)
class _Units:
    """Means and one scale of inputs and outputs: each coordinate has mean square 1 in training."""

    mean_in: Float[Tensor, " d_in"]
    mean_out: Float[Tensor, " d_out"]
    scale_in: float
    scale_out: float

    @staticmethod
    def of(x: Float[Tensor, "token d_in"], y: Float[Tensor, "token d_out"]) -> "_Units":
        """Those of some activations.

        Raises:
            ValueError: if they do not vary.
        """
        found = []
        for part in (x, y):
            mean = part.double().mean(dim=0)
            scale = float((part.double() - mean).square().mean().sqrt())
            if not scale > 0:
                raise ValueError("these activations are the same at every token, or not finite")
            found.append((mean.float(), scale))
        (mean_in, scale_in), (mean_out, scale_out) = found
        return _Units(mean_in, mean_out, scale_in, scale_out)

    def inputs(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        return (x.float() - self.mean_in) / self.scale_in

    def outputs(self, y: Float[Tensor, "batch d_out"]) -> Float[Tensor, "batch d_out"]:
        return (y.float() - self.mean_out) / self.scale_out


class _Objective:
    """The loss of a batch; `kept` is what it remembers: how long features were silent, and theta.

    It does not hang on the order in which steps are asked for, but for what is kept.
    """

    def __init__(self, x: Tensor, y: Tensor, units: _Units, recipe: Recipe) -> None:
        self._x, self._y, self._units, self._recipe = x, y, units, recipe
        self.kept = {"silent": torch.zeros(recipe.features), "theta": torch.zeros(())}

    def __call__(
        self, values: Mapping[str, Tensor], step: Step
    ) -> tuple[Float[Tensor, ""], Mapping[str, float]]:
        """Mean squares of what is not rebuilt, in units of the outputs."""
        a = self._units.inputs(self._x[step.rows])
        b = self._units.outputs(self._y[step.rows])
        z = a @ values["w_enc"] + values["b_enc"]
        w_dec = values["w_dec"] / values["w_dec"].norm(dim=1, keepdim=True)
        f = self._act(z, step.number)
        missed = b - (f @ w_dec + values["b_dec"])
        loss = missed.square().mean()
        silent = self._silent(f)
        if self._recipe.revive and silent.any():
            loss = loss + self._recipe.revive * _revival(z, w_dec, missed.detach(), silent)
        return loss, {"silent": float(silent.sum())}

    def _act(self, z: Tensor, number: int) -> Tensor:
        k = self._recipe.k
        if self._recipe.kind == "topk":
            return _above(z, _kth_largest(z, k))
        theta = _kth_largest(z.flatten(), k * len(z)).clamp(min=0)[0]
        before = theta if number == 0 else self.kept["theta"]
        self.kept["theta"].copy_(_KEPT * before + (1 - _KEPT) * theta)
        return _above(z, theta)

    def _silent(self, f: Tensor) -> Bool[Tensor, " feature"]:
        """Which features have not been active for long, this batch included."""
        age = self.kept["silent"]
        age.copy_(torch.where(f.detach().amax(dim=0) > 0, 0.0, age + 1))
        return age >= self._recipe.silent_after


def _kth_largest(z: Float[Tensor, "*rows n"], k: int) -> Float[Tensor, "*rows one"]:
    """The k-th largest of each row, which numpy finds in a fifth of the time of `topk`."""
    n = z.shape[-1]
    found = np.partition(z.detach().numpy(), n - k, axis=-1)[..., n - k : n - k + 1]
    return torch.from_numpy(found)


def _above(z: Tensor, least: Tensor) -> Tensor:
    """What is positive and no less than a bound: all of what is equally large."""
    return torch.where(z >= least.clamp(min=_LEAST), z, 0)


def _revival(z: Tensor, w_dec: Tensor, missed: Tensor, silent: Tensor) -> Float[Tensor, ""]:
    """How badly silent features, as many as half the outputs, rebuild what is not rebuilt."""
    some = min(w_dec.shape[1] // 2, int(silent.sum()))
    among = z[:, silent]
    f = _above(among, _kth_largest(among, some))
    left = missed - f @ w_dec[silent]
    return left.square().mean() / missed.square().mean().clamp(min=1e-12)


def _start(
    x: Tensor, y: Tensor, units: _Units, recipe: Recipe, *, crosses: bool
) -> dict[str, Tensor]:
    """Random directions out; in, the same (autoencoder) or what predicts them best."""
    random = torch.Generator().manual_seed(recipe.seed)
    w_dec = torch.randn(recipe.features, y.shape[1], generator=random)
    w_dec /= w_dec.norm(dim=1, keepdim=True)
    w_enc = w_dec.T.contiguous()
    if crosses:
        every = max(1, len(x) // _SEEN)
        a, b = units.inputs(x[::every]), units.outputs(y[::every])
        ridge = 1e-6 * len(a) * torch.eye(a.shape[1])
        w_enc = torch.linalg.solve(a.T @ a + ridge, a.T @ b) @ w_dec.T
        w_enc = w_enc / w_enc.norm(dim=0, keepdim=True).clamp(min=1e-12)
    nothing = torch.zeros(recipe.features), torch.zeros(y.shape[1])
    return {"w_enc": w_enc, "b_enc": nothing[0], "w_dec": w_dec, "b_dec": nothing[1]}


def _finished(
    values: Mapping[str, Tensor],
    units: _Units,
    objective: _Objective,
    recipe: Recipe,
    places: tuple[str, str],
    facts: Mapping[str, object],
) -> Dictionary:
    """The dictionary in the model's own units, its decoder rows of norm 1."""
    w_enc, s_in, s_out = values["w_enc"], units.scale_in, units.scale_out
    theta = float(objective.kept["theta"]) * s_out if recipe.kind == "batchtopk" else 0.0
    return Dictionary(
        name=f"{recipe.kind} {places[1]}",
        reads=places[0],
        writes=places[1],
        w_enc=w_enc / s_in * s_out,
        b_enc=(values["b_enc"] - (units.mean_in / s_in) @ w_enc) * s_out,
        w_dec=values["w_dec"] / values["w_dec"].norm(dim=1, keepdim=True),
        b_dec=values["b_dec"] * s_out + units.mean_out,
        threshold=torch.full((recipe.features,), theta),
        k=recipe.k if recipe.kind == "topk" else None,
        facts={"format": "trained here", **facts},
    )
