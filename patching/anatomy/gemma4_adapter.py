"""The model library's adapters of Gemma 4, where its layers are written as `gemma4` does."""

from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.factories.architecture_adapter_factory import (
    SUPPORTED_ARCHITECTURES,
    ArchitectureAdapterFactory,
)
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    LinearBridge,
    RMSNormalizationBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures.gemma4 import Gemma4ArchitectureAdapter

from patching.anatomy.gemma4 import Sizes


def with_sizes(own: str, sizes: Sizes) -> str:
    """The name under which the adapter of a class is found that knows layers of these sizes."""
    name = f"{own} with {sizes}"
    made = type(name, (_Shown, SUPPORTED_ARCHITECTURES[own]), {"sizes": sizes})
    ArchitectureAdapterFactory.register_adapter(name, made)
    return name


class _Shown(Gemma4ArchitectureAdapter):
    """Before an adapter class: its mapping, with norms whose formula is said, and q, k, v and o."""

    sizes: Sizes

    def __init__(self, cfg: TransformerBridgeConfig) -> None:
        cfg.d_head, cfg.n_key_value_heads = self.sizes.width, self.sizes.n_shared
        cfg.per_layer_head_dim = None
        super().__init__(cfg)
        mapping = self.components
        last, blocks = str(mapping["ln_final"].name), mapping["blocks"]
        mapping["ln_final"] = RMSNormalizationBridge(last, self.cfg)
        parts: dict[str, GeneralizedComponent] = {
            name: RMSNormalizationBridge(str(blocks.submodules[name].name), self.cfg)
            for name in ("ln1", "ln1_post", "ln2", "ln2_post")
        }
        inside: dict[str, GeneralizedComponent] = {x: LinearBridge(name=x) for x in "qkvo"}
        for name in ("q_norm", "k_norm", "v_norm"):
            inside[name] = RMSNormalizationBridge(f"inner.{name}", self.cfg)
        parts["attn"] = AttentionBridge("self_attn", config=self.cfg, submodules=inside)
        dense = blocks.submodules["mlp"]
        parts["mlp"] = GeneralizedComponent("mlp") if self.sizes.has_experts else dense
        mapping["blocks"] = BlockBridge(str(blocks.name), submodules=parts)
