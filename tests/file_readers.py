"""Every reader of files: a sound file, how to read it, and when what it gives may be believed."""

import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from handmade import curve

from circuits import Circuit, Scores, load, load_scores, save
from circuits.circuit import to_json
from circuits.drawing.roles import load_roles
from circuits.explorer.levels import load_levels
from circuits.export import from_mib_json, from_mib_pt, to_mib_json, to_mib_pt
from circuits.paper import methods_latex, methods_markdown, open_run
from circuits.paper.tables import edges_latex, faithfulness_latex
from circuits.repeating import rerun
from circuits.repeating.permitted import OPTIONS
from circuits.reporting.measurements import Measurements, load_measurements
from circuits.search.log import Log
from patching import Model
from patching.ablations import Constants, zero
from patching.constants import Optimal, by_name, load_optimal
from patching.descent import STATE, Parameter, Schedule, descend
from patching.files.parsing import provenance_json
from patching.graph import Graph
from patching.history import History
from patching.lens.tuned import load_tuned_lens, zero_lens
from patching.neurons.conflicts import ConflictTask
from patching.neurons.formats import read_conflicts
from patching.neurons.selection import Neurons
from patching.tasks import Prompt, Task, files
from patching.tasks.formats import from_file
from patching.tracr import load_tracr
from patching.work.chunk import Done
from patching.work.store import open_store

GRAPH = Graph(n_layers=2, n_heads=2, n_kv_heads=1)


class Refused(ValueError):
    """How a reader that warns instead of raising is made to raise here."""


@dataclass(frozen=True)
class Reader:
    """`make` writes a sound file into a folder; `read` gives values that compare by `==`.

    `sealed` files carry a checksum: whatever is read from them is what was written. `exact` ones
    hold tensors of given names, shapes and types. `named`: how messages call the file, if not by
    its name.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], object]
    sealed: bool = False
    cost: int = 1  # of so many inputs this reader is given one
    exact: bool = False
    named: str = ""


class Words:
    """A tokenizer with a token for every word and the space before it."""

    bos_token_id = None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        parts = re.findall(r" ?\w+|\s|[^\w\s]", text)
        return [zlib.crc32(part.encode("utf-8", "replace")) % 50_000 for part in parts]


def readers(home: Path) -> list[Reader]:
    """All of them; `home` is a folder for models and the like."""
    model = Model.load("truth/induction")
    return [
        *_circuits(),
        *_tasks(),
        *_conflicts(),
        *_tables(),
        *_tensors(model, home),
        *_programs(home),
        *_results(home),
    ]


def _circuits() -> list[Reader]:
    suffixes = (".json", ".graphml", ".gexf", ".gml", ".nodelink.json", ".csv")
    found = [
        Reader(
            f"circuit {suffix}",
            lambda folder, suffix=suffix: _saved(folder / f"circuit{suffix}"),
            lambda path: _said(load(path, GRAPH)),
            sealed=suffix == ".json",
        )
        for suffix in suffixes
    ]
    mib = {"json": (to_mib_json, from_mib_json), "pt": (to_mib_pt, from_mib_pt)}
    for suffix, (write, read) in mib.items():
        for what in (_circuit(), _scores()):
            found.append(
                Reader(
                    f"MIB {type(what).__name__.lower()} .{suffix}",
                    lambda folder, s=suffix, w=write, what=what: _written(
                        folder / f"mib.{s}", lambda path: w(what, path, d_model=8)
                    ),
                    lambda path, read=read: _said(read(path, GRAPH)),
                )
            )
    return found


def _tasks() -> list[Reader]:
    ids = {"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answers": [5], "wrong_answers": [6]}
    text = {"clean": "ab c", "corrupt": "ab d", "answers": [" x"], "wrong_answers": [" y"]}
    mib = {
        **{"prompt": "ab", "choices": ["c", "d"], "answerKey": 0},
        "s2_io_flip_counterfactual": {"prompt": "ax", "choices": ["c", "d"], "answerKey": 1},
    }
    eap = 'clean,corrupted,correct_idx,incorrect_idx\nabc,abd,"[5, 7]",6\nxyz,xyw,5,6\n'
    mib_table = (
        "prompt,choices,answerKey,s2_io_flip_counterfactual\n"
        "ab,\"['c', 'd']\",0,\"{'prompt': 'ax', 'choices': ['c', 'd'], 'answerKey': 1}\"\n"
    )
    contents = {
        "task .json": ("t.json", json.dumps({"name": "t", "prompts": [ids, ids], "source": "x"})),
        "task of texts .json": ("t.json", json.dumps({"prompts": [text, text]})),
        "task .jsonl": ("t.jsonl", f"{json.dumps(ids)}\n{json.dumps(ids)}\n"),
        "task of EAP-IG .csv": ("t.csv", eap),
        "task of MIB .json": ("t.json", json.dumps([mib, mib])),
        "task of MIB .csv": ("t.csv", mib_table),
    }
    found = [
        Reader(name, _text(*content), lambda path: _task(from_file(path, Words())))
        for name, content in contents.items()
    ]
    one = contents["task .json"]
    found.append(Reader("task, from_json", _text(*one), lambda p: _task(files.from_json(p))))
    read_csv = lambda path: _task(files.from_csv(path, Words()))  # noqa: E731
    return [*found, Reader("task, from_csv", _text("t.csv", eap), read_csv)]


def _conflicts() -> list[Reader]:
    own = {"question": "q?", "context": "c.", "answer": " a", "memorised": " b"}
    ids = {"without_context": [1], "with_context": [2, 1], "answer": [3], "memorised": [4]}
    memotrap = "prompt,classes,answer_index\nend in x: a b,\"[' x', ' y']\",0\n"
    kre = {
        **{"question": "q", "choices": ["r", "s"], "answer": "r", "negative_answer": "s"},
        "negative_context": "c",
    }
    contents = {
        "conflicts .json": ("c.json", json.dumps({"name": "c", "conflicts": [own, ids]})),
        "conflicts .jsonl": ("c.jsonl", f"{json.dumps(own)}\n{json.dumps(ids)}\n"),
        "conflicts .csv": ("c.csv", "question,context,answer,memorised\nq?,c., a, b\n"),
        "MemoTrap .csv": ("m.csv", memotrap),
        "KRE .json": ("k.json", json.dumps([kre, kre])),
    }
    return [
        Reader(name, _text(*content), lambda path: _conflict(read_conflicts(path, Words())))
        for name, content in contents.items()
    ]


def _tables() -> list[Reader]:
    neurons = Neurons([(3, 17), (0, 2)], {(3, 17): 0.5}, {"method": "x"})
    roles = json.dumps({"members": {"movers": ["a1.h0"]}, "colours": {"movers": "#0072B2"}})
    judged = curve([[1.0, 2.0]], [2.0, 3.0], [0.0, 1.0], provenance={"scores": {"model": "m"}})
    return [
        Reader("neurons .json", _by(neurons.save, "n.json"), lambda path: _neurons(path)),
        Reader("roles .json", _text("r.json", roles), lambda path: load_roles(path)),
        Reader("measurements .json", _by(_measurements().save, "m.json"), _measured),
        Reader(
            "curve .json", _text("c.json", judged.to_json()), lambda path: repr(load_levels(path))
        ),
        Reader("log of a search", _search_log, _searched),
    ]


_RUN = {
    "config": "c",
    "weights": "w",
    "tokens": "t",
    "metric": "kl",
    "ablation": "zero",
    "dtype": "float32",
}


def _search_log(folder: Path) -> Path:
    log = Log.open(folder / "runs.jsonl", _RUN)
    log.add(["a", "b"], torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    return folder / "runs.jsonl"


def _searched(path: Path) -> object:
    log = Log.open(path, _RUN)
    return {key: log[key].tolist() for key in ("a", "b") if key in log}


def _tensors(model: Model, home: Path) -> list[Reader]:
    facts = {"model": model.name, "weights": model.weights}
    lens = zero_lens(model, facts)
    store = open_store(home / "run", "score", {"model": "m"}, 1)
    done = Done({"sum": torch.ones(2, 3, dtype=torch.float64)}, "me", 0.5, {})

    def read_lens(path: Path) -> object:
        found = load_tuned_lens(path, model)
        return _bytes(found.maps), _bytes(found.offsets), dict(found.provenance)

    def make_chunk(folder: Path) -> Path:
        store.keep(0, done)
        return store.path(0).rename(folder / "chunk.safetensors")

    def read_chunk(path: Path) -> object:
        store.path(0).unlink(missing_ok=True)
        path.rename(store.path(0))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = store.read(0)
        if found is None:
            raise ValueError(str(caught[0].message) if caught else "nothing is there")
        return {name: _bytes(part) for name, part in found.parts.items()}

    return [
        Reader(
            "scores .safetensors",
            _by(_scores().save, "s.safetensors"),
            _scored,
            sealed=True,
            exact=True,
        ),
        Reader(
            "tuned lens", _by(lens.save, "lens.safetensors"), read_lens, sealed=True, exact=True
        ),
        Reader(
            "chunk of a run",
            make_chunk,
            read_chunk,
            sealed=True,
            exact=True,
            named="chunk-00000.safetensors",
        ),
        *_trained(model, home),
    ]


def _trained(model: Model, home: Path) -> list[Reader]:
    """What trainings leave: states and constants."""
    nothing = zero(model)
    assert isinstance(nothing, Constants)
    losses = [torch.arange(n, dtype=torch.float64) for n in (3, 3, 5)]
    history = History({"loss": losses[2]}, "all steps done")
    facts = {"model": model.name, "weights": model.weights, "tokens": "t"}
    constants = Optimal(nothing, model.weights, losses[0], losses[1], history, facts)

    def read_constants(path: Path) -> object:
        found = load_optimal(path, model)
        curve = found.history.curves["loss"]
        writes = [_bytes(part) for part in by_name(found.constants.writes).values()]
        numbers = (found.losses.tolist(), found.mean_losses.tolist(), curve.tolist())
        return writes, numbers, found.constants.name, dict(found.provenance)

    def train(folder: Path) -> object:
        start = torch.zeros(3, dtype=torch.float64)
        plan = Schedule(steps=4, save_every=2, folder=folder)
        values, curves = descend({"x": Parameter(start, 0.1)}, _bowl, 7, plan, facts={"of": "x"})
        assert values["x"].shape == (3,) and values["x"].isfinite().all()
        assert curves.steps == 4
        return values["x"].tolist(), curves.curves["loss"].tolist()

    def make_state(folder: Path) -> Path:
        train(home / "training")
        return (home / "training" / STATE).rename(folder / STATE)

    def read_state(path: Path) -> object:
        (home / "training" / STATE).unlink(missing_ok=True)
        path.rename(home / "training" / STATE)
        return train(home / "training")

    return [
        Reader(
            "learned constants",
            _by(constants.save, "c.safetensors"),
            read_constants,
            sealed=True,
        ),
        Reader("state of a training", make_state, read_state, sealed=True, exact=True),
    ]


def _bowl(
    values: Mapping[str, torch.Tensor], step: object
) -> tuple[torch.Tensor, dict[str, float]]:
    return (values["x"] ** 2 - values["x"]).sum(), {}


class Ran(Exception):
    """A command was about to be run."""


def _about_to_run(words: Sequence[str]) -> None:
    raise Ran(words)


def _repeated(path: Path) -> object:
    """The command that a result would be made again by, with nothing in it but what makes it."""
    try:
        rerun(path, announce=_about_to_run)
    except Ran as ran:
        (words,) = ran.args
    for word in words[1:]:
        option = word.removeprefix("--").partition("=")[0] if word.startswith("-") else ""
        assert option in OPTIONS[words[0]], word
        assert option not in ("trust-remote-code", "scores"), word
    return words


def _results(home: Path) -> list[Reader]:
    """What is made again, or made into a paper, from what it says of itself."""
    command = ["score", "--model=toy", "--dtype=float32", "--task=ioi", "--n=4", "--metric=kl"]
    selection = {"selector": "top_n", "requested": 3, "ranking": "signed", "pruned": False}
    made = replace(_circuit(), provenance={"command": command, "selection": selection})
    origin = {"task": "ioi", "n": 4, "seed": 0, "then": [["take", 3]]}
    said = {"source": "toy", "origin": origin, "metric": "logit_diff", "method": "eap-ig"}
    said |= {"options": {"steps": 5}, "ablation": "zero", "n_examples": 3, "dtype": "float32"}
    printed = json.dumps([{"metric": 0.5, "provenance": {"command": command}}])
    alone = json.dumps({"mean": [0.5, None], "provenance": said})
    size = made.size
    found = replace(_measurements(), edges=(size, size), n_edges=made.graph.n_edges)
    folder = home / "search"
    folder.mkdir()

    def written(path: Path) -> object:
        for name in ("circuit.json", "measurements.json"):
            (folder / name).unlink(missing_ok=True)
        made.save(folder / "circuit.json")
        found.save(folder / "measurements.json")
        (folder / path.name).unlink()
        path.rename(folder / path.name)
        run = open_run(folder)
        page = methods_markdown(run)
        assert "<" not in page.replace("&lt;", "") and page.count("\n") == 1
        latex = methods_latex(run), edges_latex(run, 3), faithfulness_latex(run)
        assert "<" not in "".join(latex)
        return page, latex

    facts = {**made.provenance, **said, "task": "ioi", "model": "m", "versions": {"torch": "2"}}
    stated = replace(made, provenance=facts)
    return [
        Reader("rerun of a circuit", _by(made.save, "m.json"), _repeated),
        Reader("rerun of what was printed", _text("p.json", printed), _repeated),
        Reader("rerun without a command", _text("a.json", alone), _repeated),
        Reader("paper, circuit.json", _by(stated.save, "circuit.json"), written),
        Reader("paper, measurements.json", _by(found.save, "measurements.json"), written),
    ]


def _programs(home: Path) -> list[Reader]:
    """A compiled program's folder with one file damaged at a time."""
    folder = home / "program"
    folder.mkdir()
    _program(folder)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}

    def read(path: Path, name: str) -> object:
        for other, content in whole.items():
            (folder / other).unlink(missing_ok=True)
            (folder / other).write_bytes(content)
        (folder / name).unlink()
        path.rename(folder / name)
        model, truth = load_tracr(folder)
        assert all(p.isfinite().all() for p in model.bridge.parameters())
        return model.weights, truth.structural, truth.active, _task(truth.task)

    def make(name: str) -> Callable[[Path], Path]:
        return lambda into: _written(into / name, lambda path: path.write_bytes(whole[name]))

    return [
        Reader(
            f"program, {name}",
            make(name),
            lambda p, name=name: read(p, name),
            cost=5,
            named="program",
        )
        for name in whole
    ]


def _circuit() -> Circuit:
    edges = GRAPH.exists.nonzero()[::3]
    mask, scores = torch.zeros_like(GRAPH.exists), GRAPH.exists.double() * 0
    for i, edge in enumerate(edges):
        mask[tuple(edge)], scores[tuple(edge)] = True, (i - 4) / 7
    return Circuit(mask, GRAPH, scores, {"model": "m", "seed": 3, "task": "t \u00e9"})


def _scores() -> Scores:
    torch.manual_seed(0)
    return Scores(torch.randn(GRAPH.exists.shape).double() * GRAPH.exists, GRAPH, {"model": "m"})


def _measurements() -> Measurements:
    ones = torch.ones(3, dtype=torch.float64)
    texts = {name: name for name in ("metric", "ranking", "prompts", "verdict", "judged_on")}
    return Measurements(
        **texts,
        n_edges=20,
        kinds=("circuit", "random"),
        edges=(3, 4),
        clean=2 * ones,
        corrupt=ones,
        values=torch.stack([ones, ones / 3]),
    )


def _program(folder: Path) -> None:
    """A program of one layer whose output is the last token, found by running it."""
    sizes = {"n_layers": 1, "n_heads": 1, "d_head": 2, "d_model": 4, "d_mlp": 2}
    sizes |= {"n_ctx": 3, "d_vocab": 3}
    rng = np.random.default_rng(0)
    at, mlp = "blocks.0.attn.", "blocks.0.mlp."
    shapes = {
        "W_E": (3, 4),
        "W_pos": (3, 4),
        "W_U": (4, 2),
        f"{at}W_O": (1, 2, 4),
        f"{at}b_O": (4,),
    }
    for x in "QKV":
        shapes |= {f"{at}W_{x}": (1, 4, 2), f"{at}b_{x}": (1, 2)}
    shapes |= {f"{mlp}W_in": (4, 2), f"{mlp}b_in": (2,), f"{mlp}W_out": (2, 4), f"{mlp}b_out": (4,)}
    np.savez(folder / "weights.npz", **{k: rng.normal(0, 0.5, s) for k, s in shapes.items()})
    config = {**sizes, "causal": False, "layer_norm": False, "act": "relu"}
    (folder / "config.json").write_text(json.dumps(config))
    edges = {"structural": ["input->m0", "m0->logits"], "active_under_resample": ["m0->logits"]}
    (folder / "circuit.json").write_text(json.dumps(edges))
    rows = [[0, 1, 2], [1, 1, 0], [2, 0, 1]]
    blank = [{"tokens": row, "resid": [[0.0, 0.0]] * 3} for row in rows]
    (folder / "io.json").write_text(json.dumps(blank))
    from patching import tracr

    bridge = tracr._boot(folder, config, torch.float32)
    outputs = bridge(torch.tensor(rows)).tolist()
    told = [{"tokens": r, "resid": out} for r, out in zip(rows, outputs, strict=True)]
    (folder / "io.json").write_text(json.dumps(told))


def _saved(path: Path) -> Path:
    save(_circuit(), path)
    return path


def _text(name: str, content: str) -> Callable[[Path], Path]:
    return _by(lambda path: path.write_text(content, encoding="utf-8"), name)


def _by(write: Callable[[Path], object], name: str) -> Callable[[Path], Path]:
    return lambda folder: _written(folder / name, write)


def _written(path: Path, write: Callable[[Path], object]) -> Path:
    write(path)
    return path


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


def _said(found: Circuit | Scores) -> object:
    """All that a circuit or scores say, having seen that it is sound."""
    assert found.graph == GRAPH
    provenance = json.loads(provenance_json(found.provenance))
    if isinstance(found, Scores):
        assert found.matrix.isfinite().all()
        return "scores", _bytes(found.matrix), provenance
    assert not (found.mask & ~GRAPH.exists).any()
    assert found.scores is None or found.scores.isfinite().all()
    to_json(found)
    return "circuit", _bytes(found.mask), found.scores is None or _bytes(found.scores), provenance


def _scored(path: Path) -> object:
    return _said(load_scores(path))


def _task(task: Task) -> object:
    for p in task.prompts:
        assert type(p) is Prompt
        assert len(p.clean) == len(p.corrupt) > 0
        assert p.answers
        assert all(type(i) is int and i >= 0 for i in p.ids)
    return task.name, [astuple(p)[:4] for p in task.prompts], repr(task.extra)


def _conflict(task: ConflictTask) -> object:
    ids = [(c.without_context, c.with_context, c.answer, c.memorised) for c in task.conflicts]
    assert all(type(i) is int and i >= 0 for row in ids for part in row for i in part)
    return task.name, ids, repr(task.extra)


def _neurons(path: Path) -> object:
    found = Neurons.load(path)
    assert all(np.isfinite(value) for value in found.scores.values())
    assert isinstance(found.provenance, Mapping)
    return found.names, dict(found.scores), dict(found.provenance)


def _measured(path: Path) -> object:
    found = load_measurements(path)
    assert found.values.isfinite().all()
    buffer = io.BytesIO()
    torch.save([found.values, found.clean, found.corrupt], buffer)
    return found.metric, found.kinds, found.edges, found.n_edges, found.values.tolist()
