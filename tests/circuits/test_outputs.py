"""Results reach the disk whatever becomes of what is printed, and are never written over inputs."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shells import furnish, on

from circuits.cli import main, make_parser
from circuits.shell.outputs import _FILES, _FOLDERS
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
    "report": (["report", "found"], {"--out": "paper"}),
    "lens": (["lens", "@"], {"--out": "lens"}),
    "rivals": (
        ["rivals", "scores.safetensors", "@", "--faithfulness", "0.3", "--most", "1"],
        {"--out": "rivals"},
    ),
    "features": (
        ["features", "trace", "--model", "model", "--tokens", "1,5", "--logits", "1"],
        {"--out": "g.safetensors"},
    ),
}
"""One command with each option that writes, but for those in `ELSEWHERE`."""

ELSEWHERE = {
    "neurons.out": "test_cli_neurons.py",
    "neurons.export": "test_cli_neurons.py",
    "trained": "test_cli_features.py",
    "page": "test_cli_features.py",
    "effects_out": "test_cli_features_task.py",
    "circuit_out": "test_cli_features_task.py",
    "few_out": "test_cli_features_task.py",
    "forms": "test_cli_features_task.py",
    "constants": "test_cli_constants.py",
    "kept_in": "test_cli_runs.py",
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
    few = ["--size", "5", "--method", "eap", "--limit", "4"]
    assert main(["discover", *on(home), *few, "--out", str(home / "found")]) == 0
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


STREAMS = """
import contextlib, io, os, sys
from circuits.cli import main

room, out = sys.argv[1:]
command = ["compare", f"{room}/circuit.json", f"{room}/other.json", "--csv"]
with contextlib.redirect_stdout(io.StringIO()):
    main([*command, f"{out}/first.csv"])  # imports what it needs, once for all three
reader, pipe = os.pipe()
os.close(reader)
full, told = os.open("/dev/full", os.O_WRONLY), os.open(f"{out}/full.err", os.O_CREAT | os.O_WRONLY)
codes = []
for name, streams in {"pipe": (pipe, 2), "full": (full, told), "closed": ()}.items():
    child = os.fork()
    if child:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        continue
    for number in (1, 2):
        os.dup2(streams[number - 1], number) if streams else os.close(number)
    if not streams:
        sys.stdout = sys.stderr = None
    sys.exit(main([*command, f"{out}/{name}.csv"]))
print(codes)
"""
"""One Python that is started once and goes on three times, each with other streams."""


def test_pipes_full_disks_and_closed_streams_of_a_real_process(room, tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    run = [sys.executable, "-W", "ignore", "-c", STREAMS, str(room), str(tmp_path)]
    settings = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONPATH": root,
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=settings)
    assert (done.stdout, done.stderr) == ("[0, 2, 0]\n", "")
    assert "No space left on device" in (tmp_path / "full.err").read_text()
    tables = {
        (tmp_path / f"{name}.csv").read_text() for name in ("first", "pipe", "full", "closed")
    }
    assert len(tables) == 1


# What is refused before any work.


def test_every_option_that_writes_is_tried():
    tried = {
        (name, option.removeprefix("--"))
        for name, (_, outputs) in COMMANDS.items()
        for option in outputs
    }
    for option in (*_FILES, *_FOLDERS):
        command, _, name = option.rpartition(".")
        known = any(one[1] == name and command in ("", one[0]) for one in tried)
        assert known or option in ELSEWHERE, option


def test_every_option_whose_help_says_that_it_writes_is_checked_before_work():
    known = {*_FILES, *_FOLDERS, "select.out", "export.out"}
    (commands,) = (a.choices for a in make_parser()._actions if a.dest == "command_of" or a.choices)
    for name, parser in commands.items():
        for action in parser._actions:
            says = re.search(r"to write|^write |^draw a|folder for|folder to", action.help or "")
            if says and action.nargs != 0 and not action.choices:
                assert {action.dest, f"{name}.{action.dest}"} & known, (name, action.dest)


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
        ("report", ["--out", "{circuit}"], "--out {circuit} is a file; name a folder"),
        ("lens", ["--out", "{circuit}"], "--out {circuit} is a file; name a folder"),
        ("rivals", ["--out", "/proc/x"], "no folder to write to"),
        ("view", ["--out", "c.svg"], "c.svg': a file that ends in .html would be right"),
        ("features", ["--out", "g.pt"], "g.pt': a file that ends in .safetensors, .json"),
        ("select", ["--out", "{home}"], "--out {home} is a folder; name the file to write"),
        ("evaluate", ["--csv", "/dev/null"], "--csv /dev/null is a device or a pipe; name a file"),
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


def test_choosing_again_replaces_a_circuit_of_these_scores_and_no_other(room, tmp_path, capsys):
    scores, out = str(room / "scores.safetensors"), str(tmp_path / "c.json")
    for size in ("5", "9"):
        assert main(["select", scores, "--size", size, "--out", out]) == 0
    given, _ = words("learn", room, tmp_path)
    assert main(given) == 0
    learned = ["select", scores, "--size", "5", "--out", str(tmp_path / "learned/circuit.json")]
    before = contents(tmp_path)
    assert main(learned) == 2
    assert "holds the result of another command (circuits learn" in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert main([*learned, "--overwrite"]) == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
