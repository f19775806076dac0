"""A tiny random model of every causal language model class that transformers has."""

import contextlib
import inspect
import warnings
from collections.abc import Iterable

import torch
import transformers as hf
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCAB = 97
SEEN = 7  # tokens of a prompt

_BY_SIZE: dict[int | str, str] = {
    VOCAB: "vocab_size vocab_size_per_layer_input n_words pronunciation_vocab_size "
    "shape_vocab_size",
    32: "hidden_size d_model n_embd dim embedding_size embed_dim n_embed word_embed_proj_dim "
    "projection_dim decoder_hidden_size text_hidden_size attention_hidden_size lru_width "
    "out_hidden_size conv_dim oe_split_embed_dim",
    48: "intermediate_size ffn_dim n_inner ffn_hidden_size d_ff intermediate_size_mlp dff d_inner "
    "mlp_hidden decoder_ffn_dim encoder_ffn_dim feed_forward_hidden_size inner_dim dim_ff "
    "mlp_intermediate_size block_ff_dim",
    24: "shared_intermediate_size moe_intermediate_size shared_expert_intermediate_size "
    "expert_intermediate_size moe_shared_expert_intermediate_size expert_ffn_hidden_size",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers depth "
    "num_decoder_layers num_key_value_heads num_kv_heads num_global_key_value_heads "
    "num_experts_per_tok moe_k num_experts_per_token top_k moe_topk top_k_experts index_n_heads "
    "moe_top_k mamba_expand n_mamba_heads linear_num_key_heads altup_num_inputs type_vocab_size "
    "eos_token_id sep_token_id",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads moe_num_experts "
    "decoder_attention_heads num_local_experts num_experts n_routed_experts index_topk "
    "sliding_window window_size attention_window rotary_dim mamba_d_conv mamba_dt_rank "
    "time_step_rank linear_num_value_heads conv_kernel attention_window_size conv1d_width "
    "zero_expert_num",
    8: "head_dim d_kv attention_head_dim kv_channels global_head_dim hidden_size_per_layer_input "
    "qk_rope_head_dim qk_nope_head_dim v_head_dim query_pre_attn_scalar attention_chunk_size "
    "mamba_d_state mamba_n_heads mamba_num_heads mamba_d_head mamba_head_dim mamba_chunk_size "
    "state_size ssm_state_size chunk_size linear_key_head_dim linear_value_head_dim laurel_rank "
    "patch_size adapter_rank",
    1: "n_shared_experts num_shared_experts moe_num_shared_experts first_k_dense_replace n_group "
    "moe_layer_start_index num_dense_layers topk_group mamba_n_groups n_groups mamba_ngroups "
    "spatial_merge_size bos_token_id decoder_start_token_id cls_token_id",
    64: "max_position_embeddings n_positions n_ctx max_seq_len max_sequence_length context_length "
    "mamba_d_ssm block_size",
    16: "kv_lora_rank qk_head_dim index_head_dim image_size",
    12: "q_lora_rank",
    3: "num_channels linear_conv_kernel_dim conv_L_cache mask_token_id",
    0: "num_nextn_predict_layers num_kv_shared_layers pad_token_id dropout attention_dropout "
    "resid_pdrop embd_pdrop attn_pdrop hidden_dropout activation_dropout layerdrop "
    "embedding_dropout classifier_dropout hidden_dropout_prob attention_probs_dropout_prob",
}
_SMALL: dict[str, object] = {key: size for size, keys in _BY_SIZE.items() for key in keys.split()}

_LOCAL_GLOBAL = {"layer_types": ["sliding_attention", "full_attention"]}
_LINEAR_FULL = {"layer_types": ["linear_attention", "full_attention"]}
_CONV_FULL = {"layer_types": ["conv", "full_attention"]}
_LATENT = {"num_key_value_heads": 4}
_GEMMA_4 = {
    **_LOCAL_GLOBAL,
    "hidden_size_per_layer_input": 0,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
}
_PECULIAR: dict[str, dict[str, object]] = {
    "AXK1ForCausalLM": _LATENT,
    "AXK2ForCausalLM": _LATENT,
    "AfmoeForCausalLM": _LOCAL_GLOBAL,
    "BailingHybridForCausalLM": _LATENT,
    "BambaForCausalLM": {"attn_layer_indices": [1]},
    "BertLMHeadModel": {"is_decoder": True},
    "BloomForCausalLM": {"num_key_value_heads": None},
    "Cohere2ForCausalLM": _LOCAL_GLOBAL,
    "DeepseekV2ForCausalLM": {**_LATENT, "first_k_dense_replace": 0, "topk_method": "greedy"},
    "DeepseekV2ForCausalLM:lite": {
        **_LATENT,
        "first_k_dense_replace": 0,
        "topk_method": "greedy",
        "q_lora_rank": None,
    },
    "DeepseekV32ForCausalLM": {**_LATENT, "index_topk": 64},
    "DeepseekV3ForCausalLM": _LATENT,
    "Exaone4ForCausalLM": {**_LOCAL_GLOBAL, "sliding_window_pattern": 2},
    "FalconForCausalLM": {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 2},
    "FalconForCausalLM:7b": {"multi_query": True, "parallel_attn": True},
    "FalconForCausalLM:rw": {"multi_query": False, "parallel_attn": False, "alibi": True},
    "FalconMambaForCausalLM": {"expand": 2, "intermediate_size": 64},
    "GPTBigCodeForCausalLM:mha": {"multi_query": False},
    "GPTNeoForCausalLM": {"attention_types": [[["global", "local"], 1]]},
    "GPTNeoXForCausalLM:sequential": {"use_parallel_residual": False},
    "Gemma2ForCausalLM": _LOCAL_GLOBAL,
    "Gemma3ForCausalLM": _LOCAL_GLOBAL,
    "Gemma3nForCausalLM": {
        **_LOCAL_GLOBAL,
        "intermediate_size": [48, 48],
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "Gemma4ForCausalLM": _LOCAL_GLOBAL,
    "Gemma4ForCausalLM:experts": {**_GEMMA_4, "enable_moe_block": True},
    "Gemma4ForCausalLM:no-ple": {**_LOCAL_GLOBAL, "hidden_size_per_layer_input": 0},
    "Gemma4ForCausalLM:wide": _GEMMA_4,
    "Gemma4ForConditionalGeneration:wide": {"text_config": _GEMMA_4},
    "Gemma4UnifiedForCausalLM": _GEMMA_4,
    "Gemma4UnifiedForConditionalGeneration": {"text_config": _GEMMA_4},
    "Glm4MoeLiteForCausalLM": _LATENT,
    "GlmMoeDsaForCausalLM": {**_LATENT, "index_topk": 64},
    "GlmMoeDsaForCausalLM:shared": {
        **_LATENT,
        "index_topk": 64,
        "indexer_types": ["full", "shared"],
    },
    "GlmMoeDsaForCausalLM:sparse": _LATENT,
    "GptOssForCausalLM": _LOCAL_GLOBAL,
    "GraniteForCausalLM": {
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.5,
        "embedding_multiplier": 2.0,
        "logits_scaling": 2.0,
    },
    "GraniteMoeForCausalLM": {"residual_multiplier": 0.3},
    "GraniteMoeHybridForCausalLM": {"layer_types": ["mamba", "attention"]},
    "GraniteMoeHybridForCausalLM:attention": {
        "layer_types": ["attention", "attention"],
        "num_local_experts": 0,
    },
    "JambaForCausalLM": {
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
    },
    "KimiLinearForCausalLM": _LATENT,
    "LagunaForCausalLM": {**_LOCAL_GLOBAL, "num_attention_heads_per_layer": [4, 4]},
    "Lfm2ForCausalLM": {**_CONV_FULL, "block_auto_adjust_ff_dim": False},
    "Lfm2MoeForCausalLM": _CONV_FULL,
    "Llama4ForCausalLM": {
        "moe_layers": [0, 1],
        "interleave_moe_layer_step": 1,
        "no_rope_layers": [1, 0],
        "layer_types": ["chunked_attention", "full_attention"],
        "num_experts_per_tok": 1,
    },
    "LongcatFlashForCausalLM": _LATENT,
    "Mamba2ForCausalLM": {"expand": 2, "num_heads": 8, "head_dim": 8},
    "MambaForCausalLM": {"expand": 2, "intermediate_size": 64},
    "MiniCPM3ForCausalLM": _LATENT,
    "MiniMaxM2ForCausalLM": {"rotary_dim": 8},
    "MinistralForCausalLM": _LOCAL_GLOBAL,
    "ModernBertDecoderForCausalLM": {**_LOCAL_GLOBAL, "local_attention": 8},
    "MptForCausalLM": {"expansion_ratio": 2},
    "NemotronHForCausalLM": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "attention", "mlp", "attention"],
    },
    "OPTForCausalLM:post-norm": {"do_layer_norm_before": False},
    "Olmo3ForCausalLM": _LOCAL_GLOBAL,
    "OlmoForCausalLM": {"clip_qkv": None},
    "OlmoHybridForCausalLM": _LINEAR_FULL,
    "PhiForCausalLM": {"num_key_value_heads": 4},
    "Qwen2MoeForCausalLM": {"decoder_sparse_step": 1, "mlp_only_layers": []},
    "Qwen3MoeForCausalLM": {"mlp_only_layers": []},
    "Qwen3NextForCausalLM": {**_LINEAR_FULL, "mlp_only_layers": []},
    "Qwen3_5ForCausalLM": _LINEAR_FULL,
    "Qwen3_5MoeForCausalLM": _LINEAR_FULL,
    "RecurrentGemmaForCausalLM": {"block_types": ["recurrent", "attention"]},
    "RobertaForCausalLM": {"max_position_embeddings": 66, "is_decoder": True},
    "SmolLM3ForCausalLM": {
        "no_rope_layers": [1, 0],
        "layer_types": ["full_attention", "full_attention"],
    },
    "StableLmForCausalLM:parallel": {"use_parallel_residual": True, "qk_layernorm": True},
    "VaultGemmaForCausalLM": _LOCAL_GLOBAL,
    "YoutuForCausalLM": _LATENT,
    "Zamba2ForCausalLM": {
        "num_hidden_layers": 4,
        "hybrid_layer_ids": [1],
        "layers_block_type": ["mamba", "hybrid", "mamba", "mamba"],
        "use_mamba_kernels": False,
        "num_mem_blocks": 1,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
    },
}
_ELSEWHERE = {
    "BltForCausalLM": "reads bytes, which another model cuts into patches",
    "MusicgenForCausalLM": "reads several codebooks of sounds at once",
    "MusicgenMelodyForCausalLM": "reads several codebooks of sounds at once",
}


def names() -> tuple[str, ...]:
    """Every class of transformers' causal language models, and some variants (`class:variant`)."""
    listed = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
    classes = {name for entry in listed for name in ([entry] if isinstance(entry, str) else entry)}
    return tuple(sorted(classes | {name for name in _PECULIAR if ":" in name}))


def build(name: str, seed: int = 0) -> hf.PreTrainedModel:
    """A fresh tiny model in float32, with weights so large that nothing is nearly linear.

    Raises:
        ValueError: if the class reads no tokens, or takes too long to build.
    """
    if name in _ELSEWHERE:
        raise ValueError(_ELSEWHERE[name])
    cls = getattr(hf, name.partition(":")[0])
    config = _config(cls.config_class, _PECULIAR.get(name, {}))
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = cls._from_config(config, attn_implementation="eager")
        except Exception:  # no such switch
            model = cls._from_config(config)
    _shake(model)
    return model.float().eval()


def logits_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """What the plain model computes for some tokens."""
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def _shake(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.25 if parameter.shape[-1] >= 16 else 0.5)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):  # of Gemma 4, stored and 1 in a fresh model
                buffer.uniform_(0.3, 0.7)


def _config(cls: type[hf.PretrainedConfig], peculiar: dict[str, object]) -> hf.PretrainedConfig:
    """A small config of a class: every size that it knows, in its parts likewise."""
    usual = cls()
    values = {**_sizes(cls, usual), **_parts(usual, peculiar)}
    if getattr(usual, "layer_types", None) and "layer_types" in usual.to_dict():
        kinds = list(dict.fromkeys(usual.layer_types))
        values["layer_types"] = [kinds[i % len(kinds)] for i in range(2)]
    peculiar = {key: value for key, value in peculiar.items() if not isinstance(value, dict)}
    values.update(peculiar)
    while True:
        try:
            return cls(**values)
        except Exception as error:
            bad = next((k for k in values if k in str(error) and k not in peculiar), None)
            if bad is None:
                raise
            values.pop(bad)  # a size that this class wants otherwise


def _sizes(cls: type[hf.PretrainedConfig], usual: hf.PretrainedConfig) -> dict[str, object]:
    aliases = getattr(cls, "attribute_map", None) or {}
    known = {*usual.to_dict(), *inspect.signature(cls.__init__).parameters} - set(aliases)
    sizes = {key: small for key, small in _SMALL.items() if key in known}
    sizes |= {"use_cache": False} if "use_cache" in known else {}
    sizes |= {"rope_scaling": None} if "rope_scaling" in known else {}
    return {key: small for key, small in sizes.items() if not _is_list(usual, key)}


def _is_list(usual: hf.PretrainedConfig, key: str) -> bool:
    value = _get(usual, key)
    return isinstance(value, Iterable) and not isinstance(value, str)


def _parts(usual: hf.PretrainedConfig, peculiar: dict[str, object]) -> dict[str, object]:
    """Configs inside a config, each with what is peculiar in it."""
    parts = {key: _get(usual, key) for key in usual.to_dict()}
    found = {key: part for key, part in parts.items() if isinstance(part, hf.PretrainedConfig)}
    return {key: _config(type(p), peculiar.get(key, {})).to_dict() for key, p in found.items()}


def _get(config: hf.PretrainedConfig, key: str) -> object:
    with contextlib.suppress(Exception):  # some refuse to say what differs between layers
        return getattr(config, key, None)
    return None
