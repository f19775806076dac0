"""Scorers of one's own: `module:function` or `file.py:function`, in the place of a method's name.

Naming one runs its module's code; `circuits rerun` does so only where it is told to.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import Parameter, getsourcefile, signature
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from patching.files.meant import meant

if TYPE_CHECKING:
    from circuits.scores import Scores
    from circuits.scoring import Method
    from patching.metrics import Metric
    from patching.model import Model
    from patching.tasks import Task

_OPTIONS = ("batch_size", "run", "steps", "quadrature", "ablation")
"""What the shell may give a scorer beside the model, the task and the metric."""

_PASSED_ON = {"batch_size", "run", "ablation"}
"""What a scorer with `**options` is given of these."""


def find_method(name: str) -> "Method":
    """The method of this name, or a function of one's own; what it takes its signature says.

    Raises:
        ValueError: if there is none, or the function cannot be called as a scorer.
    """
    from circuits.scoring import METHODS, Method

    if name in METHODS:
        return METHODS[name]
    if not _is_own(name):
        raise ValueError(
            f"no method named {name!r}; there are {', '.join(METHODS)}, and scorers of one's own "
            f"as module:function or file.py:function{meant(name, METHODS)}"
        )
    function, source = _find(name)
    taken = _taken(name, function)
    return Method(
        _Own(name, function, taken),
        "its own",
        f"source {source}",
        takes_steps="steps" in taken,
        takes_quadrature="quadrature" in taken,
        takes_ablation="ablation" in taken,
    )


def own_sources(names: Iterable[str]) -> dict[str, str]:
    """Hashes of the sources of those among some names that are functions of one's own.

    Raises:
        ValueError: as `find_method`.
    """
    return {name: _find(name)[1] for name in names if _is_own(name)}


@dataclass(frozen=True)
class _Own:
    """A function of one's own as a scorer: what it returns is looked at, and says what made it."""

    name: str
    function: Callable[..., object]
    taken: frozenset[str]

    def __call__(
        self, model: "Model", task: "Task", metric: "Metric", **options: object
    ) -> "Scores":
        """Its scores; their provenance lacks nothing that those of all methods say.

        Raises:
            ValueError: if it returns something else, or is to keep its work and cannot.
        """
        from circuits.provenance import describe
        from circuits.scores import Scores

        if options.get("run") is not None and "run" not in self.taken:
            raise ValueError(f"{self.name} takes no run= to keep its work in; leave out --run")
        given = {name: value for name, value in options.items() if name in self.taken}
        found = self.function(model, task, metric, **given)
        if not isinstance(found, Scores):
            kind = type(found).__name__
            raise ValueError(f"{self.name} returned a {kind}; a scorer returns circuits.Scores")
        model.graph.require_same(found.graph, f"what {self.name} returned is")
        ablation = given.get("ablation")
        replaced_by = getattr(ablation(model), "name", "none") if callable(ablation) else "none"
        said = describe(model, task, metric, self.name, {}, ablation=replaced_by)
        return replace(found, provenance={**said, **found.provenance})


def _is_own(name: str) -> bool:
    where, colon, what = name.rpartition(":")
    return bool(colon and where) and what.isidentifier()


@cache
def _find(name: str) -> tuple[Callable[..., object], str]:
    """A function by its module or file, and the hash of its source.

    Raises:
        ValueError: if there is no such module, file or function.
    """
    where, _, what = name.rpartition(":")
    is_file = where.endswith(".py")
    if is_file and not Path(where).is_file():
        raise ValueError(f"there is no file {where!r} to take {what} from")
    try:
        module = _run_file(Path(where)) if is_file else import_module(where)
    except Exception as error:  # whatever the code of somebody else raises
        raise ValueError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, what, None)
    if not callable(function):
        there = "no function" if function is None else f"a {type(function).__name__} in place of"
        raise ValueError(f"{where} has {there} {what}; name a function, as module:function")
    source = getsourcefile(module)
    if source is None:
        raise ValueError(f"{where} has no source by which {what} could be told from another")
    return function, hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]


def _run_file(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file is loaded as one"
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _taken(name: str, function: Callable[..., object]) -> frozenset[str]:
    """The options a scorer takes, of those that the shell gives.

    Raises:
        ValueError: if it does not take a model, a task and a metric, or wants more than these.
    """
    takes = signature(function).parameters
    try:
        signature(function).bind("model", "task", "metric")
    except TypeError as error:
        raise ValueError(
            f"{name} is called as a scorer, (model, task, metric, *, ...), and cannot be: {error}"
        ) from None
    named = set(_OPTIONS) & set(takes)
    anything = any(one.kind is Parameter.VAR_KEYWORD for one in takes.values())
    return frozenset(named | _PASSED_ON if anything else named)
