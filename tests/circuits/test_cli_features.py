"""`circuits features`: graphs from the shell."""

import json
from dataclasses import replace

import pytest

from circuits.cli import main
from circuits.features import load_graph, save_graph
from patching import Model, tasks


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "g.safetensors"
    options = ["--tokens", "1,5,6", "--dictionaries", "neurons", "--logits", "2", "--most", "50"]
    assert main(["features", "trace", "--model", "toy-llama", *options, "--out", str(path)]) == 0
    return path


def test_a_traced_graph_is_shown(graph, capsys):
    assert main(["features", "show", str(graph), "--top", "3"]) == 0
    shown = capsys.readouterr().out
    loaded = load_graph(graph)
    assert shown.startswith(f"graph of {len(loaded)} nodes and {loaded.n_edges:,} edges")
    assert all(name in shown for name, _ in loaded.top(3)) and "replacement 0." in shown


def test_json_says_the_same(graph, capsys):
    assert main(["features", "show", str(graph), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["nodes"] == len(load_graph(graph)) and len(said["logits"]) == 2
    assert said["facts"]["convention"]["most"] == 50


def test_a_graph_for_the_viewer_has_their_ids(tmp_path):
    path = str(tmp_path / "g.json")
    options = ["--model", "toy", "--prompt", "The capital of", "--aim", " the", "--most", "20"]
    options += ["--convention", "circuit-tracer", "--no-prune"]
    assert main(["features", "trace", *options, "--out", path]) == 0
    content = json.loads((tmp_path / "g.json").read_text())
    assert {*content["links"][0]} == {"source", "target", "weight"}
    features = [n for n in content["nodes"] if n["feature_type"] == "cross layer transcoder"]
    assert len(features) == 20
    assert all(
        node["node_id"].split("_")[::2] == [node["layer"], str(node["ctx_idx"])]
        for node in features
    )


def test_a_task_of_a_toy_is_traced_through_what_ships_with_it(tmp_path, capsys):
    path = str(tmp_path / "g.safetensors")
    given = ["--model", "toy-llama", "--task", "ioi", "--row", "1", "--logits", "1"]
    assert main(["features", "trace", *given]) == 0
    only_said = capsys.readouterr().out
    assert main(["features", "trace", *given, "--out", path]) == 0
    said = capsys.readouterr().out
    assert said == f"{only_said}written to {path}\n"
    assert "\nfeatures: transcoders of toy-llama\n" in said
    graph = load_graph(path)
    assert graph.facts["dictionaries"].keys() == {"m0", "m1", "m2", "m3"}
    tokenizer = Model.load("toy-llama").tokenizer
    assert graph.tokens.tolist() == list(tasks.ioi(tokenizer, 2, 0).prompts[1].clean)
    assert graph.replacement > 0.2 and any(".f" in name for name, _ in graph.top(5))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "1,5"], "cannot write 'g.pt': a file that ends in .safetensors"),
        (["--out", "g.json"], "one of the arguments --prompt --tokens --task is required"),
        (["--tokens", "1", "--task", "ioi"], "--task: not allowed with argument --tokens"),
        (["--tokens", "1,5", "--dictionaries", "no/such/folder"], "there is no folder no/such"),
        (["--tokens", "1,99999"], "holds token id 99999"),
        (["--tokens", "1,5", "--aim", "nowhere"], "the tokenizer does not know 'nowhere'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "g.pt" if "write" in message else "g.json"]
    assert main(["features", "trace", "--model", "toy-llama", *words, *out]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_page_to_explore_is_written(graph, tmp_path, capsys):
    page, labels = tmp_path / "page.html", tmp_path / "labels.json"
    labels.write_text('{"format": "feature labels 1", "labels": {"m0": {"1": "a name of ours"}}}')
    words = ["features", "view", str(graph), "--out", str(page), "--labels", str(labels)]
    assert main([*words, "--model", "toy-llama", "--steer", "1"]) == 0
    assert f"written to {page}, a page for any browser" in capsys.readouterr().out
    content = page.read_text()
    assert '"steering":{"targets"' in content and "a name of ours" in content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "g.json"], "cannot write 'g.json': a file that ends in .html"),
        (["--text", "book.txt"], "--text needs --model: features are looked at in the model"),
        (["--model", "toy-llama", "--dictionaries", "no/folder/here"], "no/folder/here"),
    ],
)
def test_pages_that_cannot_be_written_are_refused(capsys, graph, words, message):
    assert main(["features", "view", str(graph), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_run_folder_keeps_rows_and_labels_go_into_the_file(tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("place,feature,label\nm1,0,says unknown\n")
    graph, kept = tmp_path / "g.json", tmp_path / "kept"
    words = ["--model", "truth/comparison-relu", "--tokens", "1,5,6", "--logits", "1"]
    words += ["--dictionaries", "neurons", "--no-prune", "--labels", str(tmp_path / "labels.csv")]
    given = ["features", "trace", *words, "--run", str(kept), "--out", str(graph)]
    assert main(given) == 0
    (folder,) = kept.glob("attribution-graph-*")
    first = graph.read_text()
    assert '"clerp": "says unknown"' in first and "says unknown" in capsys.readouterr().out
    assert main(given) == 0
    assert graph.read_text() == first
    assert '"reused"' in (folder / "log.jsonl").read_text()
    capsys.readouterr()
    assert main(["features", "show", str(graph), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["facts"]["labels"] == {"m1": {"0": "says unknown"}}


def test_the_page_of_a_graph_over_dictionaries_needs_them(graph, tmp_path, capsys):
    path, facts = tmp_path / "g.safetensors", dict(load_graph(graph).facts)
    save_graph(replace(load_graph(graph), facts={**facts, "letter": "f"}), path)
    assert main(["features", "view", str(path), "--model", "toy-llama"]) == 2
    assert "--dictionaries is needed: the graph is not of neurons" in capsys.readouterr().err
