"""Results reach the disk whatever becomes of what is printed, and are never written over inputs."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from shells import furnish, on

from circuits.cli import main
from circuits.shell.printing import say

COMMANDS = {
    "curve": (
        [*("curve", "@", "scores.safetensors", "--sizes", "3", "--random", "1")],
        {"--csv": "t.csv", "--plot": "t.svg", "--json": ""},
    ),
    "evaluate": (["evaluate", "@", "circuit.json"], {"--csv": "t.csv", "--json": ""}),
    "compare": (
        ["compare", "circuit.json", "other.json"],
        {"--csv": "t.csv", "--plot": "t.svg", "--difference": "d.json", "--json": ""},
    ),
    "score": (["score", "@", "--method", "eap"], {"--out": "s.safetensors"}),
    "select": (["select", "scores.safetensors", "--size", "5"], {"--out": "c.json"}),
    "search": (
        ["search", "@", "--threshold", "1", "--limit", "2"],
        {"--out": "c.json", "--scores": "s.safetensors", "--log": "runs.jsonl"},
    ),
    "learn": (["learn", "@", "--size", "9", "--steps", "1"], {"--out": "learned"}),
    "patch": (["patch", "@", "--limit", "2"], {"--out": "map"}),
    "discover": (["discover", "@", "--size", "5", "--method", "eap"], {"--out": "found"}),
    "export": (["export", "circuit.json"], {"--out": "c.svg"}),
    "view": (["view", "circuit.json"], {"--out": "c.html"}),
}


class Broken(io.StringIO):
    """A stream whose reader went away, or whose disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def flush(self) -> None:
        raise self._error

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def words(name: str, home: Path, into: Path) -> tuple[list[str], list[Path]]:
    """A command with all its outputs, and where they go."""
    command, outputs = COMMANDS[name]
    files = {path.name: str(path) for path in home.iterdir()}
    given = [part for word in command for part in (on(home) if word == "@" else [word])]
    given = [files.get(word, word) for word in given]
    for option, file in outputs.items():
        given += [option, *([str(into / file)] if file else [])]
    return given, [into / file for file in outputs.values() if file]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    home = furnish(tmp_path_factory.mktemp("room"))
    select = ["select", str(home / "scores.safetensors"), "--size", "9"]
    assert main([*select, "--out", str(home / "other.json")]) == 0
    return home


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("error", "code"),
    [(BrokenPipeError(32, "Broken pipe"), 0), (OSError(28, "No space left on device"), 2)],
)
def test_files_are_written_before_anything_is_printed(
    room, tmp_path, monkeypatch, capsys, name, error, code
):
    command, files = words(name, room, tmp_path)
    monkeypatch.setattr(sys, "stdout", Broken(error))
    assert main(command) == code
    assert [file.name for file in files if not file.exists()] == []
    said = capsys.readouterr().err
    assert ("error: what was to be printed could not be: No space left" in said) == (code == 2)


@pytest.mark.parametrize("name", COMMANDS)
def test_closed_streams_take_no_file(room, tmp_path, monkeypatch, name):
    command, files = words(name, room, tmp_path)
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(command) == 0
    assert all(file.exists() for file in files)
    assert main([*command, "--nonsense"]) == 2


SHELL = """set -o pipefail
export PYTHONIOENCODING=ascii LC_ALL=C
"{python}" -m circuits {command} --csv {out}/a.csv --json | head -c 1 > /dev/null
echo "pipe $?"
"{python}" -m circuits {command} --csv {out}/b.csv > /dev/full 2> {out}/b.err
echo "full $?"
"{python}" -m circuits {command} --csv {out}/c.csv >&- 2>&-
echo "closed $?"
"""


def test_pipes_full_disks_and_closed_streams_of_a_real_shell(room, tmp_path):
    command = f"compare {room}/circuit.json {room}/other.json"
    script = SHELL.format(python=sys.executable, command=command, out=tmp_path)
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.stdout.split("\n")[:3] == ["pipe 0", "full 2", "closed 0"], done.stderr
    assert "No space left on device" in (tmp_path / "b.err").read_text()
    tables = {(tmp_path / f"{name}.csv").read_text() for name in "abc"}
    assert len(tables) == 1
    assert done.stderr == ""


# What is refused before any work.


@pytest.mark.parametrize(
    ("name", "extra", "says"),
    [
        ("curve", ["--csv", "{scores}"], "scores.safetensors': a file that ends in .csv would be"),
        ("curve", ["--plot", "x.docx"], "x.docx': a file that ends in .svg, .pdf, .png would be"),
        ("curve", ["--csv", "/dev/null"], "--csv /dev/null is a device or a pipe; name a file"),
        ("curve", ["--csv", "/proc/x/t.csv"], "no folder to write to"),
        ("evaluate", ["--csv", "t.json"], "t.json': a file that ends in .csv would be right"),
        ("compare", ["--difference", "{circuit}"], "would be written over {circuit}, which the"),
        ("compare", ["--csv", "a.csv", "--csv", "a.svg"], "a.svg': a file that ends in .csv"),
        ("select", ["--out", "{circuit}x"], "a file that ends in .json"),
        ("score", ["--task", "{home}/t.csv", "--out", "{home}/t.csv"], "ends in .safetensors"),
        ("search", ["--out", "{task}"], "--out {task} would be written over {task}, which the"),
        ("search", ["--scores", "s.safetensors", "--log", "s.safetensors"], "are one file; name"),
        ("search", ["--out", "{home}/../{room}/task.json"], "would be written over"),
        ("export", ["--out", "{circuit}"], "--out {circuit} would be written over {circuit}"),
        ("discover", ["--out", "{circuit}"], "--out {circuit} is a file; name a folder"),
        ("learn", ["--start", "{scores}", "--out", "{home}"], "would be written over {scores}"),
        ("patch", ["--out", "/proc/x"], "no folder to write to"),
        ("patch", ["--run", "{task}"], "--run {task} is a file; name a folder"),
    ],
)
def test_an_output_has_its_suffix_a_place_and_is_no_input(
    room, tmp_path, monkeypatch, capsys, name, extra, says
):
    values = {
        "scores": room / "scores.safetensors",
        "circuit": room / "circuit.json",
        "task": room / "task.json",
        "home": room,
        "room": room.name,
    }
    before = {path: path.read_bytes() for path in room.iterdir() if path.is_file()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("circuits.shell.inputs.open_model", None)
    command, _ = words(name, room, tmp_path)
    assert main([*command, *(word.format(**values) for word in extra)]) == 2
    assert says.format(**values) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in room.iterdir() if path.is_file()} == before
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_link_to_an_input_is_refused(room, tmp_path, capsys):
    (tmp_path / "c.json").hardlink_to(room / "circuit.json")
    (tmp_path / "d.json").symlink_to(room / "circuit.json")
    for name in ("c.json", "d.json"):
        assert main(["export", str(room / "circuit.json"), "--out", str(tmp_path / name)]) == 2
        assert "which the command reads; name another" in capsys.readouterr().err


# What is printed can be seen.


def test_names_act_on_no_terminal(room, tmp_path, capsys):
    from dataclasses import replace

    from circuits.circuit import load_circuit

    circuit = load_circuit(room / "circuit.json")
    nasty = "\x1b]0;owned\x07 \u202egnp.exe\u2066 \x9b31m\r"
    replace(circuit, provenance={"model": nasty, nasty: nasty}).save(tmp_path / "c.json")
    assert main(["show", str(tmp_path / "c.json")]) == 0
    assert main(["show", str(tmp_path / f"gone{nasty}.json")]) == 2
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not set(text) & {*"\x1b\x07\u202e\u2066\x9b\r"}
        assert "[U+001B]]0;owned[U+0007] [U+202E]gnp.exe" in text


def test_a_terminal_without_a_letter_is_shown_its_code(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    assert say("↵ é\n") == 0
    assert content.getvalue() == b"\\u21b5 \\xe9\n"


def test_a_failed_command_still_says_what_it_had_to_say(monkeypatch, capsys):
    def fail(args: object) -> None:
        print("so far")  # noqa: T201
        raise ValueError("and no further")

    monkeypatch.setattr("circuits.shell.tasks.tasks", fail)
    fail.__name__ = "tasks"
    assert main(["tasks"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("so far\n", "error: and no further\n")


def test_json_is_whole_however_long(room, capsys):
    assert main(["evaluate", *on(room), str(room / "circuit.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["provenance"]["command"][0] == "evaluate"


@pytest.mark.parametrize("name", ["score", "search", "learn", "patch", "discover"])
def test_results_of_other_settings_are_replaced_only_if_asked_to(room, tmp_path, capsys, name):
    given, paths = words(name, room, tmp_path)
    assert main(given) == 0
    before = contents(tmp_path)
    assert main([*given, "--seed", "5"]) == 2
    said = capsys.readouterr().err
    assert "holds the result of another command" in said and "--seed=5" in said
    assert contents(tmp_path) == before
    if name == "score":
        assert main(given) == 0, "the same command"
        assert main([*given, "--seed", "5", "--overwrite"]) == 0
        assert contents(tmp_path) != before
        assert main([*given, "--seed", "5", "--top", "3"]) == 0, "shown otherwise"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
