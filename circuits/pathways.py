"""Path patching: what flows along some paths, everything else held at the clean run.

The writers at which paths begin, the senders, write what they write in the corrupt run; from there
on only the paths' edges carry the change. With `freeze_others` every other edge carries the clean
run's write; without, all that follows the first edges is live, which is edge patching. Wang et al.
2023, arXiv:2211.00593; Goldowsky-Dill et al. 2023, arXiv:2304.05969.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.circuit import Circuit, kind_of, node_of
from circuits.provenance import describe
from circuits.running.evaluation import evaluate
from patching.ablations import resample
from patching.graph import Graph
from patching.grid import Grid
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Task

LOST = "metric(clean) - metric(patched)"


def path(graph: Graph, names: str) -> Circuit:
    """A path by the names on its way, such as `"a0.h1 -> a1.h3.k -> logits"`.

    Readers are named with their input, and write as the node they belong to. A shared key or value
    reader is followed by the head that goes on: `"a0.h1 -> a1.g0.k -> a1.h3 -> logits"`.

    >>> path(Graph(2, 4, 4), "a0.h1 -> a1.h3.k -> logits").edges
    [('a0.h1', 'a1.h3.k'), ('a1.h3', 'logits')]

    Raises:
        ValueError: if there is no such edge, or it is no path.
    """
    steps = [name.strip() for name in names.split("->")]
    edges, source = [], steps[0]
    for i, step in enumerate(steps[1:], start=1):
        if _goes_on(graph, steps[i - 1], step):
            source = step
            continue
        if kind_of(source) == "group":
            raise ValueError(
                f"several heads read {steps[i - 1]}; name the one that goes on after it, as in "
                f"'... -> {steps[i - 1]} -> a1.h3 -> {step}'"
            )
        edges.append((source, step))
        source = node_of(step)
    if not edges:
        raise ValueError(f"{names!r} is no path; 'a0.h1 -> a1.h3.k -> logits' would be one")
    return Circuit.from_edges(graph, edges)


def path_patching(
    model: Model,
    task: Task,
    metric: Metric,
    paths: Sequence[Circuit],
    *,
    freeze_others: bool = True,
    batch_size: int = 16,
) -> Grid:
    """What the metric loses when only some paths carry the corrupt run: Grid over `path`.

    A path is a circuit, of one or many edges: `path` makes one, `|` joins several. Its senders are
    the writers that none of its own edges leads to. All paths run batched.

    >>> from patching.metrics import logit_diff
    >>> from patching.models import induction
    >>> model, task = Model.load("truth/induction"), induction(n=3).task
    >>> way = path(model.graph, "a0.h1 -> a1.h3.k -> logits")
    >>> round(float(path_patching(model, task, logit_diff, [way]).mean))
    7

    Raises:
        ValueError: if there is no path, one has no edge or is of another graph, a sender does not
            come before all receivers, or as `evaluate`.
    """
    if not paths:
        raise ValueError("no paths to patch; give at least one")
    for i, way in enumerate(paths):
        _check(model, i, way, freeze_others=freeze_others)
    if freeze_others:  # the corrupt prompt runs, and all edges but those kept live carry clean
        direction, left_out = "denoising", _live
    else:
        direction, left_out = "noising", _first_edges
    circuits = [~Circuit(left_out(way), way.graph) for way in paths]
    found = evaluate(model, task, circuits, metric, direction=direction, batch_size=batch_size)
    options = {"freeze_others": freeze_others, "paths": [_name(way) for way in paths]}
    return Grid(
        LOST,
        (found.clean - found.values).T,
        {"path": tuple(options["paths"])},
        found.clean,
        found.corrupt,
        describe(model, task, metric, "path patching", options, ablation=resample(model).name),
    )


def head_to_head(
    model: Model,
    task: Task,
    metric: Metric,
    receivers: Sequence[str],
    *,
    freeze_others: bool = False,
    batch_size: int = 16,
) -> Grid:
    """What the metric loses when one head's direct edges into some readers are patched.

    Grid over `layer` and `head` of the sender; heads that do not come before any receiver are 0.
    Frozen, what a receiver's node then writes goes to the logits alone. Figures 3 to 5 of Wang et
    al. 2023, arXiv:2211.00593, for every sender at once.

    Raises:
        ValueError: if a receiver is no reader of the graph, no head comes before them, or as
            `evaluate`.
    """
    graph = model.graph
    dests = [graph.dest_index(name) for name in receivers]
    ways: dict[tuple[int, int], Circuit] = {}
    for layer in range(graph.n_layers):
        for h, head in enumerate(range(*graph.head_sources(layer).indices(len(graph.sources)))):
            mask = torch.zeros_like(graph.exists)
            mask[head, dests] = graph.exists[head, dests]
            if mask.any():
                ways[layer, h] = Circuit(_onwards(mask, graph), graph)
    if not ways:
        raise ValueError(f"no head writes before {', '.join(receivers)} read; give later readers")
    found = path_patching(
        model, task, metric, list(ways.values()), freeze_others=freeze_others, batch_size=batch_size
    )
    values = torch.zeros(len(task), graph.n_layers, graph.n_heads, dtype=torch.float64)
    for i, (layer, h) in enumerate(ways):
        values[:, layer, h] = found.values[:, i]
    axes = {"layer": graph.n_layers, "head": graph.n_heads}
    labels = {name: tuple(map(str, range(n))) for name, n in axes.items()}
    provenance = {**found.provenance, "receivers": list(receivers)}
    return Grid(found.quantity, values, labels, found.clean, found.corrupt, provenance)


def _goes_on(graph: Graph, reader: str, step: str) -> bool:
    """Whether `step` is a head of the group that reads by `reader`."""
    writers = {node.name: i for i, node in enumerate(graph.sources)}
    readers = {node.name: i for i, node in enumerate(graph.destinations)}
    both = reader in readers and step in writers
    return both and node_of(reader) != step and bool(graph.feeds[readers[reader], writers[step]])


def _onwards(mask: Bool[Tensor, "source dest"], graph: Graph) -> Bool[Tensor, "source dest"]:
    """The edges, and those from the nodes they lead to straight to the logits."""
    reached = (graph.feeds & mask.any(dim=0)[:, None]).any(dim=0)
    mask = mask.clone()
    mask[reached, graph.dest_index("logits")] = True
    return mask


def _senders(way: Circuit) -> Bool[Tensor, " source"]:
    receives = (way.graph.feeds & way.mask.any(dim=0)[:, None]).any(dim=0)
    return way.mask.any(dim=1) & ~receives


def _first_edges(way: Circuit) -> Bool[Tensor, "source dest"]:
    return way.mask & _senders(way)[:, None]


def _live(way: Circuit) -> Bool[Tensor, "source dest"]:
    """The path, and all that makes its senders write what they write in the corrupt run."""
    graph = way.graph
    order = torch.tensor([node.order for node in graph.sources])
    last = order[_senders(way)].max()
    before = (graph.feeds & (order < last)).any(dim=1) | graph.feeds[:, _senders(way)].any(dim=1)
    return way.mask | (graph.exists & before)


def _name(way: Circuit) -> str:
    return ", ".join(f"{source} -> {dest}" for source, dest in way.edges)


def _check(model: Model, i: int, way: Circuit, *, freeze_others: bool) -> None:
    model.graph.require_same(way.graph, f"path {i} is")
    if not way.size:
        raise ValueError(f"path {i} has no edges")
    graph, senders = way.graph, _senders(way)
    order = torch.tensor([node.order for node in graph.sources])
    read_at = torch.tensor([node.order for node in graph.destinations])[way.mask.any(dim=0)]
    if freeze_others and order[senders].max() > read_at.min():
        late = graph.sources[int((order * senders).argmax())].name
        early = graph.destinations[int(way.mask.any(dim=0).nonzero()[0])].name
        raise ValueError(
            f"path {i} begins at {late} and also leads into {early}, which reads before it; with "
            "everything else frozen, patch such paths apart"
        )
