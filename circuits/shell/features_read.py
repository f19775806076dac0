"""Dictionaries that a command of `features` is given. Heavy imports when needed."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.dictionaries import Dictionaries

NEURONS = "neurons"


def read_dictionaries(given: str | None, model: str) -> "Dictionaries | str":
    """Dictionaries from a folder or the hub, or the word for neurons.

    None: the transcoders that ship with the model of this name; of any other model neurons.

    Raises:
        ValueError: if there are none.
    """
    from patching.models import WITH_TRANSCODERS

    if given is None:
        given = model if model in WITH_TRANSCODERS else NEURONS
    if given == NEURONS:
        return given
    if given not in WITH_TRANSCODERS and not Path(given).exists() and given.count("/") != 1:
        raise ValueError(f"there is no folder {given}; name one of dictionaries, or {NEURONS}")
    from patching.dictionaries import load_dictionaries

    return load_dictionaries(given)
