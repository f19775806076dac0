"""Reweighting neurons: reversibly while a `with` lasts, or for good in a copy of the weights.

A neuron is one input of an MLP's output projection, so multiplying its activation by beta at all
positions is the same as multiplying its column of that projection. IRCAN (Shi et al. 2024,
arXiv:2406.18406) does so with beta > 1 to neurons that process context; beta = 0 erases them.
"""

import math
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from patching.anatomy.blocks import Block
from patching.anatomy.insides import neurons as points_of
from patching.model import Hook, Model
from patching.modes import without_gradients
from patching.neurons.selection import Neurons

_WRAPPED = "._original_component"
_LIKENESS = {torch.float64: 1e-6, torch.float32: 1e-4}  # of logits, relative to the largest
_LIKENESS_HALF = 5e-2


@runtime_checkable
class _Saving(Protocol):
    """A tokenizer that can be written to a folder, as Hugging Face's can."""

    def save_pretrained(self, save_directory: str) -> object: ...  # noqa: D102


@contextmanager
def scale_neurons(model: Model, neurons: Neurons, beta: float | int) -> Iterator[None]:
    """Runs inside multiply the neurons' activations by `beta`, at all positions.

    1 changes nothing, 0 erases. No weight is touched, so there is nothing to restore; everything
    that runs the model inside (attribution, circuits, `model.bridge.generate`) sees the edited
    one, and edits inside edits multiply.

    >>> from patching.neurons import Neurons
    >>> model = Model.load("truth/induction")
    >>> before = model.run([0, 5, 6, 5]).logits
    >>> with scale_neurons(model, Neurons([(0, 1)]), 2.0):
    ...     edited = model.run([0, 5, 6, 5]).logits
    >>> bool((model.run([0, 5, 6, 5]).logits == before).all())
    True

    Raises:
        ValueError: if beta is negative or not finite, the model has no such neuron, or no hook
            point shows its neurons (mixtures of experts).
    """
    check_beta(beta)
    check_neurons(model, neurons)
    hooks = []
    for layer, chosen in by_layer(neurons).items():
        points = points_of(model.blocks[layer])
        assert points is not None, "neurons have been checked"
        hooks.append((points.post, _scaling(chosen, beta)))
    with model.hooked(hooks):
        yield


def random_like(neurons: Neurons, model: Model, seed: int = 0) -> Neurons:
    """As many neurons in each layer, drawn at random from those that are not chosen: a control.

    Raises:
        ValueError: if a layer has too few other neurons, or as `scale_neurons`.
    """
    check_neurons(model, neurons)
    rng = random.Random(seed)
    drawn = []
    for layer, chosen in by_layer(neurons).items():
        size = count_neurons(model.blocks[layer])
        others = sorted(set(range(size)) - set(chosen))
        if len(others) < len(chosen):
            raise ValueError(
                f"{len(chosen)} of the {size} neurons of layer {layer} are chosen, which leaves "
                f"{len(others)} for a control of the same size; choose at most half of a layer"
            )
        drawn += [(layer, neuron) for neuron in rng.sample(others, len(chosen))]
    return Neurons(drawn)


@without_gradients
def export_edited(model: Model, neurons: Neurons, beta: float | int, folder: str | Path) -> Path:
    """Write the edited model as a Hugging Face folder, with its tokenizer; returns the folder.

    The neurons' columns of the output projections are multiplied in a copy of the weights; the
    model itself stays as it is. The copy is run against the edited model before anything is
    written.

    Raises:
        ValueError: if the folder exists and is not empty, the copy does not compute what the
            edited model does, or as `scale_neurons`.
    """
    check_beta(beta)
    check_neurons(model, neurons)
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; name a new or an empty folder")
    copy = _copy_plain(model)
    for layer, chosen in by_layer(neurons).items():
        path = _path_of_projection(model, model.blocks[layer])
        _scale_columns(copy.get_submodule(path), chosen, beta)
    _require_alike(model, neurons, beta, copy)
    _write(copy, model.tokenizer, folder)
    return folder


def check_beta(beta: float | int) -> None:
    """Refuse a factor that means nothing.

    Raises:
        ValueError: if it is negative or not finite.
    """
    if not math.isfinite(beta) or beta < 0:
        raise ValueError(
            f"beta is a finite factor from 0 (erase) over 1 (leave) upwards, got {beta}"
        )


def check_neurons(model: Model, neurons: Neurons) -> None:
    """Refuse neurons that the model does not have.

    Raises:
        ValueError: if a layer or neuron is not there, or no hook point shows it.
    """
    for layer, chosen in by_layer(neurons).items():
        if not 0 <= layer < len(model.blocks):
            raise ValueError(
                f"no layer {layer} in {model.name}, whose layers are 0 to {len(model.blocks) - 1}: "
                "were the neurons found in another model?"
            )
        size = count_neurons(model.blocks[layer], model.name)
        if not 0 <= min(chosen) <= max(chosen) < size:
            wrong = min(chosen) if min(chosen) < 0 else max(chosen)
            raise ValueError(
                f"no neuron {wrong} in layer {layer} of {model.name}, which has neurons 0 to "
                f"{size - 1}: were the neurons found in another model?"
            )


def count_neurons(block: Block, name: str = "the model") -> int:
    """How many neurons a layer has: inputs of its MLP's output projection.

    Raises:
        ValueError: if no hook point shows them (mixtures of experts).
    """
    if points_of(block) is None:
        raise ValueError(
            f"{name} shows no neurons in m{block.index}: no hook point reaches inside its MLP "
            "(mixtures of experts), so they cannot be edited"
        )
    projection = _projection(block)
    weight = cast(Tensor, projection.weight)
    return weight.shape[0 if isinstance(projection, Conv1D) else 1]


def by_layer(neurons: Neurons) -> dict[int, list[int]]:
    """The neurons of each layer that has some."""
    layers: dict[int, list[int]] = {}
    for layer, neuron in sorted(neurons):
        layers.setdefault(layer, []).append(neuron)
    return layers


def _scaling(chosen: list[int], beta: float | int) -> Hook:
    def hook(activation: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_mlp"]:
        scaled = activation.clone()
        scaled[..., chosen] *= beta
        return scaled

    return hook


def _projection(block: Block) -> nn.Module:
    return getattr(block.bridge.mlp, "out").original_component  # noqa: B009 - no declared attribute


def _path_of_projection(model: Model, block: Block) -> str:
    """The output projection's name in a Hugging Face model that nobody has wrapped."""
    wanted, wrapped = _projection(block), cast(nn.Module, model.bridge.original_model)
    everywhere = wrapped.named_modules(remove_duplicate=False)
    return next(path.replace(_WRAPPED, "") for path, module in everywhere if module is wanted)


def _copy_plain(model: Model) -> PreTrainedModel:
    """A fresh Hugging Face module with the model's weights, none of it shared."""
    wrapped = cast(PreTrainedModel, model.bridge.original_model)
    copy = type(wrapped)(deepcopy(wrapped.config)).eval()
    nn.Module.to(copy, dtype=model.dtype, device=model.device)
    weights = {key.replace(_WRAPPED, ""): value for key, value in wrapped.state_dict().items()}
    names = copy.state_dict().keys()
    copy.load_state_dict({name: weights[name] for name in names if name in weights}, strict=False)
    return copy


def _scale_columns(projection: nn.Module, chosen: list[int], beta: float | int) -> None:
    weight = cast(Tensor, projection.weight)
    columns = weight.T if isinstance(projection, Conv1D) else weight
    columns[:, chosen] *= beta


def _require_alike(
    model: Model, neurons: Neurons, beta: float | int, copy: PreTrainedModel
) -> None:
    tokens = model.opened.probe.tokens.to(model.device)
    with scale_neurons(model, neurons, beta):
        expected = model.run(tokens).logits
    found = copy(tokens, use_cache=False).logits
    tolerance = _LIKENESS.get(model.dtype, _LIKENESS_HALF)
    if not bool((found - expected).abs().max() <= tolerance * expected.abs().max()):
        raise ValueError(
            f"{model.name} cannot be written: a plain copy of its weights does not compute what it "
            "does (were they changed after loading?)"
        )


def _write(copy: PreTrainedModel, tokenizer: object, folder: Path) -> None:
    """All files or none: into a folder beside it first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        copy.save_pretrained(str(beside))
        if isinstance(tokenizer, _Saving):
            tokenizer.save_pretrained(str(beside))
        beside.chmod(0o755)
        beside.replace(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
