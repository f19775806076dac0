"""Provenance: what a result was made from and how, in plain values that fit into JSON."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata

import torch

from patching.memory import current
from patching.metrics import Metric, name_of
from patching.model import Model
from patching.tasks.spans import spans_json
from patching.tasks.task import Task
from patching.work.fingerprint import told_apart

_DECIDES_NOTHING = ("source", "origin", "tokenizer")  # paths differ from machine to machine
_PACKAGES = ("circuit-workbench", "torch", "transformer-lens", "transformers")


def describe(
    model: Model,
    task: Task,
    metric: Metric,
    method: str,
    options: Mapping[str, object],
    *,
    facts: Mapping[str, object],
) -> dict[str, object]:
    """Everything a reader needs to make the result again; `facts` are the method's own.

    `task` names the prompts, `tokens` is the hash of their ids. What the model is says its
    `identity`: `config`, `weights`, `tokenizer`, `dtype` and, if it was made or changed in memory,
    `inside`. `source` is what the model was loaded by, `origin` how the prompts were made; None
    and nothing for what was made in memory.
    """
    return {
        "model": model.name,
        "source": model.source,
        "revision": model.revision,
        **model.identity.facts,
        "task": task.name,
        "origin": dict(task.origin),
        "tokens": task.hash,
        "n_examples": len(task),
        "metric": name_of(metric),
        "method": method,
        "options": dict(options),
        **facts,
        **(_of_spans(task) if task.apart else {}),
        "device": str(model.device),
        **({} if model.device_map is None else {"device_map": model.device_map}),
        **({"hooks": hooks} if (hooks := _hooks_in_place(model)) else {}),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _of_spans(task: Task) -> dict[str, object]:
    """The spans that a task keeps apart, and a short hash of where they are in its prompts."""
    ranges = [spans_json(prompt.spans) for prompt in task.prompts]
    digest = hashlib.sha256(json.dumps(ranges).encode()).hexdigest()
    spans = {"names": list(task.apart), "ranges": digest[:16]}
    return {"spans": spans, "positions": "summed over each span"}


def confirmed(model: Model, described: Mapping[str, object]) -> dict[str, object]:
    """Provenance whose identity was held against the model's answer to a probe.

    For what is kept to be reused: runs, states, logs. Where hooks are in place, they are said to
    be, and nothing is reused.
    """
    identity = {} if "hooks" in described else model.confirmed().facts
    return {**described, **identity}


def run_settings(
    model: Model, described: Mapping[str, object], task: Task, *, batch_size: int, functions: object
) -> dict[str, object]:
    """All that decides a result to the last bit, for `patching.work`.

    That is its provenance, `confirmed`, and how its sums are rounded. `functions` are those that a
    user may have written; provenance has no more than their names. Devices of one kind count as
    the same.

    Raises:
        ValueError: if a function cannot be told from others, or hooks are in place, which cannot.
    """
    described = confirmed(model, described)
    return {
        **{name: fact for name, fact in described.items() if name not in _DECIDES_NOTHING},
        "device": torch.device(str(described["device"])).type,
        "batch_size": batch_size,
        "padding": task.padding,
        "two_way": task.two_way,
        "memory_limit": current().limit,
        "functions": told_apart(described, functions),
    }


def _hooks_in_place(model: Model) -> list[str]:
    """Where somebody outside changes or reads activations: results are of the model so changed.

    Hooks of the model library at its hook points, and PyTorch's own on modules.
    """
    points = model.bridge.hook_dict.values()  # one point may have several names there
    hooked = {str(point.name) for point in points if point.fwd_hooks or point.bwd_hooks}
    return sorted({*hooked, *model.standing.new_hooks()})


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
