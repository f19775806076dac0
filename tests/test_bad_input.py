"""What users get wrong: refused in words, before any expensive work, and with nothing written.

One table for Python, one for the shell. A row is a mistake, what has to be said about it, and how
often the model may have run by then: not at all, but where only a run can show the mistake.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from shells import furnish, on, write_task
from transformers import GPT2LMHeadModel

from circuits import Circuit, Scores, eap, eap_ig, evaluate, load, load_circuit, load_scores, top_n
from circuits.cli import main
from circuits.running.evaluation import Evaluation
from circuits.running.trial import require_gap
from patching import Model
from patching.files.whole import inside
from patching.graph import Graph
from patching.metrics import logit_diff
from patching.models import embedded
from patching.tasks import Prompt, Task
from patching.tasks.formats import from_file

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=1)
PAIR = Prompt((1, 2, 3), (1, 4, 3), answers=(5,), wrong_answers=(6,))
ROW = {"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answers": [5], "wrong_answers": [6]}
EDGES = [["embed", "m0", 0.5], ["m0", "logits", 0.5]]


@dataclass
class Bench:
    """A model, sound files, and a folder for what the mistake needs."""

    model: Model
    home: Path
    folder: Path

    def task(self, **changes: object) -> Task:
        return Task("t", (PAIR, replace(PAIR, **changes)))

    def file(self, name: str, *rows: object, **circuit: object) -> Path:
        path = self.folder / name
        if circuit:
            content = {"version": 1, "graph": GRAPH.to_dict(), "provenance": {}, **circuit}
            path.write_text(json.dumps(content))
        else:
            write_task(path, rows)
        return path

    def damaged(self, name: str, change: Callable[[bytes], bytes]) -> Path:
        path = self.folder / name
        path.write_bytes(change((self.home / name).read_bytes()))
        return path


def flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


def mean_of_the_batch(logits, batch):
    return logit_diff(logits, batch).mean()


def ends(clean: list[float], corrupt: list[float]) -> Evaluation:
    runs = [torch.tensor(run, dtype=torch.float64) for run in (clean, corrupt)]
    return Evaluation(torch.zeros(1, len(clean), dtype=torch.float64), *runs)


def nan_scores() -> Scores:
    matrix = GRAPH.exists.double()
    matrix[GRAPH.edge_index("embed", "m1")] = torch.nan
    return Scores(matrix, GRAPH, {})


def module_of(bench: Bench) -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(bench.home / "model")


def nan_weights(bench: Bench) -> Model:
    module = module_of(bench)
    module.transformer.h[1].mlp.c_fc.weight.data[3, 3] = torch.nan
    return Model.load(module)


def infinite_logits(bench: Bench) -> object:
    """Weights that are finite numbers, and so large that what comes of them is not."""
    module = module_of(bench)
    model = Model.load(module)
    module.lm_head.weight.data.mul_(torch.finfo(torch.float32).max)
    return eap(model, bench.task(), logit_diff)


def other_graph(bench: Bench) -> object:
    circuit = Circuit.full(GRAPH)
    return evaluate(bench.model, bench.task(), [circuit], logit_diff)


def words(bench: Bench, **changes: object) -> Task:
    known = embedded("toy")
    assert known is not None
    row = {"clean": "List: bed cat", "corrupt": "List: cat bed", "answers": [" bed"], **changes}
    return from_file(bench.file("w.json", row), known[1])


# The mistake, what is said, and how many times the model may run before.
MISTAKES: dict[str, tuple[Callable[[Bench], object], str, int]] = {
    "unequal lengths": (
        lambda b: b.task(corrupt=(1, 4)),
        r"unequal token length in row 1 \(row 1: 3 and 2 tokens\)",
        0,
    ),
    "unequal lengths in a file": (
        lambda b: from_file(b.file("t.json", ROW, {**ROW, "corrupt": [1, 4]})),
        r"t.json: 1 of 2 rows .* row 1: .* unequal token length \(3 and 2\)",
        0,
    ),
    "a label of several tokens, where single ones are compared": (
        lambda b: eap(b.model, b.task(answers=((5, 7),)), logit_diff),
        r"several tokens \(logit_diff compares single ones; take logprob_diff, .*\) in row 1$",
        0,
    ),
    "no wrong label to compare with": (
        lambda b: evaluate(
            b.model, b.task(wrong_answers=()), [Circuit.full(b.model.graph)], logit_diff
        ),
        "'t' has no wrong answers, which logit_diff compares with, in row 1",
        0,
    ),
    "a label that adds nothing": (
        lambda b: words(b, answers=[""]),
        "row 0: the answer '' adds no token to its prompt",
        0,
    ),
    "no prompts": (lambda b: Task("t", ()), "task 't' has no prompts; at least one is needed", 0),
    "no prompts in a file": (lambda b: from_file(b.file("t.json")), "t.json has no prompts", 0),
    "no answers": (lambda b: b.task(answers=()), "'t' has no answers in row 1", 0),
    "an answer that is also wrong": (
        lambda b: b.task(answers=(5, 6)),
        "an answer that is also a wrong answer in row 1",
        0,
    ),
    "negative ids": (lambda b: b.task(clean=(1, -2, 3)), "negative token ids in row 1", 0),
    "clean is corrupt, scored": (
        lambda b: eap(b.model, b.task(corrupt=PAIR.clean), logit_diff),
        "a corrupt prompt equal to the clean one in row 1",
        0,
    ),
    "clean is corrupt, evaluated": (
        lambda b: evaluate(
            b.model, b.task(corrupt=PAIR.clean), [Circuit.full(b.model.graph)], logit_diff
        ),
        "a corrupt prompt equal to the clean one in row 1",
        0,
    ),
    "ids of another tokenizer": (
        lambda b: eap_ig(b.model, b.task(answers=(99,)), logit_diff, steps=2),
        "holds token id 99, and model has only 50 tokens: was it made for another tokenizer",
        0,
    ),
    "longer than the model reads": (
        lambda b: eap(b.model, b.task(clean=(1,) * 20, corrupt=(2,) * 20), logit_diff),
        "a prompt of 20 tokens; model reads at most 16",
        0,
    ),
    "no examples in a batch": (
        lambda b: eap(b.model, b.task(), logit_diff, batch_size=0),
        "a batch holds at least one example, got batch_size=0",
        0,
    ),
    "padding in a prompt": (
        lambda b: words(b, clean=[0, 5, 6], corrupt=[0, 7, 6], answers=[5]),
        "row 0: its clean prompt holds the padding token 0 as token 0; prompts come without",
        0,
    ),
    "padding inside a row": (
        lambda b: b.model.run(
            torch.tensor([[1, 2, 3], [1, 2, 3]]),
            is_token=torch.tensor([[True, True, True], [True, False, True]]),
        ),
        "row 1 of is_token has padding inside, between 2 parts",
        0,
    ),
    "a row that is all padding": (
        lambda b: b.model.run(torch.tensor([[1, 2]]), is_token=torch.tensor([[False, False]])),
        "row 0 of is_token has no token",
        0,
    ),
    "logits that overflow": (infinite_logits, "NaN or infinite", 0),
    "a metric that is a mean": (
        lambda b: eap(b.model, b.task(), mean_of_the_batch),
        r"mean_of_the_batch returned shape \(\) for 2 examples; .* one value per example",
        2,  # the corrupt run comes first, and nothing of it is measured
    ),
    "no gap": (
        lambda b: require_gap(ends([1.0, 2.0], [2.0, 1.0]), logit_diff),
        "logit_diff is 1.5 in the clean and 1.5 in the corrupt run: there is no gap",
        0,
    ),
    "a gap of the wrong sign": (
        lambda b: require_gap(ends([1.0], [2.0]), logit_diff),
        "the gap has the wrong sign, for larger is better",
        0,
    ),
    "NaN in the metric": (
        lambda b: require_gap(ends([float("nan")], [2.0]), logit_diff),
        "most likely the weights or the metric hold NaN",
        0,
    ),
    "NaN in the weights": (nan_weights, "NaN", 0),
    "NaN in scores": (
        lambda b: nan_scores(),
        "1 edges have a score that is NaN or infinite, first embed->m1",
        0,
    ),
    "scores in half precision": (
        lambda b: Scores(GRAPH.exists.half(), GRAPH, {}),
        r"scores are float64 on the CPU, got torch.float16 .* use matrix.double\(\)",
        0,
    ),
    "scores of another shape": (
        lambda b: Scores(GRAPH.exists.double().T.contiguous(), GRAPH, {}),
        r"scores of this graph have the shape \(7, 11\)",
        0,
    ),
    "an edge twice": (
        lambda b: load_circuit(b.file("c.json", edges=[*EDGES, EDGES[0]])),
        "row 2 of .*c.json: the edge embed->m0 was there before",
        0,
    ),
    "an unknown node": (
        lambda b: load_circuit(b.file("c.json", edges=[*EDGES, ["a0.h3", "m1", 0.5]])),
        "row 2 of .*c.json: no source named 'a0.h3'; .* did you mean 'a0.h",
        0,
    ),
    "an edge into the past": (
        lambda b: Circuit.from_edges(GRAPH, [("m1", "m0")]),
        "no edge m1->m0: m1 writes to the residual stream only after m0 has read it",
        0,
    ),
    "an edge named twice": (
        lambda b: Circuit.from_edges(GRAPH, [("embed", "m0"), ("embed", "m0")]),
        "edge 1: the edge embed->m0 was there before",
        0,
    ),
    "keys of a head that shares them": (
        lambda b: Circuit.from_edges(GRAPH, [("embed", "a0.h1.k")]),
        "no destination named 'a0.h1.k'; .* did you mean 'a0.g0.k'",
        0,
    ),
    "a circuit of another graph": (other_graph, "circuit 0 is of another graph", 0),
    "a graph of another name": (
        lambda b: load_circuit(
            b.file("c.json", edges=EDGES, graph={**GRAPH.to_dict(), "fingerprint": "0" * 16})
        ),
        "c.json: the graph's fingerprint is .*, the file says 0000",
        0,
    ),
    "a table without a graph": (
        lambda b: load(b.file("c.csv")),
        "does not say which model's graph they are from; pass graph=model.graph",
        0,
    ),
    "too many edges": (
        lambda b: top_n(Scores(GRAPH.exists.double(), GRAPH, {}), 99, ranking="signed"),
        "cannot choose 99 edges; this graph has",
        0,
    ),
    "scores cut short": (
        lambda b: load_scores(b.damaged("scores.safetensors", lambda content: content[:-40])),
        "scores.safetensors is not a whole safetensors file",
        0,
    ),
    "scores with a flipped bit": (
        lambda b: load_scores(b.damaged("scores.safetensors", flip)),
        "scores.safetensors was altered after it was written",
        0,
    ),
    "a circuit cut short": (
        lambda b: load_circuit(b.damaged("circuit.json", lambda content: content[:-40])),
        "circuit.json is not a whole JSON file",
        0,
    ),
    "a circuit with another score": (
        lambda b: load_circuit(b.damaged("circuit.json", lambda c: c.replace(b"0.0", b"0.1", 1))),
        "circuit.json: it was altered .* take the checksum out",
        0,
    ),
    "a name that leads elsewhere": (
        lambda b: inside(b.folder, "../../x"),
        "'../../x' is no name for a file in .*: letters, digits",
        0,
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def model(home: Path) -> Model:
    return Model.load(home / "model")


@pytest.fixture
def forwards(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every time the model runs; a hook would make it another model."""
    ran: list[int] = []
    plain = type(model.bridge).forward

    def forward(bridge, *args, **kwargs):
        ran.extend([1] if bridge is model.bridge else [])
        return plain(bridge, *args, **kwargs)

    monkeypatch.setattr(type(model.bridge), "forward", forward)
    return ran


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_in_words_before_any_work(mistake, model, home, tmp_path, forwards):
    act, says, most = MISTAKES[mistake]
    with pytest.raises(ValueError, match=says) as caught:
        act(Bench(model, home, tmp_path))
    assert len(str(caught.value)) < 800
    assert len(forwards) <= most


def bad(**changes: object) -> list[object]:
    return [ROW, {**ROW, **changes}]


SCORE = ["score", "--method", "eap", "--out", "OUT/scores.safetensors"]
DISCOVER = ["discover", "--size", "5", "--out", "OUT"]
EVALUATE = ["evaluate", "--csv", "OUT/table.csv", "HOME/circuit.json"]
ROWS: dict[str, tuple[list[object], str]] = {
    "unequal lengths": (
        bad(corrupt=[1, 2]),
        "row 1: clean and corrupt prompts of unequal token length (3 and 2)",
    ),
    "no prompts": ([], "has no prompts; at least one is needed"),
    "no answers": (bad(answers=[]), "row 1: no answers"),
    "clean is corrupt": (bad(corrupt=[1, 2, 3]), "a corrupt prompt equal to the clean one"),
    "other tokenizer": (bad(answers=[99]), "holds token id 99, and model has only 50 tokens"),
    "too long": (bad(clean=[1] * 20, corrupt=[2] * 20), "reads at most 16"),
    "text without tokenizer": (bad(clean="text"), "row 1: the file holds text, and the model has"),
    "an answer that is text": (bad(answers=["x"]), "row 1: the answer 'x' is text"),
    "a row that is none": ([ROW, 7], "row 1: is not an object"),
}


def say(home: Path, out: Path, *arguments: str) -> list[str]:
    return [a.replace("OUT", str(out)).replace("HOME", str(home)) for a in arguments]


@pytest.mark.parametrize("command", [SCORE, DISCOVER, EVALUATE], ids=lambda command: command[0])
@pytest.mark.parametrize("mistake", ROWS)
def test_the_shell_says_it_in_one_line_and_writes_nothing(mistake, command, home, tmp_path, capfd):
    rows, says = ROWS[mistake]
    write_task(tmp_path / "task.json", rows)
    out = tmp_path / "out"
    capfd.readouterr()
    task = ["--model", str(home / "model"), "--task", str(tmp_path / "task.json")]
    assert main([*say(home, out, *command), *task]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert says in said.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["evaluate", "FILE"], "is a circuit of another graph (3 sequential layers"),
        (["evaluate", "CUT"], "cut.json is not a whole JSON file"),
        (["evaluate", "ALTERED"], "altered.json: it was altered after it was written"),
        (["curve", "SCORES"], "scores.safetensors was altered after it was written"),
    ],
)
def test_files_that_do_not_fit_are_named_by_the_shell(command, says, home, tmp_path, capfd):
    whole = (home / "circuit.json").read_text()
    scores = bytearray((home / "scores.safetensors").read_bytes())
    scores[-9] ^= 1
    deeper = Circuit.full(Graph(3, 2, 2))
    deeper.save(tmp_path / "deeper.json")
    (tmp_path / "cut.json").write_text(whole[:-30])
    (tmp_path / "altered.json").write_text(whole.replace("0.0", "0.1", 1))
    (tmp_path / "scores.safetensors").write_bytes(scores)
    names = {"FILE": "deeper.json", "CUT": "cut.json", "ALTERED": "altered.json"}
    names["SCORES"] = "scores.safetensors"
    before = sorted(path.name for path in tmp_path.iterdir())
    capfd.readouterr()
    assert main([command[0], *on(home), str(tmp_path / names[command[1]])]) == 2
    said = capfd.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["evaluate", "curve"])
def test_other_weights_than_a_files_are_pointed_out(command, home, tmp_path, capfd):
    other = tmp_path / "other"
    shutil.copytree(home / "model", other)
    weights = load_file(other / "model.safetensors")
    weights["transformer.h.0.ln_1.weight"] += 0.01
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    file = home / ("circuit.json" if command == "evaluate" else "scores.safetensors")
    options = [] if command == "evaluate" else ["--sizes", "5", "--random", "0"]
    for model, n in ((home / "model", 0), (other, 1)):
        capfd.readouterr()
        task = ["--model", str(model), "--task", on(home)[3]]
        assert main([command, *task, str(file), *options]) == 0
        said = capfd.readouterr().err
        assert said.count(f"warning: {file} is of model with the weights") == n
