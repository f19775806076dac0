"""From a provenance to the command that makes the result again.

Results of the shell hold their command. For scores made in Python it is put together from the
names that the provenance gives; what cannot be named there cannot be repeated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from circuits.scoring import METHODS
from patching.files.parsing import shown
from patching.metrics import METRICS, respelled

Provenance = Mapping[str, object]


@dataclass(frozen=True)
class Elsewhere:
    """What is to take the place of what is recorded, where things have moved."""

    model: str | None = None
    task: str | None = None
    device: str | None = None


AS_RECORDED = Elsewhere()
_GO_WITH = {"model": ("revision",), "device": ("n-devices", "device-map")}


def command_of(provenance: Provenance, elsewhere: Elsewhere = AS_RECORDED) -> list[str]:
    """The words after `circuits` that make the result again, without where it goes.

    Raises:
        ValueError: if the provenance does not say enough; it names all that is missing.
    """
    partial = provenance.get("partial")
    if isinstance(partial, Mapping):
        n, of = partial.get("n_examples"), partial.get("of")
        raise ValueError(f"the rest of it: it is of {n} of {of} prompts, after an interrupt")
    recorded = provenance.get("command")
    if recorded is not None:
        return _replaced(_recorded(recorded), elsewhere)
    if not provenance:
        raise ValueError("any provenance (what `circuits discover` wrote is repeated as a folder)")
    return _score_command(provenance, elsewhere)


def _recorded(command: object) -> list[str]:
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise ValueError(f"a command (the recorded one is {shown(command)}, no list of words)")
    return command


def _replaced(words: Sequence[str], elsewhere: Elsewhere) -> list[str]:
    """The command with other options for what has moved."""
    for name in ("model", "task", "device"):
        value = getattr(elsewhere, name)
        if value is not None:
            gone = tuple(f"--{option}=" for option in (name, *_GO_WITH.get(name, ())))
            words = [word for word in words if not word.startswith(gone)]
            words.append(f"--{name}={value}")
    return list(words)


def _score_command(provenance: Provenance, elsewhere: Elsewhere) -> list[str]:
    parts: list[Callable[[Provenance, Elsewhere], list[str]]] = [
        *(_model, _task, _metric, _method, _ablation),
    ]
    words, missing = ["score"], []
    for part in parts:
        try:
            words += part(provenance, elsewhere)
        except ValueError as error:
            missing.append(str(error))
    if missing:
        raise ValueError("; ".join(missing))
    return words


def _model(provenance: Provenance, elsewhere: Elsewhere) -> list[str]:
    source = elsewhere.model or provenance.get("source")
    if source is None:
        raise ValueError("what the model was loaded from (give --model)")
    rest = {"revision": provenance.get("revision"), "dtype": provenance.get("dtype")}
    if elsewhere.model is not None:
        rest["revision"] = None
    device = elsewhere.device or provenance.get("device")
    return _options({"model": source, **rest, "device": device})


def _task(provenance: Provenance, elsewhere: Elsewhere) -> list[str]:
    """The task; another one in its place is made or cut to as many prompts.

    Raises:
        ValueError: if it is not known how the task was made.
    """
    n, seed = provenance.get("n_examples"), provenance.get("seed", 0)
    if elsewhere.task is not None:
        return _options({"task": elsewhere.task, "n": n, "limit": n, "seed": seed})
    origin = provenance.get("origin")
    if not isinstance(origin, Mapping) or not origin:
        raise ValueError("how the prompts were made (give --task)")
    return _options(_generated(origin) | _cut(origin) | _spans(provenance))


def _spans(provenance: Provenance) -> dict[str, object]:
    """The spans that were kept apart, by name: those that the prompts themselves say."""
    said = provenance.get("spans")
    names = said.get("names") if isinstance(said, Mapping) else None
    return {"spans": ",".join(map(str, names[1:]))} if isinstance(names, list) else {}


def _generated(origin: Mapping[str, object]) -> dict[str, object]:
    if "task" in origin:
        return {"task": origin["task"], "n": origin.get("n"), "seed": origin.get("seed")}
    if origin.get("counterfactual") is not None:
        raise ValueError(
            f"a command that reads {origin.get('file')} by its counterfactual (only Python)"
        )
    flags = {"first-token": origin.get("first_token"), "drop-rows": origin.get("drop")}
    return {"task": origin.get("file"), **flags}


def _cut(origin: Mapping[str, object]) -> dict[str, object]:
    steps = origin.get("then", [])
    if not steps:
        return {}
    if not isinstance(steps, list) or not all(isinstance(s, list) and s for s in steps):
        raise ValueError(f"how the prompts were cut (recorded is {shown(steps)})")
    if len(steps) == 1 and steps[0][0] == "take" and len(steps[0]) == 2:
        return {"limit": steps[0][1]}
    done = ", then ".join(shown(str(step[0]))[1:-1] for step in steps)
    raise ValueError(f"a command for prompts that were cut so: {done} (only Python)")


def _metric(provenance: Provenance, elsewhere: Elsewhere) -> list[str]:
    name = respelled(provenance).get("metric")
    if name in METRICS:
        return _options({"metric": name})
    raise ValueError(f"a metric of a known name (it was {provenance.get('metric')})")


def _method(provenance: Provenance, elsewhere: Elsewhere) -> list[str]:
    name, options = provenance.get("method"), provenance.get("options")
    said = options if isinstance(options, Mapping) else {}
    method = METHODS.get(str(name))
    if method is None:
        raise ValueError(f"a method of a known name (it was {name})")
    steps = {"steps": said.get("steps"), "quadrature": said.get("quadrature")}
    return _options({"method": name, **(steps if method.takes_steps else {})})


def _ablation(provenance: Provenance, elsewhere: Elsewhere) -> list[str]:
    name, method = str(provenance.get("ablation")), METHODS.get(str(provenance.get("method")))
    if method is None or not method.takes_ablation or name.startswith("resample"):
        return []
    if name == "zero":
        return _options({"ablation": "zero"})
    raise ValueError(f"the prompts behind the ablation {shown(name)}")


def _options(values: Mapping[str, object]) -> list[str]:
    """Values as options of the shell; None and False are left out, True is a flag."""
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in values.items()
        if value is not None and value is not False
    ]
