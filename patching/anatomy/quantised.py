"""Quantised models: dequantised while they are loaded, where transformers can, else refused.

Edges are measured by products with weights, which must be the numbers that runs compute with.
"""

from collections.abc import Callable, Mapping

from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.quantization_config import FineGrainedFP8Config, Mxfp4Config

_DEQUANTISES: Mapping[str, Callable[..., object]] = {
    "fp8": FineGrainedFP8Config,
    "mxfp4": Mxfp4Config,
}
_BY_PACKAGE = tuple(
    "bitsandbytes torchao torch.ao gptqmodel auto_gptq awq optimum hqq eetq quanto aqlm".split()
)
_WAY_OUT = (
    "load the model that it was made of, or dequantise it first (transformers: model.dequantize(), "
    "where its method can; then save_pretrained)"
)


def dequantising(name: str, config: PreTrainedConfig) -> dict[str, object]:
    """Options of from_pretrained with which a quantised checkpoint is loaded as plain numbers.

    Raises:
        ValueError: if its method has no way to.
    """
    said = getattr(config, "quantization_config", None)
    if said is None:
        return {}
    said = said if isinstance(said, Mapping) else vars(said)
    method = str(getattr(said.get("quant_method"), "value", said.get("quant_method")))
    if method not in _DEQUANTISES:
        raise ValueError(f"{name} is refused: its weights are quantised ({method}); {_WAY_OUT}")
    return {"quantization_config": _DEQUANTISES[method](dequantize=True)}


def refuse_quantised(name: str, module: nn.Module) -> None:
    """Refuse a module some of whose weights are no plain floating-point numbers.

    Raises:
        ValueError: naming the first.
    """
    for place, part in module.named_modules():
        if type(part).__module__.startswith(_BY_PACKAGE):
            raise ValueError(
                f"{name} is refused: its weights are quantised ({place} is a "
                f"{type(part).__name__}); {_WAY_OUT}"
            )
    for place, weight in module.named_parameters():
        plain = weight.dtype.is_floating_point and weight.element_size() > 1
        if not plain or type(weight.data).__module__.startswith(_BY_PACKAGE):
            raise ValueError(
                f"{name} is refused: its weights are quantised ({place} is {weight.dtype}); "
                f"{_WAY_OUT}"
            )
