"""Repeating a result: its command is run anew, in a new process, and what comes of it compared."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from circuits.circuit import Circuit, load_circuit
from circuits.repeating.commands import AS_RECORDED, Elsewhere, command_of
from circuits.repeating.comparison import (
    TOLERANCE,
    Comparison,
    compare_all,
    differing_facts,
    differing_inputs,
    differing_texts,
    made_by,
)
from circuits.repeating.permitted import NOTHING_MORE, Permitted, words_of
from circuits.repeating.recorded import (
    OF_A_SEARCH,
    Recorded,
    is_circuit,
    of_circuit,
    read_result,
)
from circuits.scores import Scores, load_scores
from circuits.select import SELECTORS, threshold
from patching.files.parsing import read_json, shown
from patching.files.whole import write_text
from patching.progress import show

Run = Callable[[Sequence[str]], str]
"""Runs the words after `circuits` and returns what was printed."""

Announce = Callable[[Sequence[str]], None]
"""Is told the words after `circuits` before they are run; what it raises stops them."""

_FOLDERS = ("discover", "patch", "neurons", "learn")
_PRINTED = ("curve", "evaluate")
_SELECTORS: dict[str, Callable[..., Circuit]] = {
    select.__name__: select for select in (*SELECTORS.values(), threshold)
}


def rerun(
    path: str | Path,
    *,
    elsewhere: Elsewhere = AS_RECORDED,
    permitted: Permitted = NOTHING_MORE,
    tolerance: float | None = None,
    run: Run | None = None,
    announce: Announce | None = None,
) -> Comparison:
    """Make a result again from what its provenance says, and compare the two.

    A result is a file of scores, a circuit (chosen from scores, searched or learned), the folder of
    `circuits discover`, what `circuits patch` and `circuits neurons` left as .json, or what
    `circuits curve --json` and `circuits evaluate --json` printed. Files that a command read are
    taken from where they were, or from beside the result; `elsewhere` says where model and task are
    now.

    A file may come from anywhere, so its command is not run as it stands: only options that decide
    the numbers are taken from it, what it reads has to lie in the current folder, beside the result
    or in a folder of `permitted`, and no code is run that the file names or that comes with a model
    unless `permitted` says so. It writes into a temporary folder alone.

    Args:
        path: the result.
        elsewhere: another model, task or device than the recorded one.
        permitted: what the file may have read and run beside that.
        tolerance: the largest difference that counts as rounding, over the largest number of its
            group; by default `TOLERANCE` of the dtype.
        run: how commands are run (a new process of the same Python).
        announce: is told the command before it is run.

    Raises:
        ValueError: if it cannot be repeated; the message says what is missing, or not permitted.
    """
    path = Path(path)
    before = read_result(path)
    beside = path if path.is_dir() else path.parent
    permitted = replace(permitted, folders=(beside, Path(), *permitted.folders))
    with TemporaryDirectory() as folder:
        job = _Job(
            path, before, elsewhere, permitted, Path(folder), run or in_new_process, announce
        )
        now, command = _repeat(job)
    if tolerance is None:
        tolerance = TOLERANCE.get(str(made_by(before.provenance).get("dtype")), 1e-4)
    return Comparison(
        path=str(path),
        command=tuple(command),
        inputs=differing_inputs(before.provenance, now.provenance),
        facts=differing_facts(before.provenance, now.provenance),
        numbers=compare_all(before, now),
        texts=differing_texts(before, now),
        tolerance=tolerance,
    )


def in_new_process(words: Sequence[str]) -> str:
    """Run a command of the shell in a process of its own.

    Raises:
        ValueError: if it fails.
    """
    home = str(Path(__file__).resolve().parents[2])  # -P: the current folder holds no modules
    paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    call = [sys.executable, "-P", "-m", "circuits", *words]
    environment = {**os.environ, "PYTHONPATH": paths}
    with TemporaryFile("w+", encoding="utf-8") as printed:
        said = {"stdout": printed, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        with subprocess.Popen(call, env=environment, **said) as process:
            last = _passed_on(process.stderr or ())
        if process.returncode:
            why = last.removeprefix("error: ") or f"exit code {process.returncode}"
            raise ValueError(f"`circuits {shlex.join(words)}` failed: {why}")
        printed.seek(0)
        return printed.read()


def _passed_on(lines: Iterable[str]) -> str:
    """Shows how far a command is, and returns the last line, which is an error if it failed."""
    last = ""
    for line in filter(str.strip, lines):
        last = line.strip()
        if not last.startswith("error: "):
            show(line)
    return last


@dataclass(frozen=True)
class _Job:
    path: Path
    before: Recorded
    elsewhere: Elsewhere
    permitted: Permitted
    folder: Path
    run: Run
    announce: Announce | None


def _repeat(job: _Job) -> tuple[Recorded, list[str]]:
    """The result made again, and the command that did it.

    Raises:
        ValueError: if it cannot be repeated.
    """
    circuit = _circuit_at(job.path)
    try:
        choose = None if circuit is None or _made_whole(circuit) else again(circuit)
        command = command_of(job.before.provenance, job.elsewhere)
    except ValueError as error:
        raise ValueError(f"{job.path} cannot be repeated, for want of {error}") from None
    try:
        words = words_of(command, _with(job.elsewhere, job.permitted))
    except ValueError as error:
        raise ValueError(f"{job.path} is not repeated: {error}") from None
    if job.announce is not None:
        job.announce(words)
    made = _run(job, words, whole=job.path.is_dir() or choose is not None)
    if choose is None:
        return read_result(made), command
    scores = made / OF_A_SEARCH[0] if made.is_dir() else made
    return of_circuit(choose(load_scores(scores))), command


def _with(elsewhere: Elsewhere, permitted: Permitted) -> Permitted:
    """What was named as the model or the task of now may be read."""
    named = [name for name in (elsewhere.model, elsewhere.task) if name and Path(name).exists()]
    return replace(permitted, folders=(*permitted.folders, *named))


def _made_whole(circuit: Circuit) -> bool:
    """Whether the command itself made the circuit, not a choice from its scores."""
    command = circuit.provenance.get("command")
    return isinstance(command, list) and command[:1] in (["search"], ["learn"])


def again(circuit: Circuit) -> Callable[[Scores], Circuit]:
    """The way that a circuit's edges were chosen from scores.

    Raises:
        ValueError: if its provenance names no selector of scores.
    """
    said = circuit.provenance.get("selection")
    selection = said if isinstance(said, Mapping) else {}
    select = _SELECTORS.get(str(selection.get("selector")))
    if select is None:
        known, found = ", ".join(_SELECTORS), dict(selection) or "not recorded"
        raise ValueError(
            f"how its edges were chosen from scores (the selection is {found}; known: {known})"
        )
    number, ranking = selection.get("requested"), selection.get("ranking")
    numbers = (int, float) if select is threshold else (int,)
    if type(number) not in numbers or ranking not in ("absolute", "signed"):
        raise ValueError(f"how its edges were chosen from scores (recorded is {shown(selection)})")
    prune = bool(selection.get("pruned"))
    return lambda scores: select(scores, number, ranking=ranking, prune=prune)


def _run(job: _Job, words: Sequence[str], *, whole: bool) -> Path:
    """Run a command; where all it made lies, or the part that is of the recorded one's kind."""
    name = words[0]
    if name in _PRINTED:
        write_text(job.folder / "printed.json", job.run([*words, "--json"]))
        return job.folder / "printed.json"
    if name == "search":
        return _search(job, words)
    out = job.folder / ("results" if name in _FOLDERS else "result.safetensors")
    job.run([*words, f"--out={out}"])
    return out if whole or name not in _FOLDERS else _like(job.path, out)


def _search(job: _Job, words: Sequence[str]) -> Path:
    """Search again; the circuit that was found, or its scores if the recorded result is scores."""
    circuit, scores = job.folder / "circuit.json", job.folder / "scores.safetensors"
    job.run([*words, f"--out={circuit}", f"--scores={scores}"])
    return scores if job.path.suffix == ".safetensors" else circuit


def _like(path: Path, folder: Path) -> Path:
    """The file of a folder that is of the same kind as a recorded one.

    Raises:
        ValueError: if there is none.
    """
    if (folder / path.name).is_file():
        return folder / path.name
    files = sorted(file for file in folder.iterdir() if file.suffix == path.suffix)
    keys = _keys(path)
    for file in files:
        if _keys(file) == keys:
            return file
    names = ", ".join(file.name for file in files) or "no file of its suffix"
    raise ValueError(f"{path} is like nothing that its command writes: {names}")


def _keys(path: Path) -> set[str] | None:
    content = read_json(path) if path.suffix == ".json" else None
    return set(content) if isinstance(content, Mapping) else None


def _circuit_at(path: Path) -> Circuit | None:
    is_json = path.suffix == ".json" and path.is_file()
    return load_circuit(path) if is_json and is_circuit(read_json(path)) else None
