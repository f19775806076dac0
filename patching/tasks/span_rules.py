"""Spans by rule, for prompts that come without: by position, from the end."""

from collections.abc import Callable
from dataclasses import replace

from patching.tasks.origin import then
from patching.tasks.prompt import Prompt
from patching.tasks.spans import END, Span
from patching.tasks.task import Task


def each_position(task: Task) -> Task:
    """Every token is a span of its own, named by its number: for prompts of one template.

    >>> pair = Prompt((1, 5), (1, 6), (7,))
    >>> each_position(Task("t", (pair,))).span_names
    ('rest', '0', '1')

    Raises:
        ValueError: if prompts differ in length, where numbers would mean different things.
    """
    lengths = {len(prompt.clean): i for i, prompt in enumerate(task.prompts)}
    if len(lengths) > 1:
        found = ", ".join(f"{n} tokens (row {i})" for n, i in sorted(lengths.items())[:3])
        raise ValueError(
            f"prompts of task {task.name!r} differ in length: {found}; positions mean the same in "
            "prompts of one length alone: take of_length(), from_end, or spans of their own"
        )
    (n,) = lengths
    spans = tuple(Span(str(i), i, i + 1) for i in range(n))
    return _with(task, "each position", lambda _: spans)


def from_end(task: Task, n: int) -> Task:
    """The last `n` tokens are spans of their own: `end`, before it `end-1`, and so on.

    >>> pair = Prompt((1, 5, 9), (1, 6, 9), (7,))
    >>> from_end(Task("t", (pair,)), 2).span_names
    ('rest', 'end-1', 'end')

    Raises:
        ValueError: if that is none, or more than a prompt has; the row is named.
    """
    if n < 1:
        raise ValueError(f"take at least one token from the end, got {n}")
    short = [i for i, prompt in enumerate(task.prompts) if len(prompt.clean) < n]
    if short:
        has = len(task.prompts[short[0]].clean)
        raise ValueError(f"row {short[0]} of task {task.name!r} has {has} tokens, fewer than {n}")

    def spans(prompt: Prompt) -> tuple[Span, ...]:
        last = len(prompt.clean) - 1
        names = [f"{END}-{back}" if back else END for back in reversed(range(n))]
        return tuple(Span(name, last - n + 1 + i, last - n + 2 + i) for i, name in enumerate(names))

    return _with(task, "from the end", spans, n)


def _with(
    task: Task, rule: str, spans: Callable[[Prompt], tuple[Span, ...]], *details: object
) -> Task:
    prompts = tuple(replace(prompt, spans=spans(prompt)) for prompt in task.prompts)
    return replace(task, prompts=prompts, origin=then(task.origin, f"spans {rule}", *details))
