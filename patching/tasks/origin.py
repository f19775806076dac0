"""Origin: how a task was made, in values that fit into JSON, so that it can be made again.

A generated task says `{"task": "ioi", "n": 64, "seed": 0}`, one from a file `{"file": ...}` and how
it was read; what was done to it since is listed under `then`, in order. A task made by hand says
nothing.
"""

from collections.abc import Mapping

Origin = Mapping[str, object]


def then(origin: Origin, step: str, *values: object) -> Origin:
    """The origin of what a step made of a task; nothing, if nothing is known of the task.

    >>> then({"task": "ioi", "n": 8, "seed": 0}, "take", 4)
    {'task': 'ioi', 'n': 8, 'seed': 0, 'then': [['take', 4]]}
    """
    if not origin:
        return {}
    before = origin.get("then", [])
    assert isinstance(before, list), "steps are a list"
    return {**origin, "then": [*before, [step, *values]]}
