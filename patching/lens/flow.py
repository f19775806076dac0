"""Semantic information flow: what every head, MLP and neuron promotes, and how it adds up.

Katz and Belinkov 2023 (VISIT), arXiv:2305.13417: writes and residual states read as words, drawn
as a graph along the stream. Here at one position, with the final norm's denominator frozen at
that of the full stream, so that everything adds up to the logit of one token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from patching.anatomy.blocks import FINAL_STREAM, widen
from patching.files.brief import briefly
from patching.lens.direct import Aim, Part, contributions, find_parts, hooks_of, names_of
from patching.lens.neurons import NeuronOutput, find_output
from patching.lens.nodes import Node, Seen, neuron_node, run_at
from patching.lens.prompts import Source, read_prompts, resolve_positions
from patching.lens.text import single_token, token_texts
from patching.lens.vocabulary import Vocabulary, find_vocabulary, prove_vocabulary
from patching.memory import in_tiles
from patching.model import Model
from patching.modes import without_gradients

Words = tuple[tuple[str, float], ...]
"""Tokens with what is added to their logits, beyond what is added to all on average."""


@briefly
@dataclass(frozen=True, eq=False)
class Flow:
    """What was written at one position, in words, on the way to the logit of `token`.

    `table` has one row a node: `contribution` is what it adds to that token's logit minus the
    mean logit of the vocabulary (before any softcap), `share` that over the sum `total`;
    `promoted` and `suppressed` are the tokens it moves most. `graph` has the same nodes with the
    states of the stream between them; the `contribution` of edges into a state of the stream
    sums to that of the edge out of it.
    """

    token: str
    total: float
    position: int
    table: pd.DataFrame
    graph: nx.DiGraph


@without_gradients
def semantic_flow(
    model: Model,
    prompt: Source,
    *,
    position: int = -1,
    token: int | str | None = None,
    k: int = 5,
    neurons: int = 3,
) -> Flow:
    """Read all that is written at one position of a prompt in the vocabulary. Costs one forward.

    Args:
        model: whose vocabulary reads.
        prompt: one prompt: text or token ids.
        position: from the prompt's first token, or from its last (-1).
        token: whose logit contributions are counted in; None: the one the model predicts.
        k: tokens named for every node, at each end.
        neurons: of every MLP, how many to show: those that add or take away most. 0 for
            families that show none.

    >>> flow = semantic_flow(Model.load("toy"), "The capital of France is", neurons=0)
    >>> flow.token
    'Paris'

    Raises:
        ValueError: if prompt, position or token do not fit the model, there is more than one
            prompt, k or `neurons` is out of range, or the family shows no neurons.
    """
    read, vocabulary = read_prompts(model, prompt), find_vocabulary(model)
    if len(read) != 1:
        raise ValueError(f"information flow is read for one prompt, got {len(read)}")
    if not 1 <= k <= len(vocabulary):
        raise ValueError(f"the top {k} tokens of {len(vocabulary)} cannot be named")
    if neurons < 0:
        raise ValueError(f"neurons is how many to show of every MLP, got {neurons}")
    _, at = resolve_positions(read, position)
    parts = find_parts(model)
    outputs = {b.index: find_output(model, b) for b in model.blocks} if neurons else {}
    hooks = hooks_of((*parts, *outputs.items()))
    (tokens,) = read.batches(1, model.device)
    seen, logits = run_at(model, tokens, at.to(model.device), hooks)
    final = seen[FINAL_STREAM]
    prove_vocabulary(model, vocabulary, final, logits)
    best = int(logits.argmax()) if token is None else _token(model, vocabulary, token)
    aim = Aim(torch.tensor([[best]], device=model.device), at.new_ones(1, 1).double(), centred=True)
    reader = _Reader(model, vocabulary, seen, aim, k)
    rows = reader.writers(parts) + reader.neurons(outputs, neurons)
    total = float(aim.difference(vocabulary.logits(final, softcap=False)))
    table = _table(rows, int(at), total)
    return Flow(reader.text(best), total, int(at), table, _graph(model, reader, rows, total))


@dataclass(frozen=True, eq=False)
class _Row:
    """A node with what it adds, in words; `vector` is None for biases behind the stream."""

    name: str
    kind: str
    layer: int
    contribution: float
    vector: Float[Tensor, " d_model"] | None
    promoted: Words
    suppressed: Words


@dataclass(frozen=True, eq=False)
class _Reader:
    """Vectors of one finished run as rows and words."""

    model: Model
    vocabulary: Vocabulary
    seen: Seen
    aim: Aim
    k: int

    def text(self, token: int) -> str:
        return token_texts(self.model.tokenizer, [token])[0]

    def words(self, vectors: Float[Tensor, "node d_model"]) -> list[tuple[Words, Words]]:
        """The tokens that each vector promotes and suppresses most, the strongest first."""
        sigma = self.vocabulary.sigma(self.seen[FINAL_STREAM])
        found: list[tuple[Words, Words]] = []

        def work(span: slice) -> None:
            logits = self.vocabulary.promotions(vectors[span], sigma)
            up, down = logits.topk(self.k), logits.topk(self.k, largest=False)
            ends = zip(up.indices, up.values, down.indices, down.values, strict=True)
            found.extend([(self._spell(*end[:2]), self._spell(*end[2:])) for end in ends])

        in_tiles(len(vectors), 8 * len(self.vocabulary), vectors.device, work)
        return found

    def writers(self, parts: Sequence[Part]) -> list[_Row]:
        """All that writes to the stream, and the biases behind it."""
        values = contributions(self.vocabulary, parts, self.seen, self.aim)[0].tolist()
        nodes = [part for part in parts if isinstance(part, Node)]
        assert len(nodes) == len(parts), "whole MLPs here"
        names = names_of(self.vocabulary, parts)[len(parts) :]
        biases = [
            _Row(name, "bias", -1, value, None, (), ())
            for name, value in zip(names, values[len(parts) :], strict=True)
        ]
        return self._rows(nodes, values[: len(parts)]) + biases

    def neurons(self, outputs: Mapping[int, NeuronOutput], n: int) -> list[_Row]:
        """The n neurons of every MLP that add or take away most."""
        nodes: list[Node] = []
        chosen: list[float] = []
        for layer, output in outputs.items():
            values = contributions(self.vocabulary, [(layer, output)], self.seen, self.aim)[0]
            values = values[: len(output.weight)]
            best = values.abs().topk(min(n, len(values))).indices
            block = self.model.blocks[layer]
            nodes += [neuron_node(self.model, block, neuron) for neuron in best.tolist()]
            chosen += values[best].tolist()
        return self._rows(nodes, chosen)

    def _rows(self, nodes: Sequence[Node], contributions: Sequence[float]) -> list[_Row]:
        if not nodes:
            return []
        vectors = torch.cat([widen(node.vector(self.seen)) for node in nodes])
        told = zip(nodes, contributions, vectors, self.words(vectors), strict=True)
        return [
            _Row(node.name, node.kind, node.layer, value, vector, *words)
            for node, value, vector, words in told
        ]

    def _spell(self, ids: Int[Tensor, " k"], values: Float[Tensor, " k"]) -> Words:
        return tuple(zip(map(self.text, ids.tolist()), values.tolist(), strict=True))


def _token(model: Model, vocabulary: Vocabulary, token: int | str) -> int:
    return single_token(model.tokenizer, token, len(vocabulary))


def _table(rows: Sequence[_Row], position: int, total: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "node": row.name,
                "kind": row.kind,
                "layer": row.layer,
                "position": position,
                "contribution": row.contribution,
                "share": row.contribution / total,
                "promoted": _spell(row.promoted),
                "suppressed": _spell(row.suppressed),
            }
            for row in rows
        ]
    )


def _spell(words: Words) -> str:
    return ", ".join(f"{text!r} {value:+.2f}" for text, value in words)


def _graph(model: Model, reader: _Reader, rows: Sequence[_Row], total: float) -> nx.DiGraph:
    """Writers into states of the stream, and states into the next, in the order of the sum."""
    graph = nx.DiGraph(token=reader.text(int(reader.aim.ids)), total=total)
    for row in rows:
        graph.add_node(row.name, **_attributes(row))
        graph.add_edge(row.name, _target(model, row), contribution=row.contribution)
    states: dict[str, tuple[float, Tensor]] = {}
    carried, vector = 0.0, torch.zeros_like(widen(reader.seen[FINAL_STREAM][0]))
    for row in rows:
        if row.vector is not None and row.kind != "neuron":
            carried, vector = carried + row.contribution, vector + row.vector
            states[_target(model, row)] = carried, vector  # whole after its last writer
    words = reader.words(torch.stack([vector for _, vector in states.values()]))
    following = [*list(states)[1:], "logits"]
    for (state, (carried, vector)), told, then in zip(
        states.items(), words, following, strict=True
    ):
        graph.add_node(state, **_attributes(_Row(state, "stream", -1, carried, vector, *told)))
        graph.add_edge(state, then, contribution=carried)
    graph.add_node("logits", kind="logits", contribution=total, promoted=(), suppressed=())
    return graph


def _attributes(row: _Row) -> dict[str, object]:
    words = {"promoted": row.promoted, "suppressed": row.suppressed}
    return {"kind": row.kind, "contribution": row.contribution, **words}


def _target(model: Model, row: _Row) -> str:
    """What a row's arrow points at: a state of the stream, an MLP (neurons), or the logits."""
    if row.vector is None:
        return "logits"
    if row.kind == "neuron":
        return f"m{row.layer}"
    if row.layer < 0:
        return "r0.pre"
    if row.kind != "mlp_out" and not model.blocks[row.layer].parallel:
        return f"r{row.layer}.mid"
    last = row.layer + 1 == len(model.blocks)
    return f"r{row.layer}.post" if last else f"r{row.layer + 1}.pre"
