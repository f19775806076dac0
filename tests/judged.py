"""Is a tiny model of a class right? Its circuits are held against the plain model with plain hooks.

    python tests/judged.py              # every class: docs/families.md

The circuits are those that a hook on a module of Hugging Face's can make: all edges, none, all but
those out of an MLP, an attention or a head, all but those into a layer's queries, keys, values or
gates.
A score is held against the exact effect where clean and corrupt prompt are close together, and the
edges out of a layer's MLP and attention against the plain gradient there, to which they add up.
"""

import copy
import logging
import multiprocessing
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers as hf
import zoo
from torch import Tensor, nn

from circuits import Circuit, Scores, eap, evaluate, exact
from circuits.scoring import gim, relp
from patching.metrics import logit_diff
from patching.model import Model
from patching.rules.sites import NormPoints, head_norms, stream_norms
from patching.tasks import Prompt, Task

ANSWER, WRONG = 5, 9
NEAR = (20, 21)  # two tokens whose embeddings are nearly the same
STEP = {torch.float64: 1e-4, torch.float32: 3e-4}  # how near; experts are chosen by a jump
CIRCUIT = {torch.float64: 1e-5, torch.float32: 1e-3}  # of the gap; many norms run in float32
SLOPE = 0.05  # the second order is as large as the step; a wrong score is off by its own size
ADDS_THE_STREAM = ("Bloom", "Mpt", "OPT", "XGLM")  # whose modules add it themselves
LATENT = {"q": ("q_a_proj", "q_proj"), "o": ("o_proj",), "latent": ("kv_a_proj_with_mqa",)}

Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Verdict:
    """What became of a class: `right`, `refused`, `WRONG` or `not built`, and why.

    `worst` is the largest error, in units of what is allowed.
    """

    name: str
    verdict: str
    why: str
    worst: float = 0.0


def judge(name: str) -> Verdict:
    """Build, load and judge a class; whatever is no ValueError is raised."""
    try:
        plain = _plain(name)
    except Exception as error:  # of any kind: not ours to judge
        return Verdict(name, "not built", str(error).strip().splitlines()[0][:200])
    try:
        model = Model.load(copy.deepcopy(plain))
    except ValueError as error:
        assert name.partition(":")[0] in str(error), f"a refusal names the model: {error}"
        return Verdict(name, "refused", str(error))
    errors = {what: error / CIRCUIT[model.dtype] for what, error in _circuit_errors(model, plain)}
    errors |= {what: error / CIRCUIT[model.dtype] for what, error in _node_errors(model, plain)}
    errors["eap, against exact effects"] = _slope_error(model) / SLOPE
    errors["norms, by their formulas"] = _norm_error(model) / 1e-5  # many run in float32
    refusing = [rule for rule, score in (("relp", relp), ("gim", gim)) if _refuses(score, model)]
    worst = max(errors, key=lambda what: errors[what])
    if all(error <= 1 for error in errors.values()):  # not so for NaN
        return Verdict(name, "right", ", ".join(f"no {rule}" for rule in refusing), errors[worst])
    return Verdict(name, "WRONG", worst, errors[worst])


def _plain(name: str) -> nn.Module:
    """In float64 where the class runs so."""
    for dtype, step in STEP.items():
        module = zoo.build(name).to(dtype)
        with torch.no_grad():
            for table in module.modules():
                if isinstance(table, nn.Embedding) and table.num_embeddings == zoo.VOCAB:
                    noise = torch.randn(table.weight.shape[1], generator=_seeded(5))
                    table.weight[NEAR[1]] = table.weight[NEAR[0]] + step * noise
        if dtype == torch.float32 or _runs(module):
            break
    assert zoo.logits_of(module, _tokens()).isfinite().all(), "its output is not finite"
    return module


def _runs(module: nn.Module) -> bool:
    try:
        return bool(zoo.logits_of(module, _tokens()).isfinite().all())
    except Exception:  # of any kind, by class: then it is judged in float32
        return False


def _circuit_errors(model: Model, plain: nn.Module) -> Iterator[tuple[str, float]]:
    graph, edges = model.graph, Circuit.full(model.graph).edges
    at_clean, at_corrupt = _gaps(plain, _tokens()), _gaps(plain, _corrupted())
    names, circuits = ["all edges", "no edge"], [Circuit.full(graph), Circuit.empty(graph)]
    expected = [at_clean, at_corrupt]
    for what, path, change, lacks in _sites(model, plain):
        names.append(what)
        circuits.append(Circuit.from_edges(graph, [edge for edge in edges if not lacks(*edge)]))
        expected.append(_hooked(plain, path, change))
    found = evaluate(model, _task(_tokens(), _corrupted()), circuits, logit_diff).values
    size = (at_clean - at_corrupt).abs().max().clamp(min=1e-6)
    for what, value, plainly in zip(names, found.double(), expected, strict=True):
        yield what, float((value - plainly).abs().max() / size)


def _sites(
    model: Model, plain: nn.Module
) -> Iterator[tuple[str, str, Change, Callable[[str, str], bool]]]:
    """What is changed, the plain module whose output changes, how, and which edges carry it."""
    own = any(part in type(plain).__name__ for part in ADDS_THE_STREAM)
    for block in model.blocks:
        i, mlp = block.index, ("mlp", "out") if own else ("mlp",)
        mlp = ("ln2_post",) if hasattr(block.bridge, "ln2_post") else mlp  # behind experts too
        letters = ("q", "k", "v", "gate")[: len(block.projections)]
        paths = {letter: _path(model, plain, i, ("attn", letter)) for letter in letters}
        if path := _path(model, plain, i, mlp):
            yield f"m{i}", path, _all, partial(_leaves, f"m{i}")
        if path := _path(model, plain, i, ("attn", "o")):
            yield f"a{i}", path, _all, partial(_leaves, f"a{i}.")
            if not block.couples_heads:
                n_heads, _, d_model = block.w_o.shape
                weight = plain.get_submodule(path).weight
                head = partial(_one_head, weight.numel() // d_model // n_heads)
                yield f"a{i}.h1", f"{path}<", head, partial(_leaves, f"a{i}.h1")
        for letter, path in paths.items():
            if path and list(paths.values()).count(path) == 1:
                yield f"a{i}.{letter}", path, _all, partial(_enters, f"a{i}.", f".{letter}")
        if latent := _path(model, plain, i, ("attn", "latent")):
            both = path_beside(latent, "kv_b_proj")
            d_value = plain.get_submodule(path_beside(latent, "")).v_head_dim
            values = partial(_values, model.graph.n_heads, d_value)
            yield f"a{i}.kv", latent, _all, partial(_enters, f"a{i}.g0", "")
            yield f"a{i}.v", both, values, partial(_enters, f"a{i}.", ".v")


def _leaves(start: str, source: str, dest: str) -> bool:
    return source == start or (start.endswith(".") and source.startswith(start))


def _enters(start: str, end: str, source: str, dest: str) -> bool:
    return dest.startswith(start) and dest.endswith(end)


def path_beside(path: str, name: str) -> str:
    """The module of this name beside the one at a path; the one around both for no name."""
    return f"{path.rpartition('.')[0]}.{name}".rstrip(".")


def _values(n_heads: int, d_value: int, live: Tensor, corrupt: Tensor) -> Tensor:
    """Of keys and values side by side, head by head, the values alone are the corrupt run's."""
    mixed = live.clone().unflatten(-1, (n_heads, -1))
    mixed[..., -d_value:] = corrupt.unflatten(-1, (n_heads, -1))[..., -d_value:]
    return mixed.flatten(-2)


def _all(live: Tensor, corrupt: Tensor) -> Tensor:
    return corrupt.reshape(live.shape)


def _one_head(d_head: int, live: Tensor, corrupt: Tensor) -> Tensor:
    mixed = live.clone()
    mixed[..., d_head : 2 * d_head] = corrupt[..., d_head : 2 * d_head]
    return mixed


def _path(model: Model, plain: nn.Module, layer: int, parts: tuple[str, ...]) -> str | None:
    """Where the plain model has what the library calls so; None where it is no module there."""
    node, known = model.bridge.adapter.component_mapping["blocks"], dict(plain.named_modules())
    path = f"{node.name}.{layer}"
    for part in parts:
        latent = [path_beside(f"{path}.", name) for name in LATENT.get(part, ())]
        node = node.submodules.get(part)
        if node is None or node.name is None:
            return next((other for other in latent if other in known), None)
        path = f"{path}.{node.name}" if node.name else path
        if path not in known:
            return next((other for other in latent if other in known), None)
    return path


def _hooked(plain: nn.Module, path: str, change: Change) -> Tensor:
    """The plain model's gaps where one module's output (`path<`: its input) is changed."""
    module, before = plain.get_submodule(path.rstrip("<")), path.endswith("<")
    seen: list[Tensor] = []
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(partial(_keep, seen))
    _gaps(plain, _corrupted())
    handle.remove()
    handle = register(partial(_change, change, seen[0]))
    gaps = _gaps(plain, _tokens())
    handle.remove()
    return gaps


def _keep(seen: list[Tensor], module: nn.Module, *passed: object) -> None:
    seen.append(_first(passed[-1]).clone())


def _change(change: Change, corrupt: Tensor, module: nn.Module, *passed: object) -> object:
    changed = change(_first(passed[-1]), corrupt)
    return (changed, *passed[-1][1:]) if isinstance(passed[-1], tuple) else changed


def _first(passed: object) -> Tensor:
    return passed[0] if isinstance(passed, tuple) else passed


def _node_errors(model: Model, plain: nn.Module) -> Iterator[tuple[str, float]]:
    """How far edges out of a layer's MLP and attention are from the sum that they should have."""
    found = eap(model, _task(_tokens(), _corrupted()), logit_diff).node_scores()
    written = dict(_written(model, plain))
    expected = _node_scores(plain, [path for path, _ in written.values()])
    size = max([abs(score) for score in expected.values()], default=0.0)
    for what, (path, writers) in written.items():
        yield f"edges out of {what}", abs(float(found[writers].sum()) - expected[path]) / size


def _written(model: Model, plain: nn.Module) -> Iterator[tuple[str, tuple[str, slice]]]:
    """Where the plain model has what a layer's MLP and heads add to its stream."""
    own = any(part in type(plain).__name__ for part in ADDS_THE_STREAM)
    for block in model.blocks:
        i, heads = block.index, model.graph.head_sources(block.index)
        mlp, attention = ("mlp", "out") if own else ("mlp",), ("attn", "o")
        for name, parts, norm, writers in (
            (f"m{i}", mlp, "ln2_post", slice(heads.stop, heads.stop + 1)),
            (f"a{i}", attention, "ln1_post", heads),
        ):
            parts = (norm,) if hasattr(block.bridge, norm) else parts
            if path := _path(model, plain, i, parts):
                yield name, (path, writers)


def _node_scores(plain: nn.Module, paths: list[str]) -> dict[str, float]:
    """(clean - corrupt output) times the gradient in the clean run, a prompt, by module."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in paths}
    keep = {path: partial(_keep_whole, kept) for path, kept in seen.items()}
    handles = [plain.get_submodule(path).register_forward_hook(keep[path]) for path in paths]
    for tokens in (_corrupted(), _tokens()):
        logits = plain(tokens, use_cache=False).logits[:, -1].double()
    for handle in handles:
        handle.remove()
    gap = (logits[:, ANSWER] - logits[:, WRONG]).sum() / len(logits)
    slopes = torch.autograd.grad(gap, [kept[1][0] for kept in seen.values()])
    return {
        path: float(((clean - corrupt) * slope).sum().double())
        for (path, ((_, corrupt), (_, clean))), slope in zip(seen.items(), slopes, strict=True)
    }


def _keep_whole(seen: list[tuple[Tensor, Tensor]], module: nn.Module, *passed: object) -> None:
    """The output, and its values now: Falcon adds the attention's to the MLP's, in place."""
    made = _first(passed[-1])
    seen.append((made, made.detach().clone()))


def _slope_error(model: Model) -> float:
    """How far scores are from exact effects, where the two prompts are nearly the same."""
    clean = _tokens()
    clean[:, 2], clean[:, 4] = NEAR[0], NEAR[1]
    corrupt = clean.clone()
    corrupt[:, 2], corrupt[:, 4] = NEAR[1], NEAR[0]
    task = _task(clean, corrupt)
    slopes, effects = eap(model, task, logit_diff).matrix, exact(model, task, logit_diff).matrix
    return float((slopes - effects).abs().max() / effects.abs().max())


def _refuses(score: Callable[..., Scores], model: Model) -> bool:
    """Whether a method refuses the model in words; another exception is raised."""
    try:
        found = score(model, _task(_tokens(), _corrupted()), logit_diff)
    except ValueError as error:
        assert model.name in str(error), f"a refusal names the model: {error}"
        return True
    assert found.matrix.isfinite().all()
    return False


def _norm_error(model: Model) -> float:
    """How far the formulas that rules use are from what the norms compute."""
    worst, (_, d_head, d_model) = 0.0, model.blocks[0].w_o.shape
    norms = [(points, d_model) for points in stream_norms(model)]
    norms += [(p, d_head) for p in head_norms(model) if isinstance(p, NormPoints)]
    for points, width in norms:
        width = width if points.norm.gamma is None else len(points.norm.gamma)
        x = torch.randn(1, 1, 4, width, generator=_seeded(1)).to(model.dtype)
        made = points.norm(x)
        worst = max(worst, float((points.norm.formula(x) - made).abs().max() / made.abs().max()))
    return worst


def _gaps(plain: nn.Module, tokens: Tensor) -> Tensor:
    logits = zoo.logits_of(plain, tokens)[:, -1].double()
    return logits[:, ANSWER] - logits[:, WRONG]


def _task(clean: Tensor, corrupt: Tensor) -> Task:
    rows = zip(clean.tolist(), corrupt.tolist(), strict=True)
    made = [Prompt(tuple(row), tuple(other), (ANSWER,), (WRONG,)) for row, other in rows]
    return Task("two prompts", tuple(made))


def _tokens() -> Tensor:
    return torch.randint(30, zoo.VOCAB - 1, (2, 7), generator=_seeded(3))


def _corrupted() -> Tensor:
    tokens = _tokens()
    tokens[:, 2], tokens[:, 4] = tokens[:, 2] - 11, tokens[:, 4] - 17
    return tokens


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _table(verdicts: list[Verdict]) -> str:
    """The page of the documentation."""
    counts = Counter(verdict.verdict.replace(" ", "_") for verdict in verdicts)
    rows = [f"| {v.name} | {v.verdict} | {_reason(v)} |" for v in verdicts]
    return _PAGE.format(n=len(verdicts), version=hf.__version__, **counts) + "\n".join(rows) + "\n"


def _reason(verdict: Verdict) -> str:
    said = verdict.why.partition(" is refused: ")[2] or verdict.why
    said = said.partition(" (relative error")[0]
    return said.replace("|", "\\|").replace("<", "&lt;")


_PAGE = """# Every class of causal language model

A tiny random model of each class that transformers {version} has, and of some variants
(`class:variant`): {n}, of which {right} are right, {refused} refused on loading, and {not_built}
could not be built tiny. *Right*: circuits are what plain hooks on the plain Hugging Face model give
(all edges, none, and without those of an MLP, an attention, a head, or a layer's queries, keys,
values or gates), EAP is the slope of exact effects, and a node's edges add up to the plain gradient
there.
*Refused*: `Model.load` says in one line what it does not understand. No class is scored wrongly,
and none gives another error. `make families` judges them anew and writes this page.

A class that is not here, such as one whose code comes with its weights, goes through the same proof
when it is loaded.

| class | verdict | why, or what of it is refused |
| --- | --- | --- |
"""


def _quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)


def _judge_or_tell(name: str) -> Verdict:
    try:
        return judge(name)
    except Exception as error:  # whatever is no refusal is wrong too
        return Verdict(name, "WRONG", repr(error))


def main() -> None:
    """Judge every class and write the page.

    Raises:
        SystemExit: if a class is wrong.
    """
    _quiet()
    with multiprocessing.get_context("spawn").Pool(2, _quiet) as pool:
        verdicts = pool.map(_judge_or_tell, zoo.names(), chunksize=4)
    wrong = [verdict for verdict in verdicts if verdict.verdict == "WRONG"]
    if wrong:
        raise SystemExit("\n".join(map(str, wrong)))
    page = Path(__file__).resolve().parent.parent / "docs" / "families.md"
    page.write_text(_table(verdicts))
    sys.stdout.write(f"{len(verdicts)} classes: {page}\n")


if __name__ == "__main__":
    main()
