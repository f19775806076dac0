"""Learned constants: an ablation that is read from a file instead of learned again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from patching.ablations import Constants, zero
from patching.anatomy.identity import COMPUTES
from patching.capture import Writes
from patching.files.brief import briefly
from patching.files.parsing import naming
from patching.files.tensors import read_tensors, require_names, write_tensors
from patching.history import History
from patching.model import Model

_FORMAT = "file of learned constants 1"
_LOSSES = ("losses", "mean losses", "loss")


@briefly
@dataclass(frozen=True, eq=False)
class Optimal:
    """Learned constants; an ablation like `zero` and `mean(task)`, for the model they are of.

    `losses` are the mean distances from the clean run's metric over all examples: of each writer
    alone where `mean_losses` says what its mean loses, or of one circuit.
    """

    constants: Constants
    weights: str
    losses: Float[Tensor, " loss"]
    mean_losses: Float[Tensor, " loss"]
    history: History
    provenance: Mapping[str, object]

    def __call__(self, model: Model) -> Constants:
        """The constants, for the model they were learned in.

        Raises:
            ValueError: if that is another one.
        """
        differ = model.identity.differences({**self.provenance, "weights": self.weights}, COMPUTES)
        if differ:
            raise ValueError(
                f"these constants were learned in {self.provenance.get('model')} with other "
                f"{' and '.join(differ)} than {model.name}'s; learn them anew"
            )
        return self.constants

    def save(self, path: str | Path) -> None:
        """Write constants and losses as a safetensors file that `load_optimal` reads."""
        losses = (self.losses, self.mean_losses, self.history.curves["loss"])
        tensors = {**by_name(self.constants.writes), **dict(zip(_LOSSES, losses, strict=True))}
        facts = {
            "name": self.constants.name,
            "weights": self.weights,
            "stopped": self.history.stopped,
            "provenance": dict(self.provenance),
        }
        write_tensors(path, tensors, _FORMAT, facts)


def load_optimal(path: str | Path, model: Model) -> Optimal:
    """Read what `Optimal.save` wrote, for the model it was learned in.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, altered or of another kind, or was learned in another model.
    """
    tensors, facts = read_tensors(path, _FORMAT)
    texts = [facts.get(name) for name in ("name", "weights", "stopped")]
    name, weights, stopped = (text if isinstance(text, str) else "" for text in texts)
    provenance = facts.get("provenance")
    if not name or not isinstance(provenance, dict):
        raise ValueError(f"{path} does not say what its constants are of")
    nothing = zero(model)
    assert isinstance(nothing, Constants), "zero is a constant"
    expected = by_name(nothing.writes)
    require_names(path, tensors, [*expected, *_LOSSES])
    for part, like in expected.items():
        found = tensors.get(part)
        right = found is not None and found.is_floating_point() and found.shape == like.shape
        if found is None or not right or not bool(found.isfinite().all()):
            raise ValueError(
                f"{path}: {part} should be finite numbers of shape {list(like.shape)} for "
                f"{model.name}"
            )
    losses, mean_losses, curve = (_losses(path, tensors, name) for name in _LOSSES)
    writes = from_names(tensors, model.graph.n_layers).to(model.device)
    history = History({"loss": curve}, stopped)
    found = Optimal(Constants(name, writes), weights, losses, mean_losses, history, provenance)
    with naming(path):
        found(model)
    return found


def _losses(path: str | Path, tensors: Mapping[str, Tensor], name: str) -> Float[Tensor, " loss"]:
    """Losses in the order they were written in.

    Raises:
        ValueError: if they are missing, or no finite numbers in a row.
    """
    found = tensors.get(name)
    if found is None or not found.is_floating_point() or found.ndim != 1:
        raise ValueError(f"{path} lacks the tensor {name!r}, or it is no row of numbers")
    if not found.isfinite().all():
        raise ValueError(f"{path}: {name} should be finite numbers")
    return found.double()


def by_name(writes: Writes) -> dict[str, Float[Tensor, "..."]]:
    """All parts of some writes, by layer."""
    heads = {f"heads {i}": part for i, part in enumerate(writes.heads)}
    mlps = {f"mlp {i}": part for i, part in enumerate(writes.mlps)}
    return {"embed": writes.embed, **heads, **mlps}


def from_names(parts: Mapping[str, Float[Tensor, "..."]], n_layers: int) -> Writes:
    """What `by_name` took apart."""
    n = range(n_layers)
    heads, mlps = (tuple(parts[f"{kind} {i}"] for i in n) for kind in ("heads", "mlp"))
    return Writes(parts["embed"], heads, mlps)
