"""The model library's adapters of families with latent attention, where readers stand before it."""

from transformer_lens.factories.architecture_adapter_factory import (
    SUPPORTED_ARCHITECTURES,
    ArchitectureAdapterFactory,
)
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    LinearBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures.deepseek_v2 import (
    DeepSeekMLAFamilyArchitectureAdapter,
)


def with_latents(own: str, width: int) -> str:
    """The name under which the adapter of a class is found that knows readers of this width."""
    name = f"{own} with readers of {width}"
    made = type(name, (_WithLatents, SUPPORTED_ARCHITECTURES[own]), {"width": width})
    ArchitectureAdapterFactory.register_adapter(name, made)
    return name


class _WithLatents(DeepSeekMLAFamilyArchitectureAdapter):
    """Before an adapter class: its mapping, with an attention that has q, k, v and o."""

    width: int

    def _build_component_mapping(self) -> dict[str, GeneralizedComponent]:
        self.cfg.d_head, self.cfg.n_key_value_heads = self.width, 1
        mapping = super()._build_component_mapping()
        parts: dict[str, GeneralizedComponent] = {x: LinearBridge(name=x) for x in "qkvo"}
        blocks = mapping["blocks"].submodules
        blocks["attn"] = AttentionBridge(name="self_attn", config=self.cfg, submodules=parts)
        mapping["blocks"] = BlockBridge(name=mapping["blocks"].name, submodules=blocks)
        return mapping
