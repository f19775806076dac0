"""Classes that the model library has no adapter for, and whose adapter fits them as well.

An adapter says under which names a model's modules are found. Whether a borrowed one tells the
truth is for the proof to say, as of every other: that the wrapped model is the plain one, its
writers rebuild its stream, and nothing else is read.
"""

from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

_LENDERS = {
    "AXK1ForCausalLM": "DeepseekV3ForCausalLM",
    "AriaTextForCausalLM": "PhiMoEForCausalLM",
    "CwmForCausalLM": "LlamaForCausalLM",
    "DeepseekV32ForCausalLM": "DeepseekV3ForCausalLM",
    "Dots1ForCausalLM": "Qwen3MoeForCausalLM",
    "Emu3ForCausalLM": "LlamaForCausalLM",
    "Gemma4UnifiedForCausalLM": "Gemma4ForCausalLM",
    "GraniteSWAForCausalLM": "GraniteForCausalLM",
    "HYV3ForCausalLM": "Qwen3MoeForCausalLM",
    "HeliumForCausalLM": "Ernie4_5ForCausalLM",
    "MellumForCausalLM": "Qwen3MoeForCausalLM",
    "MinistralForCausalLM": "MistralForCausalLM",
    "Phi4MultimodalForCausalLM": "Phi3ForCausalLM",
    "PhimoeForCausalLM": "PhiMoEForCausalLM",
    "SolarOpenForCausalLM": "MixtralForCausalLM",
}


def adapter_of(class_name: str) -> str:
    """The class by whose adapter a model of this class is read: its own, where the library has one.

    >>> adapter_of("MinistralForCausalLM"), adapter_of("LlamaForCausalLM")
    ('MistralForCausalLM', 'LlamaForCausalLM')
    """
    if class_name in SUPPORTED_ARCHITECTURES:
        return class_name
    return _LENDERS.get(class_name, class_name)
