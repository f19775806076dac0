"""What published names of activations mean here: hook names of libraries as names of places.

`m3.x_hat` is the normalised input of an MLP before its norm's gamma and beta: no place of a model,
but when a dictionary is attached, gamma and beta go into its encoder and it reads `m3.in`.
"""

import re
from collections.abc import Mapping

_TRANSFORMER_LENS: Mapping[str, str] = {
    "hook_resid_pre": "r{}.pre",
    "hook_in": "r{}.pre",
    "hook_resid_mid": "r{}.mid",
    "hook_resid_post": "r{}.post",
    "hook_out": "r{}.post",
    "ln2.hook_normalized": "m{}.x_hat",
    "mlp.hook_in": "m{}.in",
    "hook_mlp_out": "m{}",
    "mlp.hook_out": "m{}.out",
    "mlp.hook_post": "m{}.neurons",
    "hook_attn_out": "a{}",
    "attn.hook_z": "a{}.z",
}
"""Behind `blocks.3.`; what a layer's norm returns is read as in models that are not folded."""

_HUGGING_FACE: Mapping[str, str] = {
    "": "r{}.post",
    "output": "r{}.post",
    "input": "r{}.pre",
    "mlp": "m{}.out",
    "mlp.output": "m{}.out",
    "mlp.input": "m{}.in",
    "pre_feedforward_layernorm.output": "m{}.in",
    "post_feedforward_layernorm.output": "m{}",
    "self_attn.o_proj.input": "a{}.z",
}
"""Behind `model.layers.3.`, of families whose blocks are built like Llama's or Gemma's."""

_DICTIONARY_LEARNING: Mapping[str, str] = {
    "resid": "r{}.post",
    "mlp": "m{}.out",
    "attn": "a{}",
    "attention": "a{}",
}

_TL = re.compile(r"blocks\.(\d+)\.(.+)")
_HF = re.compile(r"(?:.+\.)?(?:layers|h)\.(\d+)(?:\.(.+))?")
_DL = re.compile(r"(resid|mlp|attn|attention)(?:_out|_post)?_?(?:layer_?)?(\d+)")


def place_of(hook: str) -> str:
    """The place that a published hook name means.

    >>> place_of("blocks.3.ln2.hook_normalized"), place_of("model.layers.2.output")
    ('m3.x_hat', 'r2.post')

    Raises:
        ValueError: if it means none that is known, or more than one.
    """
    if hook in ("hook_embed", "embed", "model.embed_tokens", "model.embed_tokens.output"):
        return "embed"
    if (found := _TL.fullmatch(hook)) and found[2] in _TRANSFORMER_LENS:
        return _TRANSFORMER_LENS[found[2]].format(found[1])
    if (found := _HF.fullmatch(hook)) and (found[2] or "") in _HUGGING_FACE:
        return _HUGGING_FACE[found[2] or ""].format(found[1])
    if found := _DL.fullmatch(hook):
        return _DICTIONARY_LEARNING[found[1]].format(found[2])
    raise ValueError(
        f"nothing here says which activation {hook!r} is; say where the dictionary reads and "
        "writes: reads='m3.in', writes='m3' of a transcoder, reads='r3.post' of an autoencoder"
    )


def hook_of(place: str) -> str:
    """A place by the hook name that SAELens and circuit-tracer publish.

    Raises:
        ValueError: if they have none for it.
    """
    found = re.fullmatch(r"([rma])(\d+)(.*)", place)
    spelled = "" if found is None else f"{found[1]}{{}}{found[3]}"
    for hook, name in _TRANSFORMER_LENS.items():
        if name == spelled and hook not in ("hook_in", "hook_out") and found is not None:
            return f"blocks.{found[2]}.{hook}"
    if place == "embed":
        return "hook_embed"
    raise ValueError(f"no hook name is published for dictionaries at {place!r}")
