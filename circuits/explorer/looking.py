"""What goes on inside a model on one prompt, for an explorer: where heads look, what nodes say."""

from collections.abc import Mapping

from circuits.explorer.insides import Insides
from patching.attention.pattern_grid import patterns
from patching.lens.projection import logit_lens
from patching.lens.text import prompt_texts, token_texts
from patching.model import Model
from patching.tasks import Task
from patching.tasks.spans import labels


def look_inside(
    model: Model,
    task: Task,
    *,
    prompt: int = 0,
    most: int = 6,
    effects: Mapping[str, float] | None = None,
) -> Insides:
    """Read a model on one prompt of a task, for `explore(..., insides=...)`. Costs two forwards.

    What a node promotes is its write read through the final norm, at the scale of the last stream,
    and the unembedding, less the mean over the vocabulary: logits, which add up over nodes.

    >>> from patching import Model, tasks
    >>> model = Model.load("toy")
    >>> inside = look_inside(model, tasks.ioi(model.tokenizer, n=4, seed=0), prompt=1)
    >>> inside.patterns.shape[:2], len(inside.promoted["a3.h3"])
    (torch.Size([4, 4]), 6)

    Args:
        model: that the edges are of.
        task: that its prompt is of.
        prompt: which one, from 0; its clean side.
        most: tokens a node.
        effects: what was measured of nodes, by name.

    Raises:
        ValueError: if there is no such prompt or node, or no token is asked for.
    """
    if not 0 <= prompt < len(task):
        raise ValueError(f"there is no prompt {prompt}; {task.name} has 0 to {len(task) - 1}")
    if most < 1:
        raise ValueError(f"cannot name {most} tokens; 1 is the least")
    one = Task(task.name, (task.prompts[prompt],))
    at = labels(one.prompts[0].spans, task.span_names, len(one.prompts[0].clean))
    lens = logit_lens(model, one, ["embed", "heads", "mlp_out"], scale="frozen", softcap=False)
    if unknown := set(effects or {}) - {*lens.nodes}:
        raise ValueError(f"no node is named {min(unknown)!r}; {lens.nodes[1]} or m0 would be right")
    sigma = lens.vocabulary.sigma(lens.states.final)
    logits = lens.vocabulary.promotions(lens.states.vectors[:, 0, 0], sigma[0])
    best = logits.topk(min(most, logits.shape[-1]), dim=-1)
    pairs = zip(lens.nodes, best.indices.tolist(), best.values.tolist(), strict=True)
    return Insides(
        model=model.name,
        said=prompt_texts(model.tokenizer, one, 1)[0],
        tokens=token_texts(model.tokenizer, one.prompts[0].clean),
        patterns=patterns(model, one).values[0].double().clamp(0, 1),
        promoted={
            node: tuple(zip(token_texts(model.tokenizer, ids), by, strict=True))
            for node, ids, by in pairs
        },
        effects=dict(effects or {}),
        spans=tuple(task.span_names[i] for i in at),
    )
