"""The QK fix for edges: attention patterns recomputed with each edge into them patched.

Where a softmax is saturated its gradient says that queries and keys do not matter. Here only the
way from the pattern to the metric is taken as linear; the pattern itself is what the model's own
attention makes of a query or key with one writer replaced.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from circuits.provenance import describe
from circuits.scores import Scores
from circuits.scoring.batches import BatchScores, Portion, score_batches, whole
from circuits.scoring.score import score
from patching.ablations import Ablation, Prepared, prepared_for, resample
from patching.anatomy.blocks import EMBEDDING, Block, widen
from patching.anatomy.stack import skipping
from patching.attribution.patterns import points_of, require_patterns
from patching.capture import Recorder, Writes, capture, indices
from patching.gathering import Recipe
from patching.memory import in_tiles
from patching.metrics import Metric, measure_sloped
from patching.model import Hook, Model
from patching.modes import with_gradients, without_gradients
from patching.paths import at_clean
from patching.rules import Rule, plain
from patching.runs.batches import Doing, Keeping
from patching.tasks.task import Batch, Task
from patching.work import Run


def qk_fix(
    model: Model,
    task: Task,
    metric: Metric,
    *,
    rule: Rule = plain,
    ablation: Ablation = resample,
    batch_size: int = 16,
    run: Run | None = None,
) -> Scores:
    """EAP with recomputed attention patterns for edges into queries and keys.

    `score(u -> a.q) = sum over the pattern p of d metric / d p * (p - p with u replaced in the
    query)`, at all positions at once, as an edge is patched; so for keys, where the heads of a
    group are added up. All else is EAP at the clean run. First order in small changes; costs, past
    EAP, one attention for each writer and later layer, twice.

    Kramár et al. 2024, arXiv:2403.00745, whose key fix is by position.

    Raises:
        ValueError: if hooks do not reach the softmax of the family's attention, or its norm of
            queries and keys mixes heads, and as `score`.
    """
    task.require_whole("qk_fix")
    require_patterns(model, instead="eap, or grad_drop")
    prepared = prepared_for(model, ablation)
    recipe = Recipe(at_clean, rule, ablation)
    scorer = _ScoreBatch(model, metric, rule, prepared)
    with whole():
        base = score(model, task, metric, recipe, batch_size=batch_size, run=run)
        keeping = scorer.keeping(task, Doing(batch_size, run))
        fixed = score_batches(model, task, [Portion(scorer)], keeping, lambda found: found.mean)
    matrix = base.matrix.clone()
    for block in model.blocks:
        graph, i = model.graph, block.index
        for readers in (graph.q_readers(i), graph.k_readers(i)):
            matrix[:, readers] = fixed[:, readers]
    return Scores(matrix, model.graph, {**base.provenance, "method": "qk-fix"})


@dataclass(frozen=True)
class _ScoreBatch:
    """Scores of one batch's edges into queries and keys."""

    model: Model
    metric: Metric
    rule: Rule
    prepared: Prepared

    def keeping(self, task: Task, doing: Doing) -> Keeping:
        described = describe(
            self.model, task, self.metric, "qk-fix", {}, ablation=self.prepared.name
        )
        functions = self.metric, self.rule, self.prepared
        return Keeping("scoring-patterns", described, functions, doing, "scores")

    def __call__(self, batch: Batch) -> BatchScores:
        clean = _run_clean(self.model, batch, self.metric, self.rule, self.prepared)
        return BatchScores(_fixed_scores(self.model, batch, clean), None)


@dataclass(frozen=True)
class _Clean:
    """What the clean run leaves: by layer, and how far writers are from their replacements."""

    difference: Writes
    tokens: tuple[Tensor, ...]
    streams: tuple[Float[Tensor, "batch pos d_model"], ...]
    queries: tuple[Float[Tensor, "batch pos head d_head"], ...]
    keys: tuple[Float[Tensor, "batch pos kv_head d_head"], ...]
    patterns: tuple[Float[Tensor, "batch head query key"], ...]
    slopes: tuple[Float[Tensor, "batch head query key"], ...]


def _run_clean(
    model: Model, batch: Batch, metric: Metric, rule: Rule, prepared: Prepared
) -> _Clean:
    """The clean run, with the metric's gradient at every pattern."""
    tokens = prepared.tokens(batch)
    recorder, ruled = Recorder(model, tokens), rule.start(model)
    kept: dict[str, Tensor] = {}
    with with_gradients():
        # a pattern is kept as a rule leaves it, where it meets the values
        hooks = [*ruled.hooks, *_keeping(model, kept), *recorder.hooks]
        logits = model.answer_logits(batch.clean, batch, hooks)
        values = measure_sloped(metric, logits, batch)
        patterns = [kept[_pattern(block)] for block in model.blocks]
        slopes = torch.autograd.grad(
            values.sum(), patterns, allow_unused=True, materialize_grads=True
        )
    ruled.check()
    run = recorder.finish(logits)
    corrupt = capture(model, batch.corrupt, batch, at=tokens) if prepared.paired else None
    replaced = prepared.replace(batch, run, corrupt)
    return _Clean(
        run.writes - replaced.writes,
        indices(tokens),
        tuple(kept[block.stream_in] for block in model.blocks),
        tuple(kept[block.qkv[0]] for block in model.blocks),
        tuple(kept[block.qkv[1]] for block in model.blocks),
        tuple(pattern.detach() for pattern in patterns),
        slopes,
    )


def _keeping(model: Model, kept: dict[str, Tensor]) -> list[tuple[str, Hook]]:
    """Hooks that root the graph and keep streams, queries and keys, and live patterns."""

    def keep(name: str) -> tuple[str, Hook]:
        return name, lambda x: kept.update({name: x.detach()})

    def keep_live(name: str) -> tuple[str, Hook]:
        def hook(pattern: Tensor) -> Tensor:
            cut = not pattern.requires_grad  # by a rule
            kept[name] = pattern.detach().requires_grad_() if cut else pattern.view_as(pattern)
            return kept[name]

        return name, hook

    hooks: list[tuple[str, Hook]] = [(EMBEDDING, lambda x: x.detach().requires_grad_())]
    for block in model.blocks:
        hooks += map(keep, (block.stream_in, *block.qkv[:2]))
        hooks.append(keep_live(_pattern(block)))
    return hooks


@without_gradients
def _fixed_scores(model: Model, batch: Batch, clean: _Clean) -> Float[Tensor, "source dest"]:
    """Scores of edges into queries and keys, summed over the batch; 0 elsewhere."""
    fixing = _Fixing(
        model, batch, clean, torch.zeros(model.graph.exists.shape, dtype=torch.float64)
    )
    (rows, pos, d_model), n_heads = clean.streams[0].shape, model.graph.n_heads
    values = rows * pos * (6 * d_model + 4 * n_heads * pos)
    bytes_each = values * clean.difference.embed.element_size()
    in_tiles(1, bytes_each, model.device, partial(fixing.add, 0, fixing.embed))
    for block in model.blocks[:-1]:
        heads, mlp = model.graph.head_sources(block.index), model.graph.mlp_source(block.index)
        few = partial(fixing.add, heads.start, partial(fixing.heads, block))
        in_tiles(n_heads, bytes_each, model.device, few)
        one = partial(fixing.add, mlp, partial(fixing.mlp, block))
        in_tiles(1, bytes_each, model.device, one)
    return fixing.total


@dataclass(frozen=True, eq=False)
class _Fixing:
    """Scores of edges into queries and keys, a few writers' at a time."""

    model: Model
    batch: Batch
    clean: _Clean
    total: Float[Tensor, "source dest"]

    def embed(self, _: slice) -> Float[Tensor, "1 token d_model"]:
        """How far the embedding is from its replacement."""
        return self.clean.difference.embed[None]

    def heads(self, block: Block, few: slice) -> Float[Tensor, "source token d_model"]:
        """How far some heads' writes are from theirs."""
        heads = self.clean.difference.heads[block.index]
        which = torch.arange(few.start, few.stop, device=heads.device)
        return block.head_writes(heads[:, few], heads=which)

    def mlp(self, block: Block, _: slice) -> Float[Tensor, "1 token d_model"]:
        """How far the MLP's write is from its."""
        return self.clean.difference.mlps[block.index][None]

    def add(self, first: int, differences: Callable[[slice], Tensor], few: slice) -> None:
        """Scores of some writers, the first of which is `first` of the graph."""
        graph, missing = self.model.graph, differences(few)
        sources = slice(first + few.start, first + few.stop)
        group = graph.n_heads // graph.n_kv_heads
        for block in self.model.blocks:
            i = block.index
            if sources.stop > graph.sources_before_attention(i):
                continue
            moved = partial(_moved, self.model, self.batch, self.clean, block, missing)
            by_head = rearrange(moved(keep_keys=False), "s (g h) -> s g h", h=group)
            self.total[sources, graph.q_readers(i)] = moved(keep_keys=True)
            self.total[sources, graph.k_readers(i)] = by_head.sum(dim=2)


def _moved(
    model: Model,
    batch: Batch,
    clean: _Clean,
    block: Block,
    missing: Float[Tensor, "source token d_model"],
    *,
    keep_keys: bool,
) -> Float[Tensor, "source head"]:
    """`d metric / d pattern * (pattern - patched pattern)` of one layer, one row a source.

    The model's own attention sees a stream without the sources' differences, and clean keys (or
    else clean queries).
    """
    i, n = block.index, len(missing)
    stream = clean.streams[i].repeat(n, 1, 1, 1)
    stream[:, *clean.tokens] = (widen(stream[:, *clean.tokens]) - missing).to(stream.dtype)
    other = clean.keys[i] if keep_keys else clean.queries[i]
    hooks: list[tuple[str, Hook]] = [
        (block.stream_in, lambda _: stream.flatten(0, 1)),
        (block.qkv[1 if keep_keys else 0], lambda _: other.repeat(n, 1, 1, 1)),
    ]
    pattern = _pattern_only(model, batch, block, hooks, n)
    change = widen(clean.patterns[i]) - widen(pattern.unflatten(0, (n, -1)))
    slopes = widen(clean.slopes[i])
    moved = einsum(change, slopes, "s batch head q k, batch head q k -> s head")
    return moved.double().cpu()


class _Seen(Exception):
    """Ends a run: what it was for has been seen."""


def _pattern_only(
    model: Model, batch: Batch, block: Block, hooks: list[tuple[str, Hook]], copies: int
) -> Float[Tensor, "row head query key"]:
    """The pattern of one layer in a run that starts at that layer and ends with the pattern."""
    found: list[Tensor] = []

    def stop(pattern: Tensor) -> None:
        found.append(pattern)
        raise _Seen

    # no other way leads out of a forward pass, and what follows would take most of the time
    with suppress(_Seen), skipping(model.bridge, block.index, as_tuple=model.blocks_return_tuples):
        rows = batch.clean.repeat(copies, 1)
        model.answer_logits(rows, batch, [*hooks, (_pattern(block), stop)])
    return found[0]


def _pattern(block: Block) -> str:
    return points_of(block).pattern
