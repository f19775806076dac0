import shells

from circuits.circuit import load_circuit
from circuits.cli import main
from circuits.scores import load_scores
from circuits.select import prune


def error(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 2
    return capsys.readouterr().err


def test_a_sweep_writes_the_largest_circuit_and_how_far_each_edge_gets(home, tmp_path, capsys):
    out, scores, log = (tmp_path / name for name in ("c.json", "s.safetensors", "log.json"))
    options = ["--threshold", "0.01,0.05", "--limit", "3", "--log", log, "--scores", scores]
    command = ["search", *shells.on(home), *options, "--out", out]
    assert main([str(word) for word in command]) == 0
    said = capsys.readouterr().out
    assert "one edge at a time" in said and "0.05" in said
    circuit = load_circuit(out)
    assert circuit.provenance["metric"] == "kl" and circuit.provenance["method"] == "acdc"
    assert set(load_scores(scores).matrix[circuit.mask].tolist()) <= {0.01, 0.05}
    assert log.exists()


def test_the_other_commands_keep_their_metric(home, tmp_path):
    scores = tmp_path / "s.safetensors"
    assert main(["score", *shells.on(home), "--limit", "2", "--out", str(scores)]) == 0
    assert load_scores(scores).provenance["metric"] == "logit-diff"


def test_the_program_is_a_selector(home, tmp_path):
    out = tmp_path / "c.json"
    select = ["select", str(home / "scores.safetensors"), "--size", "15", "--selector", "program"]
    assert main([*select, "--out", str(out)]) == 0
    found = load_circuit(out)
    assert len(found) == 15 and prune(found) == found


def test_steps_of_an_adjusted_path_have_no_quadrature(home, tmp_path, capsys):
    where = ["--quadrature", "left", "--out", tmp_path / "s.safetensors"]
    said = error(capsys, "score", *shells.on(home), "--method", "eap-gp", *where)
    assert "eap-gp lays its steps by itself; leave out --quadrature" in said
    said = error(capsys, "score", *shells.on(home), "--path", "adjusted", *where)
    assert "the path 'adjusted' lays its steps by itself; leave out --quadrature" in said


def test_wrong_thresholds_and_searches_are_refused(home, tmp_path, capsys):
    command = ["search", *shells.on(home), "--out", tmp_path / "c.json", "--threshold"]
    assert "thresholds are numbers above 0" in error(capsys, *command, "0.1,-1")
    assert "no search named 'dice'" in error(capsys, *command, "0.1", "--method", "dice")


def test_a_budgeted_search_tells_the_way_and_goes_on_from_its_log(home, tmp_path, capsys):
    out, log = tmp_path / "c.json", tmp_path / "runs.jsonl"
    options = ["--method", "budgeted", "--size", "10", "--limit", "3", "--metric", "logit-diff"]
    command = ["search", *shells.on(home), *options, "--start", "eap,eap-ig", "--budget", "60"]
    assert main([str(word) for word in [*command, "--log", log, "--out", out]]) == 0
    said, first = capsys.readouterr().out, load_circuit(out)
    assert "cheap scores alone" in said and "circuits run on 3 prompts" in said
    assert len(first) <= 10 and first.provenance["method"] == "budgeted"
    kept = log.read_bytes()
    assert main([str(word) for word in [*command, "--log", log, "--out", out]]) == 0
    assert load_circuit(out) == first and log.read_bytes() == kept


def test_each_search_names_what_it_needs(home, tmp_path, capsys):
    command = ["search", *shells.on(home), "--out", tmp_path / "c.json"]
    assert "give --threshold 0.01" in error(capsys, *command)
    assert "give --size 50" in error(capsys, *command, "--method", "budgeted")
