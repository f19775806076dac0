"""How much memory a batch will take: predicted from one prompt, before any real work."""

from dataclasses import replace

import torch
from torch import Tensor

from circuits.doctor.finding import Finding, at_most
from circuits.scoring import eap
from patching.ablations import resample, zero
from patching.memory import current, free_bytes
from patching.metrics import Metric
from patching.model import Model
from patching.tasks.asked import ask
from patching.tasks.task import Prompt, Task

GIB = 2**30


def memory(model: Model, task: Task, metric: Metric, batch_size: int) -> list[Finding]:
    """Bytes for scoring and for evaluating a batch of the longest prompts, against what is free.

    Scoring keeps what autograd saves of a run (seen on one prompt, times the batch) and writes and
    gradients of all nodes; evaluating keeps the streams of both runs. The weights are there
    already. The fixed part is what tiles of large products and passes of circuits may take: a small
    model fills less of it, and needs less than is predicted.
    """
    longest = max(task.prompts, key=lambda prompt: prompt.n_tokens)
    longest = longest if longest.is_text else _with_wrong_answer(longest)
    per_prompt = {
        "scoring": _saved_by_autograd(model, longest, metric) + _kept_by_scoring(model, longest),
        "evaluating": _kept_by_evaluation(model, longest),
    }
    tiles = current().bytes_on(model.device)
    return [_finding(model, what, tiles, each, batch_size) for what, each in per_prompt.items()]


def _with_wrong_answer(prompt: Prompt) -> Prompt:
    """For metrics that compare with one; any does."""
    if prompt.wrong_answers:
        return prompt
    wrong = next(i for i in range(len(prompt.answers) + 1) if i not in prompt.answers)
    n = len(prompt.answer_positions) or 1
    return replace(prompt, wrong_answers=(wrong,) * n)


def _finding(model: Model, what: str, fixed: int, each: int, batch_size: int) -> Finding:
    free = free_bytes(model.device)
    needed = fixed + each * batch_size
    return Finding(
        name=f"memory for {what}",
        subject="model",
        verdict=at_most(needed / free, 0.5, 1.0),
        measured=needed / GIB,
        threshold=free / 2 / GIB,
        unit="GiB",
        means=f"Predicted beyond the weights for {batch_size} prompts of the greatest length, "
        f"of {free / GIB:.3g} GiB free on {model.device}; {fixed / GIB:.2g} GiB of it is a ceiling "
        "that small models stay under.",
        advice=_advice(int((free / 2 - fixed) // each)),
        details=(("bytes a prompt", each), ("fixed bytes", fixed)),
    )


def _advice(most: int) -> str:
    if most < 1:
        return "Not even one prompt fits; take shorter ones, --memory, or a larger device."
    return f"Take --batch-size {most}, or fewer."


def _saved_by_autograd(model: Model, prompt: Prompt, metric: Metric) -> int:
    """Bytes that the graph of one differentiated run holds, the weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.bridge.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        task = Task("one prompt", (prompt,), two_way=model.two_way)
        eap(model, task, metric, ablation=zero if task.is_text else resample)
    return sum(saved.values())


def _kept_by_scoring(model: Model, prompt: Prompt) -> int:
    """Writes of two runs and their difference, and gradients at all readers, as `capture` does."""
    graph, block = model.graph, model.blocks[0]
    d_model, d_head = block.w_o.shape[2], block.w_o.shape[1]
    writes = d_model + graph.n_layers * (graph.n_heads * d_head + d_model)
    projected = (graph.n_heads + 2 * graph.n_kv_heads) * d_head
    gradients = d_model + graph.n_layers * (projected + 2 * d_model)
    return _n_tokens(prompt) * (3 * writes + gradients) * _value(model)


def _kept_by_evaluation(model: Model, prompt: Prompt) -> int:
    """Streams and MLP outputs of the clean run, streams and projections of the corrupt one."""
    graph, block = model.graph, model.blocks[0]
    d_model, d_head = block.w_o.shape[2], block.w_o.shape[1]
    projected = (graph.n_heads + 2 * graph.n_kv_heads) * d_head
    a_layer = 4 * d_model + projected + 3 * graph.n_heads * d_head + 3 * d_model
    return _n_tokens(prompt) * (3 * d_model + graph.n_layers * a_layer) * _value(model)


def _n_tokens(prompt: Prompt) -> int:
    """Tokens of all rows that a prompt is run as."""
    return sum(len(prompt.clean) + len(row) for row in ask(prompt).rows)


def _value(model: Model) -> int:
    return 8 if model.dtype == torch.float64 else 4
