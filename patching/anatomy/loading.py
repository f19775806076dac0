"""From a name, a folder, a module or a bridge to a booted model. Touches the model library only."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.utilities.attn_implementation import force_eager_attention
from transformers import PreTrainedModel

from patching.anatomy.adapters import is_adapter
from patching.anatomy.claims import Probe, draw_probe, run_plain
from patching.anatomy.complete import refuse_empty
from patching.anatomy.gemma4 import is_gemma4, show_readers
from patching.anatomy.gemma4_adapter import with_sizes
from patching.anatomy.latent import show_latents
from patching.anatomy.latent_adapter import with_latents
from patching.anatomy.lenders import adapter_of
from patching.anatomy.quantised import refuse_quantised
from patching.anatomy.refusing import refusing
from patching.anatomy.silent import with_silent_mlps
from patching.anatomy.spread import check_spread
from patching.anatomy.stored import (
    Wishes,
    read_adapted,
    read_folder,
    read_hub,
    tokenizer_of,
    tokenizer_on_hub,
)
from patching.anatomy.ungrouping import Ungrouped, ungroup
from patching.anatomy.weights import Names
from patching.anatomy.wrappers import refuse_adapted, unwrapped
from patching.models import embedded, embedded_names, trained_folder
from patching.tasks.tokens import Tokenizer

Plain = str | Path | nn.Module
"""A name, a folder, or a module: Hugging Face's, one around it, or a TransformerBridge."""

Source = Plain | Ungrouped


@dataclass(frozen=True)
class Opened:
    """A booted model and what is known of its origin.

    `names` are the checkpoint's for its tensors; `probe` is for `prove`. `weights` is the hash of
    the files it was read from, and `reference` says how to open the same model in another process;
    both are None where it was made of something in memory.
    """

    name: str
    revision: str | None
    bridge: TransformerBridge
    tokenizer: Tokenizer | None
    names: Names
    probe: Probe
    weights: str | None = None
    reference: "Reference | None" = None

    def in_memory(self) -> "Opened":
        """The same as something that was made in memory, as it is now."""
        probe = Probe(self.probe.tokens)
        return replace(self, weights=None, reference=None, probe=probe)


@dataclass(frozen=True)
class Reference:
    """A model by its name or folder, and how it is loaded: enough to load it again elsewhere."""

    source: str
    wishes: Wishes


def open_source(source: Source, tokenizer: Tokenizer | None, wishes: Wishes) -> Opened:
    """Boot a model in evaluation mode, with frozen parameters and eager attention.

    Raises:
        ValueError: if there is no such model, it cannot be read, or the module is already booted.
    """
    if isinstance(source, Ungrouped):
        source, wishes = source.source, replace(wishes, ungrouped=True)
    shown = str(source) if isinstance(source, str | Path) else type(source).__name__
    with refusing(shown, "it cannot be loaded", own=True):
        return _open(source, tokenizer, wishes)


def _open(source: Plain, tokenizer: Tokenizer | None, wishes: Wishes) -> Opened:
    if wishes.spread is not None and not isinstance(source, str | Path):
        raise ValueError(
            "a model in memory stays where it lies: load a folder or a name over several devices, "
            "or have accelerate dispatch the module before"
        )
    if isinstance(source, TransformerBridge):
        if wishes.ungrouped:
            raise ValueError(
                "a TransformerBridge is wrapped already, with the keys and values that it has; "
                "give its module, folder or name"
            )
        source.to(dtype=wishes.dtype, device=wishes.device)
        whole = with_silent_mlps(source)
        opened = _opened(whole, source.cfg.model_name, None, tokenizer or source.tokenizer)
        probe = opened.probe if whole is source else run_plain(source, opened.probe)
        return replace(opened, probe=probe)
    if not isinstance(source, nn.Module):
        return _open_named(source, tokenizer, wishes)
    module = unwrapped(source)
    name = type(module).__name__
    refuse_adapted(name, module)
    if not isinstance(module, PreTrainedModel):
        raise ValueError(
            f"a model in memory is one of Hugging Face's, got a {name}; pass an "
            "AutoModelForCausalLM, a folder or a name"
        )
    return _boot(module, name, tokenizer, wishes)


def _open_named(source: str | Path, tokenizer: Tokenizer | None, wishes: Wishes) -> Opened:
    name = str(source)
    if Path(source).is_dir():
        opened = _open_folder(Path(source), Path(source).resolve().name, tokenizer, wishes)
        return replace(opened, reference=Reference(str(Path(source).resolve()), wishes))
    if name in embedded_names() and wishes.spread is not None:
        raise ValueError(f"{name} is embedded and fits anywhere: give a device, no device map")
    folder = trained_folder(name)
    if folder is not None:
        opened = _open_folder(folder, name, tokenizer, wishes)
        return replace(opened, reference=Reference(name, wishes))
    known = embedded(name, dtype=wishes.dtype or torch.float32)
    if known is not None:
        opened = _boot(known[0], name, tokenizer or cast(Tokenizer, known[1]), wishes)
        return replace(opened, reference=Reference(name, wishes))
    opened = _open_hub(name, tokenizer, wishes)
    there = replace(wishes, revision=opened.revision)
    return replace(opened, reference=Reference(name, there))


def _open_folder(folder: Path, name: str, tokenizer: Tokenizer | None, wishes: Wishes) -> Opened:
    module, weights = (read_adapted if is_adapter(folder) else read_folder)(folder, wishes)
    if tokenizer is None:
        tokenizer = tokenizer_of(folder, wishes)
    return replace(_boot(module, name, tokenizer, wishes), weights=weights)


def _open_hub(name: str, tokenizer: Tokenizer | None, wishes: Wishes) -> Opened:
    module, weights, commit = read_hub(name, wishes)
    if tokenizer is None:
        tokenizer = tokenizer_on_hub(name, replace(wishes, revision=commit))
    return replace(_boot(module, name, tokenizer, wishes), revision=commit, weights=weights)


def _boot(
    module: PreTrainedModel, name: str, tokenizer: Tokenizer | None, wishes: Wishes
) -> Opened:
    if any(isinstance(part, GeneralizedComponent) for part in module.modules()):
        raise ValueError(
            f"this {type(module).__name__} is already wrapped by a TransformerBridge, which "
            "changes a module in place; pass the bridge, or a fresh copy of the module"
        )
    if getattr(module.config, "is_encoder_decoder", False):
        raise ValueError(f"{name} is refused: it is an encoder with a decoder, not one stack")
    refuse_adapted(name, module)
    check_spread(name, module)
    refuse_empty(name, module)
    refuse_quantised(name, module)
    nn.Module.to(module, dtype=wishes.dtype, device=wishes.device)
    module.eval()
    devices = {str(parameter.device) for parameter in module.parameters()}
    force_eager_attention(module)
    with refusing(name, f"a {type(module).__name__} does not run on a few tokens"):
        probe = run_plain(module, _probe_of(module))
    if wishes.ungrouped and not is_gemma4(module):
        ungroup(name, module)
    own = adapter_of(type(module).__name__)
    with refusing(name, "its layers hold what this workbench does not know"):
        own = _rewritten(module, own, ungrouped=wishes.ungrouped)
    with refusing(name, f"the model library cannot wrap a {type(module).__name__}"):
        names = Names.of(module)
        bridge = build_bridge_from_module(
            module, own, hf_config=module.config, tokenizer=None, model_name=name
        )
    bridge.cfg.n_devices = len(devices)
    return Opened(name, None, _rest(bridge), tokenizer, names, probe)


def _rewritten(module: PreTrainedModel, own: str, *, ungrouped: bool) -> str:
    """The adapter for a module, whose layers are written anew in place where readers hide in them.

    Raises:
        ValueError: if it reads what no edge carries, or cannot be ungrouped.
    """
    if own not in SUPPORTED_ARCHITECTURES:
        return own
    if is_gemma4(module):
        return with_sizes(own, show_readers(module, ungrouped=ungrouped))
    width = show_latents(module)
    if width is None:
        return own
    if ungrouped:
        raise ValueError("all its keys and values come from one latent; load it as it is")
    return with_latents(own, width)


def _probe_of(module: PreTrainedModel) -> Probe:
    embeddings = cast(nn.Embedding, module.get_input_embeddings())
    longest = getattr(module.config, "max_position_embeddings", None)
    return draw_probe(embeddings.num_embeddings, longest if longest and longest > 0 else 7)


def _opened(
    bridge: TransformerBridge, name: str, revision: str | None, tokenizer: Tokenizer | None
) -> Opened:
    probe = draw_probe(int(bridge.cfg.d_vocab), int(bridge.cfg.n_ctx))
    names = Names.of(cast(nn.Module, bridge.original_model))
    return Opened(name, revision, _rest(bridge), tokenizer, names, probe)


def _rest(bridge: TransformerBridge) -> TransformerBridge:
    bridge.eval()
    bridge.requires_grad_(False)
    return bridge
