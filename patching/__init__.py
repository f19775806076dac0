"""One model and its activations: nodes, tasks, metrics, hooks, gradients.

Names are imported when first used: most modules here need no model library, and it is slow to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.graph import Graph as Graph
    from patching.metrics import accuracy as accuracy
    from patching.metrics import kl as kl
    from patching.metrics import logit_diff as logit_diff
    from patching.metrics import prob_diff as prob_diff
    from patching.model import Model as Model
    from patching.tasks import Prompt as Prompt
    from patching.tasks import Task as Task

_HOMES = {
    "patching.graph": ("Graph",),
    "patching.metrics": ("accuracy", "kl", "logit_diff", "prob_diff"),
    "patching.model": ("Model",),
    "patching.tasks": ("Prompt", "Task"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _HOMES.values() for name in names)})
