"""Every message of the shell that tells what to do about an option, produced by a wrong option."""

import ast
import re
from pathlib import Path

import pytest
from shells import on

import circuits.shell
from circuits.cli import main
from patching.model import Model

SHELL = Path(circuits.shell.__path__[0])

BEFORE = {
    "score @ --out s.safetensors --steps 0": "a whole number from 1 is needed, got '0'",
    "score @ --out s.safetensors --memory 0": "a memory size such as 500MB or 2GB, or a fraction",
    "score @ --out s.safetensors --method eap --rule ln": "give it, or --rule and --path",
    "score @ --out s.safetensors --method eap --steps 2": "on; leave out --steps",
    "score @ --out s.safetensors --method conductance --quadrature left": "leave out --quadrature",
    "score @ --out s.safetensors --path adjusted --quadrature left": "leave out --quadrature",
    "score @ --out s.safetensors --path clean --steps 3": "leave out --steps and --quadrature",
    "score @ --out s.safetensors --method auto --steps 3": "leave out --steps and --quadrature",
    "score @ --out s.safetensors --method clean-corrupt --ablation zero": "work under --ablation ",
    "score @ --out s.safetensors --engine ranks": "--engine ranks needs --run FOLDER",
    "score @ --out s.safetensors --address auto": "give --engine ray too",
    "score @ --out s.safetensors --run SCORES": "is a file; name a folder",
    "score @ --out s.safetensors --rule gmi": "did you mean 'gim'?",
    "score @ --out s.safetensors --path input": "did you mean 'inputs'?",
    "score @ --out s.safetensors --ablation means": "did you mean 'mean'?",
    "score @ --out s.safetensors --engine rays": "did you mean 'ray'?",
    "learn @ --out new --size 3 --method edge-prune": "did you mean 'edge-pruning'?",
    "search @ --out c.json --threshold 1 --method adcd": "did you mean 'acdc'?",
    "neurons --model toy --task conflict --out new --method ircam": "did you mean 'ircan'?",
    "patch @ --out new --what rezid_pre": "did you mean 'resid_pre'?",
    "lens --model toy --prompt x --scale frozn": "did you mean 'frozen'?",
    "discover @ --out new --holdout 1": "a fraction from 0 to below 1 is needed, got '1'",
    "discover @ --out new --faithfulness 0": "a fraction above 0 and up to 1 is needed, got '0'",
    "discover @ --out new --size 3 --faithfulness 0.5": "not allowed with argument --size",
    "select SCORES --out c.json --faithfulness 0.5": "give --model and --task too, or --size N",
    "select SCORES --out c.json --faithfulness 0.5 --model toy --task ioi --selector mean-size "
    "--ranking signed": "sizes have no sign",
    "select SCORES --out c.json --size 0": "a whole number from 1 is needed, got '0'",
    "discover @ --out new --selector mean-size --ranking signed": "and --ranking absolute",
    "compare SCORES SCORES2 --difference d.json": "--difference writes a circuit",
    "compare CIRCUIT OTHER --resamples 2": "--resamples chooses circuits from scores",
    "evaluate @ CIRCUIT --resamples 2": "--resamples N and --scores SCORES go together",
    "evaluate @ CIRCUIT --scores a,b --resamples 2": "--scores takes one file for all",
    "evaluate @ CIRCUIT --scores SCORES --resamples 2 --ablated inside": "--resamples ablates what",
    "curve @ SCORES --resamples 2 --granularity nodes": "--resamples finds circuits of edges",
    "curve @ SCORES --sizes -1": "a whole number from 0 is needed, got '-1'",
    "export CIRCUIT --out c.svg --by-role": "--by-role needs --roles FILE",
    "export CIRCUIT --out c.svg --by-role --roles ROLES --across": "leave out --across and",
    "export CIRCUIT --out c.svg --against CIRCUIT --by-role": "leave out --roles and --by-role",
    "export CIRCUIT --out c.json --scores SCORES": "--scores, --d-model, --cell need --to",
    "export CIRCUIT --out c.pt --to eap-ig": "needs --d-model, the width of the",
    "export CIRCUIT --out c.pt --to eap-ig --d-model 16 --cell ioi_gpt2": "--to eap-ig none",
    "export SCORES --scores SCORES --out c.pt --to eap-ig --d-model 16": "leave out --scores",
    "export CIRCUIT --scores SCORES --out c --to mib --d-model 16 --cell x": "leave out --scores",
    "view CIRCUIT --prompt 1": "--prompt needs --model and --task",
    "view CIRCUIT --model toy": "--model and --task go together",
    "view SCORES --scores SCORES": "leave out --scores",
    "learn @ --out new --size 3 --penalty 1": "leave out --penalty",
    "learn @ --out new --size 3 --method hybrid --start SCORES": "leave out --start",
    "learn @ --out new --size 3 --members eap": "leave out --members and --score-by",
    "learn @ --out new --size 3 --method subnetwork-probing --start SCORES": "and --start gives",
    "learn @ --out new --size 3 --method ugs --ablation zero": "leave out --ablation",
    "search @ --out c.json --threshold 0": "thresholds are numbers above 0, say 0.01,0.1; got '0'",
    "neurons --model toy --task conflict": "is missing; neurons needs --model, --task and --out",
    "neurons --model toy --task conflict --out new --betas x": "factors from 0 such as 0,2,4",
    "neurons --apply NEURONS": "--apply needs --prompt TEXT to continue, or --export DIR",
    "neurons --apply NEURONS --prompt x": "which beta is best; give --beta",
    "neurons --apply NEURONS --prompt x --beta 1": "which model it is of; give --model",
    "neurons --model toy --task conflict --out new --method relp --steps 2": "leave out --steps",
    "patch @ --out new --what z --over pos": "--over for z by exact is one of",
    "lens --model toy --prompt x --position a": "positions such as -1 or 0,3,-1 are needed",
}
"""Told before a model is loaded."""

AFTER = {
    "search @ --out c.json --method acdc": "give --threshold 0.01, or several",
    "search @ --out c.json --method budgeted": "give --size 50",
    "score @ --out s.safetensors --spans end:x": "--spans end:N takes a number of tokens",
    "discover @ --out new --limit 1": "give more, or --holdout 0",
    "score @ --out s.safetensors --method exact --constants k.safetensors": "both, or neither",
}

ELSEWHERE = (
    *("give --overwrite", "leave out --run", " --help)"),
    *("give --sum-positions", "take --path clean, or places"),
    *("needs --model: features are looked at", "--dictionaries is needed: the graph"),
)
"""In tests/circuits: test_outputs.py, test_cli_own_methods.py, test_cli_errors.py; and in
test_cli_features.py and test_cli_features_task.py, which have features."""
OUTPUTS = ("{_named(", "{_option(")
"""What messages about outputs are made with: in test_outputs.py, all of them."""


@pytest.fixture
def given(home, tmp_path, monkeypatch):
    """The words of a command with the names of files in place of what stands for them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "roles.json").write_text('{"heads": ["a0.h0"]}')
    (tmp_path / "neurons.json").write_text(NEURONS)
    (tmp_path / "other.json").write_bytes((home / "circuit.json").read_bytes())
    (tmp_path / "other.safetensors").write_bytes((home / "scores.safetensors").read_bytes())
    names = {
        "SCORES": str(home / "scores.safetensors"),
        "SCORES2": "other.safetensors",
        "OTHER": "other.json",
        "CIRCUIT": str(home / "circuit.json"),
        "ROLES": "roles.json",
        "NEURONS": "neurons.json",
    }

    def words(command: str) -> list[str]:
        parts = [on(home) if word == "@" else [names.get(word, word)] for word in command.split()]
        return [word for part in parts for word in part]

    return words


NEURONS = '{"format": "neurons/1", "neurons": [{"name": "m0.n1", "score": 1.0}]}'


@pytest.mark.parametrize("command", BEFORE)
def test_what_is_wrong_with_options_is_told_before_a_model_is_loaded(
    given, command, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(Model, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    before = sorted(tmp_path.iterdir())
    assert main(given(command)) == 2
    said = capsys.readouterr().err
    assert BEFORE[command] in said and said.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", AFTER)
def test_what_only_the_task_can_tell_is_told_in_one_line(given, command, capsys):
    assert main(given(command)) == 2
    said = capsys.readouterr().err
    assert AFTER[command] in said and said.count("\n") == 1


def test_no_message_about_an_option_is_left_out():
    """Of every error in the shell that names an option: its fixed words are in a table above."""
    told = [*BEFORE.values(), *AFTER.values(), *ELSEWHERE]
    missing = []
    for path in sorted(SHELL.glob("*.py")):
        for message in _messages(ast.parse(path.read_text())):
            pattern = ".*".join(map(re.escape, message.split("\0")))
            if not any(_fits(part, pattern, message) for part in told):
                missing.append(f"{path.name}: {message}")
    assert missing == []


def _fits(part: str, pattern: str, message: str) -> bool:
    """Whether what a table says is a part of what a message may come to."""
    fixed = [words for words in message.split("\0") if len(words) > 5]
    return any(words in part or part in words for words in fixed) or bool(re.search(pattern, part))


def _messages(tree: ast.AST):
    """The texts of errors that name an option; what is filled in is a null character."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            said = _text(node.exc.args[0])
            whole = ast.unparse(node.exc.args[0])
            if re.search(r"--[a-z]", said) and not any(name in whole for name in OUTPUTS):
                yield said


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "\0"
