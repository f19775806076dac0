"""What figures write at the positions of a sweep: the span that is there, else a prompt's token."""

from collections.abc import Sequence

from patching.figures import token_labels
from patching.lens.text import token_texts
from patching.model import Model
from patching.tasks.spans import REST, labels
from patching.tasks.task import Task


def position_ticks(model: Model, task: Task) -> dict[str, tuple[str, ...]]:
    """Of every position, its number and a name, for `Grid.shown`.

    The name is that of the span there, of both where prompts have two (`2 IO/S1`); where some
    prompt has none, it is the token that stands there in the first prompt that is so long.
    """
    spans, words = task.span_names, _words(model, task)
    at = [labels(prompt.spans, spans, len(prompt.clean)) for prompt in task.prompts]
    names: list[str] = []
    for i in range(task.max_length):
        here = {spans[found[i]] for found in at if i < len(found)}
        named = sorted(here, key=spans.index) if REST not in here else []
        names.append("/".join(named) if 0 < len(named) <= 2 else words[i])
    return {"pos": token_labels(names)}


def _words(model: Model, task: Task) -> Sequence[str]:
    """The first prompt's tokens, and of longer ones what comes behind; nothing behind all."""
    ids: tuple[int, ...] = ()
    for prompt in task.prompts:
        ids += prompt.clean[len(ids) :]
    rest = [""] * (task.max_length - len(ids))
    return [*token_texts(model.tokenizer, ids), *rest]
