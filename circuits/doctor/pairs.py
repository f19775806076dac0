"""Are the rows of a task in order? What can be said of token ids without running the model."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

from circuits.doctor.finding import Finding, Verdict, at_most, named
from circuits.doctor.rows import NO_CONTRAST, UNREADABLE, Reading
from patching.model import Model
from patching.tasks import Prompt, Task, Tokenizer
from patching.tasks.prompt import FAULTS, SPAN_FAULTS, tokens_of
from patching.tasks.spans import REST
from patching.tasks.tokens import n_bos

MOST_COMMON = 0.9
"""One answer in a larger share of the rows can be had without reading the prompt."""

_UNEQUAL, *_SENSELESS = (fault for fault in FAULTS if fault not in SPAN_FAULTS)


def row_faults(reading: Reading) -> list[Finding]:
    """Rows that cannot be used at all, by what is wrong with them."""
    return [
        _faulty(
            reading,
            "rows can be read",
            (UNREADABLE,),
            "Write text or token ids, and answers as they continue the prompt (space included).",
        ),
        _faulty(
            reading,
            "pairs have equal lengths",
            (_UNEQUAL,),
            "Make clean and corrupt equally long in tokens, word by word.",
        ),
        _faulty(
            reading,
            "answers are in order",
            tuple(_SENSELESS),
            "Give each row an answer, and wrong answers that differ from it.",
        ),
        _faulty(
            reading,
            "spans are in order",
            tuple(SPAN_FAULTS),
            "Name ranges of the prompt's own tokens, half open, none twice.",
        ),
        _faulty(
            reading,
            "pairs differ",
            (NO_CONTRAST,),
            "Change in the corrupt prompt what the behaviour hangs on.",
        ),
    ]


def fits(model: Model, task: Task, rows: Sequence[int]) -> Finding:
    """Every id is in the model's vocabulary, and every prompt within its context."""
    vocab, longest = int(model.bridge.cfg.d_vocab), int(model.bridge.cfg.n_ctx)

    def is_bad(prompt: Prompt) -> bool:
        return max(prompt.ids) >= vocab or prompt.n_tokens > longest

    return _counted(
        "rows fit the model",
        _where(task, rows, is_bad),
        f"Token ids below {vocab}, prompts of at most {longest} tokens.",
        "The task was made for another tokenizer or a longer context; drop these rows or make it "
        "anew.",
        "unusable",
        drop=True,
    )


def several_tokens(task: Task) -> Finding:
    """How many rows only count because their answers may have several tokens."""
    lengths = [
        max(len(tokens_of(answer)) for answer in (*p.answers, *p.wrong_answers))
        for p in task.prompts
    ]
    n = sum(length > 1 for length in lengths)
    inside = sum(bool(p.answer_positions) for p in task.prompts)
    rows = f"{len(task) - n - inside} rows have answers of one token, {n} of several"
    where = f" (up to {max(lengths)})" if n else ""
    more = f", {inside} are asked at positions inside the prompt" if inside else ""
    return Finding(
        name="rows with answers of several tokens",
        subject="task",
        verdict="good",
        measured=n,
        threshold=len(task),
        unit="rows",
        means=f"{rows}{where}{more}.",
    )


def spans(task: Task, rows: Sequence[int]) -> Finding:
    """Which spans the rows have, how long they are, and rows that have none."""
    without = _where(task, rows, lambda p: not p.spans)
    of_all = sum(len(prompt.clean) for prompt in task.prompts)
    named_tokens = sum(span.stop - span.start for p in task.prompts for span in p.spans)
    told = [_told(task, name) for name in task.span_names[1:]]
    rest = f"{REST}: {(of_all - named_tokens) / len(task):.1f} tokens a row"
    return Finding(
        name="rows have spans",
        subject="task",
        verdict="doubtful" if without else "good",
        measured=len(without),
        threshold=0,
        unit="rows without",
        means="; ".join([*told, rest]) + ".",
        advice="Mark these rows too, or drop them: all of their tokens are the rest.",
        rows=without,
        drop=bool(without),
    )


def _told(task: Task, name: str) -> str:
    """In how many rows a span is, and how many tokens it has there."""
    sizes = [
        sum(span.stop - span.start for span in p.spans if span.name == name) for p in task.prompts
    ]
    found = [size for size in sizes if size]
    low, high = min(found), max(found)
    tokens = f"{low}" if low == high else f"{low} to {high}"
    share = "all" if len(found) == len(task) else f"{len(found)} of {len(task)}"
    return f"{name}: {tokens} token{'' if high == 1 else 's'} in {share} rows"


def one_bos(tokenizer: Tokenizer, task: Task, rows: Sequence[int]) -> Finding:
    """Prompts begin with exactly one BOS where the tokenizer uses one."""
    bos = tokenizer.bos_token_id
    uses = bos is not None and bos in tokenizer.encode("a", add_special_tokens=True)[:1]
    missing = _where(task, rows, lambda p: uses and n_bos(p.clean, bos) == 0)
    doubled = _where(task, rows, lambda p: uses and n_bos(p.clean, bos) > 1)
    bad = tuple(sorted((*missing, *doubled)))
    means = f"The tokenizer {'puts' if uses else 'does not put'} a BOS (id {bos}) first."
    if missing:
        means += f" It is missing in {named(missing)}."
    if doubled:
        means += f" It is doubled in {named(doubled)}."
    return _counted(
        "one BOS",
        bad,
        means,
        "Give prompts as text, or ids with one BOS in front: models are off without.",
        "doubtful",
    )


def known_tokens(tokenizer: Tokenizer, task: Task, rows: Sequence[int]) -> Finding:
    """No prompt or answer holds the token for unknown words."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    reserved = (tokenizer.bos_token_id, getattr(tokenizer, "eos_token_id", None))
    uses = unknown is not None and unknown not in reserved

    def is_bad(prompt: Prompt) -> bool:
        answers = chain.from_iterable(map(tokens_of, prompt.answers))
        return uses and unknown in {*prompt.clean, *prompt.corrupt, *answers}

    return _counted(
        "words are known",
        _where(task, rows, is_bad),
        "Rows with a word that the tokenizer does not know.",
        "Take words of the vocabulary: all unknown ones look alike to the model.",
        "doubtful",
        drop=True,
    )


def distinct(task: Task, rows: Sequence[int]) -> Finding:
    """No pair stands there twice."""
    seen: set[tuple] = set()
    again = []
    for number, prompt in zip(rows, task.prompts, strict=True):
        key = (prompt.clean, prompt.corrupt, prompt.answers, prompt.wrong_answers)
        key += (prompt.answer_positions,)
        again += [number] if key in seen else []
        seen.add(key)
    few = len(again) <= 0.1 * len(task)
    means = "Pairs that stand there before count twice, and may be on both sides of a split"
    return _counted(
        "rows are distinct",
        tuple(again),
        f"{means}{': a few only, which templates bring about' if again and few else ''}.",
        "Drop the later copies, or generate fewer prompts.",
        "good" if few else "doubtful",
        drop=not few,
    )


def varied(task: Task) -> Finding:
    """No answer is right in nearly all rows."""
    counts = Counter(frozenset(prompt.answers) for prompt in task.prompts)
    share = counts.most_common(1)[0][1] / len(task)
    return Finding(
        name="answers vary",
        subject="task",
        verdict=at_most(share, MOST_COMMON),
        measured=share,
        threshold=MOST_COMMON,
        unit="of the rows",
        means=f"The commonest of {len(counts)} answers; a constant one can be given without "
        "reading the prompt.",
        advice="Balance the answers.",
    )


def differing(task: Task) -> Finding:
    """How many tokens differ in a pair, and whether at the same positions in all rows."""
    places = [_differing(prompt) for prompt in task.prompts]
    shares = [len(at) / len(p.clean) for at, p in zip(places, task.prompts, strict=True)]
    share = sum(shares) / len(shares)
    patterns = Counter((len(p.clean), at) for at, p in zip(places, task.prompts, strict=True))
    (length, at), n = patterns.most_common(1)[0]
    return Finding(
        name="pairs are close",
        subject="task",
        verdict=at_most(share, 0.5),
        measured=share,
        threshold=0.5,
        unit="of the tokens",
        means=f"{sum(map(len, places)) / len(places):.1f} tokens of a pair differ. The commonest "
        f"of {len(patterns)} templates has {length} tokens, differs at {_listed(at)} and makes "
        f"{n / len(task):.0%} of the rows.",
        advice="Change only what the behaviour hangs on, or read "
        "the scores as those of everything that differs.",
        details=(("templates", len(patterns)),),
    )


def _faulty(reading: Reading, name: str, kinds: tuple[str, ...], advice: str) -> Finding:
    faults = [fault for fault in reading.faults if fault.kind in kinds]
    told = [f"row {f.row}: {f.kind}{f' ({f.found})' if f.found else ''}" for f in faults[:3]]
    more = f"; {len(faults) - 3} more" if len(faults) > 3 else ""
    means = f"{'; '.join(told)}{more}." if faults else f"None with {'; '.join(kinds)}."
    rows = tuple(fault.row for fault in faults)
    return _counted(name, rows, means, advice, "unusable", drop=True)


def _counted(
    name: str,
    rows: tuple[int, ...],
    means: str,
    advice: str,
    otherwise: Verdict,
    *,
    drop: bool = False,
) -> Finding:
    """A finding that counts bad rows: good without any."""
    return Finding(
        name=name,
        subject="task",
        verdict=otherwise if rows else "good",
        measured=len(rows),
        threshold=0,
        unit="rows",
        means=means,
        advice=advice,
        rows=rows,
        drop=drop and bool(rows),
    )


def _where(task: Task, rows: Sequence[int], is_bad: Callable[[Prompt], bool]) -> tuple[int, ...]:
    return tuple(n for n, prompt in zip(rows, task.prompts, strict=True) if is_bad(prompt))


def _differing(prompt: Prompt) -> tuple[int, ...]:
    pairs = zip(prompt.clean, prompt.corrupt, strict=True)
    return tuple(i for i, (a, b) in enumerate(pairs) if a != b)


def _listed(positions: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, positions[:5])) + (", ..." if len(positions) > 5 else "")
    return f"position{'s' if len(positions) > 1 else ''} {shown}"
