"""A small language for transformers whose circuit is known: heads that attend and copy, look-ups.

A program is a plain value. Its variables, called *slots*, live in the residual stream; each holds
one word of the vocabulary (or nothing) at every position, and is written by one writer only:

* `token`, by the embedding: the word at this position;
* whatever a `Head` copies or a `Lookup` finds, under the name it gives `into`.

`meaning` runs a program on words, `compile_gpt2` and `compile_llama` turn it into weights.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from patching.models.word_level import BOS, SPECIAL

TOKEN = "token"
EMBED, LOGITS = "embed", "logits"


@dataclass(frozen=True)
class Previous:
    """Attend `back` positions back; where there is no such position, to the first."""

    back: int


@dataclass(frozen=True)
class Match:
    """Attend to where the slot `key` holds what is asked for; where nothing does, to `<bos>`.

    Asked for is what the slot `query` holds here, or always the word `word`. Attention is split
    between several matches; a program of which something exact is expected has one.
    """

    key: str
    query: str | None = None
    word: str | None = None


@dataclass(frozen=True)
class Head:
    """An attention head: at every position it copies slot `copy` of where it attends `into` a slot.

    >>> Head(0, 1, attend=previous(), copy="token", into="before").node
    'a0.h1'
    """

    layer: int
    head: int
    attend: Previous | Match
    copy: str
    into: str

    @property
    def node(self) -> str:
        """Its name as a writer."""
        return f"a{self.layer}.h{self.head}"

    @property
    def reads(self) -> Mapping[str, tuple[str | None, ...]]:
        """The slots that each of its readers reads; None for what is the same in every prompt.

        Constants are positions, that every prompt starts with `<bos>`, and a direction that all
        embeddings share. They come with the embedding.
        """
        q, k = (None,), (None,)
        if isinstance(self.attend, Match):
            q = (None,) if self.attend.query is None else (None, self.attend.query)
            k = (TOKEN, self.attend.key)  # `<bos>` is known by its token
        return {f"{self.node}.q": q, f"{self.node}.k": k, f"{self.node}.v": (self.copy,)}


@dataclass(frozen=True)
class Lookup:
    """The MLP of a layer as a table: the words in the slots `reads`, to the word put `into` a slot.

    What the table does not list (a slot may hold nothing) gives `otherwise`.

    >>> Lookup(0, ("token",), {("a",): "b"}, otherwise="a", into="next").node
    'm0'
    """

    layer: int
    slots: tuple[str, ...]
    table: Mapping[tuple[str, ...], str]
    otherwise: str
    into: str

    @property
    def node(self) -> str:
        """Its name as writer and reader."""
        return f"m{self.layer}"

    @property
    def reads(self) -> Mapping[str, tuple[str | None, ...]]:
        """The slots it reads, and the constant that sets its thresholds."""
        return {self.node: (None, *self.slots)}


Step = Head | Lookup


def previous(back: int = 1) -> Previous:
    """Attend to the token before, or `back` tokens back; position 0 attends to itself."""
    return Previous(back)


def same(query: str = TOKEN, key: str = TOKEN) -> Match:
    """Attend to where slot `key` holds the word that slot `query` holds here.

    With `key="token"` and `query="token"` a position always finds itself as well.
    """
    return Match(key, query=query)


def marked(word: str, key: str = TOKEN) -> Match:
    """Attend, from everywhere, to where slot `key` holds `word`."""
    return Match(key, word=word)


def first() -> Match:
    """Attend to the first token, which is `<bos>`."""
    return marked(BOS)


@dataclass(frozen=True)
class Program:
    """Words, and the steps that compute the next one.

    The logit of a word is the share of the slots `answers` that hold it, times a constant.

    Raises:
        ValueError: if two steps share a node or a slot, a step has no room in the model, a slot
            is read before it is written, or a word is not of the vocabulary.
    """

    words: tuple[str, ...]
    steps: tuple[Step, ...]
    answers: tuple[str, ...]
    n_layers: int = 2
    n_heads: int = 4
    n_positions: int = 24

    def __post_init__(self) -> None:
        if not self.answers:
            raise ValueError("a program needs at least one slot that holds the answer")
        for what, names in (
            ("node", [step.node for step in self.steps]),
            ("slot", [TOKEN, *(step.into for step in self.steps)]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"two writers share the {what} {min(twice)!r}; each has its own")
        for step in self.steps:
            self._check_room(step)
            for reader, slots in step.reads.items():
                for slot in slots:
                    self._check_slot(reader, slot, _moment(step))
            self._check_words(step)
        for slot in self.answers:
            self._check_slot(LOGITS, slot, 2 * self.n_layers)

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """All words in the order of their token ids."""
        return tuple(dict.fromkeys([*SPECIAL, *self.words]))

    @cached_property
    def in_order(self) -> tuple[Step, ...]:
        """The steps as the model runs them."""
        return tuple(sorted(self.steps, key=_moment))

    @cached_property
    def writers(self) -> Mapping[str, str]:
        """Who writes each slot."""
        return {TOKEN: EMBED, **{step.into: step.node for step in self.steps}}

    @cached_property
    def structural(self) -> frozenset[str]:
        """The edges that the computation of the answers reads, constants included.

        >>> echo = Program(("a",), (Head(0, 0, previous(), "token", "old"),), ("old",), n_layers=1)
        >>> sorted(echo.structural)
        ['a0.h0->logits', 'embed->a0.h0.k', 'embed->a0.h0.q', 'embed->a0.h0.v']
        """
        edges, needed = self._edges(LOGITS, self.answers), set(self.answers)
        for step in reversed(self.in_order):
            if step.into in needed:
                for reader, slots in step.reads.items():
                    edges |= self._edges(reader, slots)
                    needed |= {slot for slot in slots if slot is not None}
        return frozenset(edges)

    def written_before(self, moment: int) -> int:
        """How many slots and constants the stream holds at a moment: 2 of the embedding's, ...

        The moment of a layer's attention is twice the layer, its MLP's one more.
        """
        return 2 + sum(_moment(step) < moment for step in self.steps)

    def _edges(self, reader: str, slots: tuple[str | None, ...]) -> set[str]:
        return {f"{EMBED if s is None else self.writers[s]}->{reader}" for s in slots}

    def _check_room(self, step: Step) -> None:
        fits = 0 <= step.layer < self.n_layers
        if isinstance(step, Head):
            fits = fits and 0 <= step.head < self.n_heads
            if isinstance(step.attend, Previous) and not 0 < step.attend.back < self.n_positions:
                raise ValueError(
                    f"{step.node} attends {step.attend.back} tokens back; from 1 to "
                    f"{self.n_positions - 1} would be right"
                )
        if not fits:
            raise ValueError(
                f"{step.node} has no room in {self.n_layers} layers of {self.n_heads} heads"
            )

    def _check_slot(self, reader: str, slot: str | None, moment: int) -> None:
        if slot is None:
            return
        written = [TOKEN, *(step.into for step in self.in_order if _moment(step) < moment)]
        if slot not in written:
            raise ValueError(
                f"{reader} reads the slot {slot!r}, which nobody has written before it; there "
                f"{'are' if len(written) > 1 else 'is'} {', '.join(written)}"
            )

    def _check_words(self, step: Step) -> None:
        unknown = [word for word in _words(step) if word not in self.vocabulary]
        if unknown:
            raise ValueError(f"{step.node} names {unknown[0]!r}, which is no word of the program")
        if isinstance(step, Lookup) and any(len(row) != len(step.slots) for row in step.table):
            raise ValueError(
                f"{step.node} reads {len(step.slots)} slots; each row of its table needs as many"
            )


def _moment(step: Step) -> int:
    """Steps of one moment do not see each other."""
    return 2 * step.layer + isinstance(step, Lookup)


def _words(step: Step) -> Iterator[str]:
    if isinstance(step, Lookup):
        yield step.otherwise
        for row, found in step.table.items():
            yield from (*row, found)
    elif isinstance(step.attend, Match) and step.attend.word is not None:
        yield step.attend.word
