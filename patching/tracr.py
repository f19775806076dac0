"""Compiled programs: transformers made from RASP code, whose circuit is therefore known.

Tracr (Lindner et al. 2023, arXiv:2301.05062) writes the weights of a transformer without norms,
in which every position sees every other. A folder holds one of them: `weights.npz` under the model
library's old parameter names (`blocks.0.attn.W_Q`, ...), `config.json` with its shapes, `io.json`
with prompts and what the compiler's own runtime says to them, and `circuit.json` with its edges.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import native
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

from patching.files.brief import briefly
from patching.files.parsing import read_json, shown
from patching.files.tensors import read_npz
from patching.files.whole import inside
from patching.model import Model
from patching.models import Known
from patching.tasks.task import Batch, Prompt, Task

FILES = ("config.json", "weights.npz", "io.json", "circuit.json")
SHAPES = ("n_layers", "n_heads", "d_head", "d_model", "d_mlp", "n_ctx", "d_vocab")
OUTSIDE = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U"}
OUTPUT_ERROR = 1e-5  # stored outputs are rounded to six digits


@briefly
@dataclass(frozen=True)
class Examples:
    """Prompts of equal length with the outputs that the compiler's own runtime gives."""

    tokens: Int[Tensor, "example pos"]
    outputs: Float[Tensor, "example pos output"]


def load_tracr(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[Model, Known]:
    """A compiled program, proven to give its stored outputs, with a task and its circuit.

    The logits are the program's output at the last position: one for each value it can have, or
    one number. The task pairs each stored prompt with the next one that has another output there.
    Answers and wrong answers are numbers of outputs: the largest of the clean and of the corrupt
    prompt (where that is the same, as for a program whose output is one number, none is wrong;
    judge it by `nearness`). The circuit is that of the file.

    Raises:
        ValueError: if a file is missing or malformed, the model has norms, weights are missing or
            of other shapes, or the model does not give the stored outputs.
    """
    folder = Path(folder)
    config, named = _config(folder), _named_edges(folder)
    bridge = _boot(folder, config, dtype)
    examples = read_examples(folder)
    _require_outputs(folder, bridge, examples)
    model = Model.load(bridge)
    for edge in sorted(named["structural"] | named["active"]):
        try:
            model.graph.edge_index(*edge.split("->"))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder}/circuit.json: {error}") from None
    return model, Known(_task(folder, model, examples), **named)


def read_examples(folder: str | Path) -> Examples:
    """The stored prompts and outputs of a compiled program.

    Raises:
        ValueError: if the file is missing or malformed, or prompts differ in length.
    """
    rows = read_json(_find(Path(folder), "io.json"))
    try:
        tokens = torch.tensor([row["tokens"] for row in _as_list(rows)])
        outputs = torch.tensor([row["resid"] for row in _as_list(rows)], dtype=torch.float64)
        if (
            tokens.dtype != torch.long
            or tokens.ndim != 2
            or not tokens.numel()
            or outputs.ndim != 3
        ):
            raise ValueError(f"shapes are {list(tokens.shape)} and {list(outputs.shape)}")
    except (TypeError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{folder}/io.json lists examples of one length, each with tokens and resid: {error}"
        ) from error
    return Examples(tokens, outputs)


def _as_list(rows: object) -> list:
    if not isinstance(rows, list) or not rows:
        raise ValueError("it is no list, or an empty one")
    return rows


def edge_name(edge: str) -> str:
    """An edge of EAP-IG's spelling in that of this workbench.

    >>> edge_name("input->a0.h0<q>"), edge_name("m0->logits")
    ('embed->a0.h0.q', 'm0->logits')
    """
    source, _, dest = edge.partition("->")
    return f"{'embed' if source == 'input' else source}->{dest.replace('<', '.').rstrip('>')}"


def nearness(logits: Float[Tensor, "asked vocab"], batch: Batch) -> Float[Tensor, " batch"]:
    """Minus the distance between this run's outputs and those of the clean run; at most 0.

    For programs, whose outputs are coordinates and may be numbers. It has no gradient at the clean
    run.

    Raises:
        ValueError: if the batch does not carry the logits of the clean run.
    """
    if batch.clean_logits is None:
        raise ValueError("nearness compares with the clean run, and this batch has no clean logits")
    return -torch.linalg.vector_norm(logits - batch.clean_logits, dim=-1)


def _config(folder: Path) -> Mapping[str, Any]:
    """What config.json says, with whole numbers for all shapes.

    Raises:
        ValueError: as `load_tracr` does.
    """
    config = read_json(_find(folder, "config.json"))
    missing = [
        key for key in SHAPES if not isinstance(config, dict) or type(config.get(key)) is not int
    ]
    if missing or not isinstance(config, dict):
        raise ValueError(f"{folder}/config.json lacks {', '.join(missing)}")
    low = [key for key in SHAPES if config[key] < 1]
    if low:
        raise ValueError(f"{folder}/config.json says that {low[0]} is {shown(config[low[0]])}")
    if config.get("layer_norm", False):
        raise ValueError(f"{folder} is refused: compiled programs have no norms, this one has")
    for key, kind in (("act", str), ("causal", bool)):
        if not isinstance(config.get(key, kind()), kind):
            raise ValueError(f"{folder}/config.json says that {key} is {shown(config[key])}")
    return config


def _named_edges(folder: Path) -> dict[str, frozenset[str]]:
    circuit = read_json(_find(folder, "circuit.json"))
    named = {}
    for kind, key in (("structural", "structural"), ("active", "active_under_resample")):
        edges = circuit.get(key, []) if isinstance(circuit, dict) else None
        if not isinstance(edges, list) or not all(isinstance(edge, str) for edge in edges):
            raise ValueError(f"{folder}/circuit.json: {key} should be a list of edges")
        named[kind] = frozenset(map(edge_name, edges))
    return named


def _boot(folder: Path, config: Mapping[str, Any], dtype: torch.dtype) -> TransformerBridge:
    """The model library's own small transformer, with the stored weights.

    Raises:
        ValueError: as `load_tracr` does.
    """
    stored = _weights(folder)
    sizes = {key: config[key] for key in SHAPES}
    _require_sizes(folder, sizes, stored)
    strange = [name for name, part in stored.items() if 0 in part.shape or part.ndim > 3]
    if strange:
        raise ValueError(f"{folder}/weights.npz holds no weights under {strange[0]!r}")
    try:
        cfg = TransformerBridgeConfig(
            **sizes,
            d_vocab_out=stored["unembed.b_U"].shape[0],
            act_fn=str(config.get("act", "relu")),
            normalization_type=None,
            attention_dir="causal" if config.get("causal", False) else "bidirectional",
            architecture="TransformerLensNative",
            init_weights=False,
        )
        with torch.random.fork_rng(devices=[]):  # the random start is overwritten below, all of it
            bridge = native.boot(cfg, dtype=dtype, model_name=f"tracr/{folder.resolve().name}")
        bridge.load_state_dict(convert_tl_checkpoint(stored, cfg), strict=True)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:600]
        raise ValueError(f"{folder}/weights.npz does not fit its config.json: {reason}") from error
    return bridge


def _require_sizes(folder: Path, sizes: Mapping[str, int], stored: Mapping[str, Tensor]) -> None:
    """Refuse shapes that ask for more memory than the weights could fill, before it is taken.

    Raises:
        ValueError: saying what was asked for.
    """
    width = sizes["d_model"]
    layer = width * (4 * sizes["n_heads"] * sizes["d_head"] + 2 * sizes["d_mlp"])
    asked = sizes["n_layers"] * layer + width * (sizes["n_ctx"] + sizes["d_vocab"])
    held = sum(tensor.numel() for tensor in stored.values())
    if asked > 2 * held + 1000 or sizes["n_ctx"] ** 2 > 10**9:
        raise ValueError(
            f"{folder}/weights.npz does not fit its config.json: that is of a model of {asked:,} "
            f"numbers, and {held:,} are stored"
        )


def _weights(folder: Path) -> dict[str, Tensor]:
    path = _find(folder, "weights.npz")
    stored = read_npz(path)
    strange = [name for name, t in stored.items() if not t.isfinite().all() or t.is_complex()]
    if strange:
        raise ValueError(f"{path}: {shown(strange[0])} holds other than finite numbers")
    if "W_U" not in stored or not stored["W_U"].ndim:
        raise ValueError(f"{path} holds no W_U, which makes the outputs")
    no_bias = torch.zeros(stored["W_U"].shape[-1])
    return {"unembed.b_U": no_bias, **{OUTSIDE.get(k, k): stored[k] for k in stored}}


@torch.no_grad()
def _require_outputs(folder: Path, bridge: TransformerBridge, examples: Examples) -> None:
    vocab, longest = int(bridge.cfg.d_vocab), int(bridge.cfg.n_ctx)
    low, high = int(examples.tokens.min()), int(examples.tokens.max())
    if low < 0 or high >= vocab or examples.tokens.shape[1] > longest:
        raise ValueError(
            f"{folder}/io.json holds tokens {low} to {high}, {examples.tokens.shape[1]} in a row; "
            f"0 to {vocab - 1} and at most {longest} would be right"
        )
    found = bridge(examples.tokens)
    if found.shape != examples.outputs.shape:
        raise ValueError(
            f"{folder}: the model gives outputs of shape {tuple(found.shape)}, io.json holds "
            f"{tuple(examples.outputs.shape)}"
        )
    error = float((found.double() - examples.outputs).abs().max())
    if not error <= OUTPUT_ERROR:
        raise ValueError(
            f"{folder}: the model's outputs are up to {error:.1e} off those in io.json, "
            f"{OUTPUT_ERROR:.0e} is allowed: weights and examples are not of one program"
        )


def _task(folder: Path, model: Model, examples: Examples) -> Task:
    last = examples.outputs[:, -1]
    pairs = []
    for i, clean in enumerate(examples.tokens.tolist()):
        other = _next_other(last, i)
        if other is None:
            continue
        right, wrong = int(last[i].argmax()), int(last[other].argmax())
        wrong_answers = () if wrong == right else (wrong,)
        corrupt = examples.tokens[other].tolist()
        pairs.append(Prompt(tuple(clean), tuple(corrupt), (right,), wrong_answers))
    if not pairs:
        raise ValueError(f"{folder}/io.json: all outputs are alike at the last position")
    return Task(model.name, tuple(pairs), two_way=model.two_way)


def _next_other(last: Float[Tensor, "example output"], i: int) -> int | None:
    """The first example after this one, starting over at the end, with another output."""
    rows = [*range(i + 1, len(last)), *range(i)]
    for row in rows:
        if float((last[row] - last[i]).abs().max()) > OUTPUT_ERROR:
            return row
    return None


def _find(folder: Path, name: str) -> Path:
    path = inside(folder, name)
    if not path.is_file():
        raise ValueError(f"{folder} is no compiled program: it lacks {name} ({', '.join(FILES)})")
    return path
