"""Modules that have moved: for one release their old names work, and say where to look now."""

import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

_ROOMS = {
    "anatomy": "blocks devices insides kept loading norms places proof spread stack weights",
    "files": "parsing",
}
MOVES = {
    **{
        f"patching.{name}": f"patching.{room}.{name}"
        for room in _ROOMS
        for name in _ROOMS[room].split()
    },
    "patching.batchwise": "patching.runs.batches",
    "patching.fitting": "patching.runs.batches",
    "patching.sweeps": "patching.runs",
    "patching.sweeps.engine": "patching.runs.patches",
    "patching.sweeps.pairs": "patching.runs.pairs",
    "patching.sweeps.spots": "patching.runs.spots",
    "patching.tensor_files": "patching.files.tensors",
}


class Moved(MetaPathFinder, Loader):
    """Finds modules by their old names; it is asked first, or a package's parts are made twice."""

    def __init__(self, moves: Mapping[str, str]) -> None:
        self._moves = moves

    def find_spec(
        self, fullname: str, path: Iterable[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Of a module that has moved; of no other."""
        return spec_from_loader(fullname, self) if fullname in self._moves else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """What stands for a module under its old name."""
        return _Former(spec.name, self._moves[spec.name])

    def exec_module(self, module: ModuleType) -> None:
        """Say where it is now."""
        old = module.__name__
        said = f"{old} is {self._moves[old]} now; its old name works in this release only"
        warnings.warn(said, DeprecationWarning, stacklevel=2)


class _Former(ModuleType):
    """An old name: whatever is asked of it is asked of the module that it is called now.

    What is a function's name by now, such as `circuits.completeness`, can be called as well.
    """

    def __init__(self, name: str, now: str) -> None:
        super().__init__(name)
        self._now = self.__module__ = now  # a function's too, where one has the old name

    def __getattr__(self, name: str) -> object:
        return getattr(import_module(self._now), name)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)
