"""Attribution graphs: which features made a model say what it said, on one prompt.

In a local replacement of the model everything is linear in what writes to the stream: attention
patterns and norms are those of this run, and so is which features are active. Ameisen et al. 2025,
transformer-circuits.pub/2025/attribution-graphs; after circuit-tracer, whose graph
`convention="circuit-tracer"` repeats.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.features.aims import Targets, Wanted, find_targets, told
from circuits.features.graph import FeatureGraph
from circuits.features.influence import with_influence
from circuits.features.linear import LinearRun, run_linear
from circuits.features.neurons import Neurons
from circuits.features.pruning import prune as prune_graph
from circuits.features.rows import Tracing, at_end, make_graph, rows_of
from circuits.features.transcoders import Transcoders
from circuits.features.units import Features, Units
from circuits.features.validity import validity as check_validity
from circuits.features.writers import choose_units, effects_of, find_writers
from patching.dictionaries import Dictionaries, fitted
from patching.lens.prompts import Source, read_prompts
from patching.model import Model
from patching.work import Parts, Run, do

Traced = Features | Dictionaries | str


@dataclass(frozen=True)
class Convention:
    """How a graph is made.

    `keep` is the share of each row's absolute weight that is kept as edges. At most `most` units
    become nodes, those of largest effect on the targets; what others write counts as error.
    `drop_first` leaves errors of the first position out. `nodes` and `edges` are shares of
    influence that pruning keeps, and `share` that of probability that targets hold.
    """

    name: str = "own"
    keep: float = 0.99
    most: int = 4096
    drop_first: bool = False
    nodes: float = 0.8
    edges: float = 0.98
    share: float = 0.95


CONVENTIONS = {
    "own": Convention(),
    "circuit-tracer": Convention("circuit-tracer", keep=1.0, drop_first=True),
}


def trace(  # noqa: PLR0913 - what is explained, how, and where it is kept
    model: Model,
    prompt: Source,
    features: Traced,
    *,
    aim: Wanted = None,
    logits: int = 10,
    convention: Convention | str = "own",
    prune: bool = True,
    validity: int = 20,
    run: Run | None = None,
) -> FeatureGraph:
    """The attribution graph of one prompt.

    `features` are transcoders (or cross-layer ones), or `"neurons"`: every MLP's own. What is
    explained: the `logits` most likely next tokens (the fewest that hold 95 % of probability),
    or `aim`, tokens or one difference of logits. Weights are in units of what a target reads.

    `validity` units of most influence are removed from the real model, and its changes held
    against those that the graph predicts (`facts["validity"]`: correlations; 0 for none).

    One copy of the prompt is run; gradients of many targets are taken at once, as many as the
    memory budget allows (`patching.memory.budget`). With a `run`, rows are kept in its folder as
    they are made, and a trace that was stopped goes on there.

    >>> graph = trace(Model.load("toy-llama"), [1, 5, 6], "neurons", logits=1)
    >>> bool((graph.incoming() - graph.reads).abs().max() < 1e-4)
    True

    Raises:
        ValueError: if the prompt is not one that the model reads, features do not fit the model,
            a token or convention is unknown, or the model is not linear once all is held.
    """
    chosen = _convention(convention)
    if logits < 1:
        raise ValueError(f"a graph explains at least one logit, got {logits}")
    features = ready(model, features)
    plan = _Plan(model, _one_prompt(model, prompt), features, aim, logits, chosen)
    tracing, settings = plan.tracing, {} if run is None else plan.settings
    n = len(tracing.chunks)
    done = do(run, plan, n, what="attribution-graph", settings=settings, lengths=tracing.lengths)
    made = make_graph(tracing, (one.parts for one in done))
    facts = {**made.facts, **_facts(model, prompt, features, aim, chosen)}
    graph = with_influence(replace(made, facts=facts))
    if validity:
        foretold = check_validity(tracing, graph, n=validity)
        graph = replace(graph, facts={**graph.facts, "validity": foretold})
    return prune_graph(graph, nodes=chosen.nodes, edges=chosen.edges) if prune else graph


@dataclass(frozen=True, eq=False)
class _Plan:
    """A trace to be made, chunk by chunk, here or elsewhere: what it takes is found once."""

    model: Model
    tokens: Int[Tensor, " pos"]
    features: Features
    aim: Wanted
    logits: int
    convention: Convention

    @cached_property
    def tracing(self) -> Tracing:
        """The run, and what writes and reads in it."""
        model, features, chosen = self.model, self.features, self.convention
        points, parts = features.points(model), features.parts()
        run = run_linear(model, self.tokens, parts=parts, points=points, passing=features.passing)
        targets = find_targets(run, self.aim, most=self.logits, share=chosen.share)
        found = [features.active(run, layer) for layer in range(len(model.blocks))]
        units = strongest(run, features, found, targets, chosen.most)
        whole = features.complete and sum(map(len, units)) == sum(map(len, found))
        writers = find_writers(run, features, units, drop_first=chosen.drop_first, whole=whole)
        return Tracing(run, features, writers, targets)

    @property
    def settings(self) -> dict[str, object]:
        """What decides the rows, for a run's folder."""
        return {
            **self.model.confirmed().facts,
            **self.features.facts,
            "tokens": self.tokens.tolist(),
            "aim": told(self.aim),
            "logits": self.logits,
            "convention": asdict(self.convention),
        }

    def __call__(self, number: int) -> Parts:
        """The rows of a chunk."""
        return rows_of(self.tracing, number, keep=self.convention.keep)

    def __getstate__(self) -> Mapping[str, object]:
        """What goes to other processes: not the run, which is made anew there."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


def ready(model: Model, features: Traced) -> Features:
    """Features made ready for a model.

    Raises:
        ValueError: if they do not fit it, or there are none of this name.
    """
    if isinstance(features, Dictionaries):
        return Transcoders(model, fitted(model, features))
    if isinstance(features, str):
        if features != "neurons":
            raise ValueError(f"no features named {features!r}; 'neurons', or dictionaries")
        return Neurons(model)
    return features


def _convention(given: Convention | str) -> Convention:
    if isinstance(given, Convention):
        return given
    if given not in CONVENTIONS:
        raise ValueError(f"no convention named {given!r}; there are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[given]


def _one_prompt(model: Model, prompt: Source) -> Int[Tensor, " pos"]:
    rows = read_prompts(model, prompt).rows
    if len(rows) != 1:
        raise ValueError(f"a graph is of one prompt, got {len(rows)}")
    return torch.tensor(rows[0], device=model.device)


def strongest(
    run: LinearRun, features: Features, units: list[Units], targets: Targets, most: int
) -> list[Units]:
    """The units, no more than so many, by a run in which all active ones answer."""
    if sum(map(len, units)) <= most:
        return units
    parts, points = features.parts(), features.points(run.model)
    free = run_linear(run.model, run.tokens, parts=parts, points=points, passing=features.answering)
    effects = effects_of(free, features, units, free.pull_back(free.final, at_end(free, targets)))
    return choose_units(units, effects, most=most)


def _facts(
    model: Model, prompt: Source, features: Features, aim: Wanted, convention: Convention
) -> dict[str, object]:
    """Where a graph comes from, in plain values."""
    return {
        "model": model.name,
        "source": model.source,
        "revision": model.revision,
        **model.identity.facts,
        "prompt": prompt if isinstance(prompt, str) else None,
        "aim": told(aim),
        **features.facts,
        "convention": asdict(convention),
    }
