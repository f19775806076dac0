"""From a name, a folder, a module or a bridge to a booted model. Touches the model library only."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.utilities.attn_implementation import force_eager_attention
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils.hub import cached_file

from patching.anatomy.checkpoint import folder_facts, refuse_hostile, refuse_huge, weight_files
from patching.anatomy.claims import Probe, draw_probe, run_plain
from patching.anatomy.complete import refuse_empty, refuse_incomplete
from patching.anatomy.lenders import adapter_of
from patching.anatomy.refusing import first_line, refusing
from patching.anatomy.silent import with_silent_mlps
from patching.anatomy.spread import Spread, check_spread
from patching.anatomy.ungrouping import Ungrouped, ungroup
from patching.anatomy.weights import Names, hash_files
from patching.models import embedded, embedded_names, trained_folder
from patching.tasks.tokens import Tokenizer

Plain = str | Path | PreTrainedModel | TransformerBridge
Source = Plain | Ungrouped

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


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
class Wishes:
    """How a model is to be loaded; a module or bridge in memory is taken as it is.

    `ungrouped`: with keys and values for every query head.
    """

    dtype: torch.dtype | None
    device: str | None
    revision: str | None
    trust_remote_code: bool
    spread: Spread | None = None
    ungrouped: bool = False


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
    if isinstance(source, nn.Module) and not isinstance(source, PreTrainedModel):
        raise ValueError(
            f"a model in memory is one of Hugging Face's, got a {type(source).__name__}; "
            "pass an AutoModelForCausalLM, a folder or a name"
        )
    if isinstance(source, PreTrainedModel):
        return _boot(source, type(source).__name__, tokenizer, wishes)
    return _open_named(source, tokenizer, wishes)


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
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model folder: it holds no config.json")
    before = folder_facts(folder)
    refuse_hostile(folder)
    module = _from_pretrained(str(folder), wishes)
    weights = _hash_stored(folder, module)
    if folder_facts(folder) != before:
        raise ValueError(f"{folder} was written to while it was loaded; load it again")
    if tokenizer is None and any((folder / name).is_file() for name in _TOKENIZER_FILES):
        tokenizer = _tokenizer(str(folder), wishes)
    return replace(_boot(module, name, tokenizer, wishes), weights=weights)


def _open_hub(name: str, tokenizer: Tokenizer | None, wishes: Wishes) -> Opened:
    module = _from_pretrained(name, wishes)
    if tokenizer is None:
        tokenizer = _tokenizer(name, wishes)
    commit = getattr(module.config, "_commit_hash", None) or wishes.revision
    kept = cached_file(name, "config.json", revision=commit)
    assert kept is not None, "the model has just been loaded from there"
    weights = _hash_stored(Path(kept).parent, module)
    return replace(_boot(module, name, tokenizer, wishes), revision=commit, weights=weights)


def _hash_stored(folder: Path, module: PreTrainedModel) -> str:
    names = Names.of(module)
    return hash_files(weight_files(folder), tied=names.tied, prefix=names.prefix)


def _tokenizer(name: str, wishes: Wishes) -> Tokenizer:
    refuse_huge(Path(name), _TOKENIZER_FILES)
    try:
        return AutoTokenizer.from_pretrained(
            name, revision=wishes.revision, trust_remote_code=wishes.trust_remote_code
        )
    except Exception as error:  # many kinds, by library and format
        raise ValueError(
            f"the tokenizer of {name} cannot be read ({first_line(error)}); give one (tokenizer=)"
        ) from error


def _from_pretrained(name: str, wishes: Wishes) -> PreTrainedModel:
    """The model; of one that sees pictures as well all of it, whose text part is then wrapped.

    Raises:
        ValueError: if it cannot be read.
    """
    spread = {} if wishes.spread is None else wishes.spread.options()
    where = {"revision": wishes.revision, "trust_remote_code": wishes.trust_remote_code}
    try:
        config = type(AutoConfig.from_pretrained(name, **where))
        shows = config not in MODEL_FOR_CAUSAL_LM_MAPPING
        shows = shows and config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        kind = AutoModelForImageTextToText if shows else AutoModelForCausalLM
        loaded: object = kind.from_pretrained(
            name,
            dtype=wishes.dtype or torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **where,
            **spread,
        )
    except Exception as error:  # many kinds, by library and format: said in one line
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if Path(name).is_dir():
            raise ValueError(f"the model in {name} cannot be read: {reason}") from error
        raise ValueError(
            f"no model {name!r}: it is no folder, not embedded ({', '.join(embedded_names())}), "
            f"and the hub did not give it: {reason}"
        ) from error
    module, report = cast(tuple[PreTrainedModel, Mapping[str, Collection[object]]], loaded)
    refuse_incomplete(name, report)
    return module


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
    check_spread(name, module)
    refuse_empty(name, module)
    nn.Module.to(module, dtype=wishes.dtype, device=wishes.device)
    module.eval()
    devices = {str(parameter.device) for parameter in module.parameters()}
    force_eager_attention(module)
    with refusing(name, f"a {type(module).__name__} does not run on a few tokens"):
        probe = run_plain(module, _probe_of(module))
    if wishes.ungrouped:
        ungroup(name, module)
    names = Names.of(module)
    with refusing(name, f"the model library cannot wrap a {type(module).__name__}"):
        own = adapter_of(type(module).__name__)
        bridge = build_bridge_from_module(
            module, own, hf_config=module.config, tokenizer=None, model_name=name
        )
    bridge.cfg.n_devices = len(devices)
    return Opened(name, None, _rest(bridge), tokenizer, names, probe)


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
