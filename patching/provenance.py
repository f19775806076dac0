"""Provenance: what a result was made from and how, in plain values that fit into JSON."""

from collections.abc import Mapping
from importlib import metadata

from patching.metrics import Metric
from patching.model import Model
from patching.tasks.task import Task

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

    `task` names the prompts, `tokens` is the hash of their ids; `weights` that of the weights.
    """
    return {
        "model": model.name,
        "revision": model.revision,
        "weights": model.weights,
        "task": task.name,
        "tokens": task.hash,
        "n_examples": len(task),
        "metric": metric.__name__,
        "method": method,
        "options": dict(options),
        **facts,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return "unknown"
