"""Compiled programs: a small one made here, and those of the shared folder where it lies about."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from circuits import Circuit
from circuits.judging.recovery import recovery
from circuits.running.evaluation import evaluate
from circuits.scoring.single_edges import exact
from patching.activation import activation_patching
from patching.intervene import intervening, patch
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import known
from patching.tasks import Prompt, Task
from patching.tracr import edge_name, load_tracr, nearness, read_examples

SHARED = Path(__file__).parents[3] / "shared" / "tracr"
CONFIG = {
    "n_layers": 2,
    "n_heads": 2,
    "d_head": 3,
    "d_model": 7,
    "d_mlp": 5,
    "n_ctx": 4,
    "d_vocab": 6,
    "causal": False,
    "layer_norm": False,
    "act": "relu",
}
CIRCUIT = {"structural": ["input->m0", "m0->logits"], "active_under_resample": ["m0->logits"]}


def random_weights():
    """A transformer of random numbers under the stored names."""
    rng = np.random.default_rng(0)
    shapes = {"W_E": (6, 7), "W_pos": (4, 7), "W_U": (7, 2)}
    for layer in range(2):
        attention, mlp = f"blocks.{layer}.attn.", f"blocks.{layer}.mlp."
        for x in "QKV":
            shapes |= {f"{attention}W_{x}": (2, 7, 3), f"{attention}b_{x}": (2, 3)}
        shapes |= {f"{attention}W_O": (2, 3, 7), f"{attention}b_O": (7,)}
        shapes |= {f"{mlp}W_in": (7, 5), f"{mlp}b_in": (5,)}
        shapes |= {f"{mlp}W_out": (5, 7), f"{mlp}b_out": (7,)}
    return {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}


def twin(weights, tokens, swap=None):
    """The transformer written out for one prompt, in plain loops; `swap` is (edge, other writes).

    Returns the outputs and what every node wrote.
    """
    positions = weights["W_pos"][: len(tokens)]
    writes = {"embed": weights["W_E"][tokens]}
    constants = positions.copy()

    def read(reader):
        total = constants.copy()
        for source, write in writes.items():
            swapped = swap is not None and swap[0] == f"{source}->{reader}"
            total = total + (swap[1][source] if swap is not None and swapped else write)
        return total

    for layer in range(2):
        w = {k.split(".")[-1]: v for k, v in weights.items() if f"blocks.{layer}." in k}
        heads = {}
        for head in range(2):
            q, k, v = (
                read(f"a{layer}.h{head}.{x.lower()}") @ w[f"W_{x}"][head] + w[f"b_{x}"][head]
                for x in "QKV"
            )
            scores = np.exp(q @ k.T / 3**0.5)
            heads[f"a{layer}.h{head}"] = scores / scores.sum(1, keepdims=True) @ v @ w["W_O"][head]
        writes |= heads
        constants = constants + w["b_O"]
        hidden = np.maximum(read(f"m{layer}") @ w["W_in"] + w["b_in"], 0)
        writes[f"m{layer}"] = hidden @ w["W_out"] + w["b_out"]
    return read("logits") @ weights["W_U"], writes


def write(folder, weights=None, config=CONFIG, rows=None, circuit=CIRCUIT):
    weights = random_weights() if weights is None else weights
    if rows is None:
        prompts = np.random.default_rng(1).integers(0, 6, (5, 4)).tolist()
        rows = [{"tokens": p, "resid": twin(random_weights(), p)[0].tolist()} for p in prompts]
    np.savez(folder / "weights.npz", **weights)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "io.json").write_text(json.dumps(rows))
    (folder / "circuit.json").write_text(json.dumps(circuit))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def loaded(folder):
    return load_tracr(folder, dtype=torch.float64)


def test_the_model_gives_the_stored_outputs_and_reads_both_ways(folder, loaded):
    model, _ = loaded
    examples = read_examples(folder)
    assert_close(model.run(examples.tokens).logits, examples.outputs, atol=1e-12, rtol=0)
    assert model.two_way
    assert model.name == f"tracr/{folder.name}"
    assert model.graph.describe() == "2 sequential layers, 2 heads, 2 key-value heads"


def test_loading_touches_no_global_seed(folder):
    before = torch.random.get_rng_state()
    load_tracr(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_exact_scores_are_those_of_the_transformer_written_out(loaded):
    """Every edge, at every position: in a model that reads both ways all of them can differ."""
    model, truth = loaded
    weights = random_weights()
    found = exact(model, truth.task, nearness, batch_size=3)
    for source, dest in model.graph.exists.nonzero().tolist():
        edge = f"{model.graph.sources[source].name}->{model.graph.destinations[dest].name}"
        lost = 0.0
        for prompt in truth.task.prompts:
            clean, _ = twin(weights, list(prompt.clean))
            _, other = twin(weights, list(prompt.corrupt))
            patched, _ = twin(weights, list(prompt.clean), (edge, other))
            lost += float(np.linalg.norm(clean[-1] - patched[-1]))
        expected = lost / len(truth.task)
        assert float(found.matrix[source, dest]) == pytest.approx(expected, abs=1e-10), edge


def test_sweeps_know_that_a_patch_reaches_the_tokens_before_it(loaded):
    model, truth = loaded
    batch = next(truth.task.batches(len(truth.task)))
    found = activation_patching(model, truth.task, nearness)
    batch = replace(batch, clean_logits=model.answer_logits(batch.clean, batch))
    source = model.run(batch.clean, ["r0.pre", "r1.pre"])
    for layer in range(2):
        for pos in range(4):
            place = f"r{layer}.pre"
            with intervening(model, patch(place, source, pos)):
                patched = nearness(model.answer_logits(batch.corrupt, batch), batch)
            effect = patched.detach() - found.corrupt
            assert_close(found.values[:, layer, pos], effect, atol=1e-10, rtol=0)


def test_the_task_pairs_each_prompt_with_the_next_that_has_another_last_output(folder, loaded):
    _, truth = loaded
    examples = read_examples(folder)
    assert truth.task.two_way
    for i, prompt in enumerate(truth.task.prompts):
        assert prompt.clean == tuple(examples.tokens[i].tolist())
        assert prompt.corrupt == tuple(examples.tokens[(i + 1) % 5].tolist())
        assert prompt.answers == (int(examples.outputs[i, -1].argmax()),)


def test_nearness_is_minus_a_distance_and_needs_the_clean_run(loaded):
    (batch,) = loaded[1].task.take(1).batches(1)
    batch = replace(batch, clean_logits=torch.tensor([[1.0, 2.0]]))
    assert nearness(torch.tensor([[4.0, 6.0]]), batch).tolist() == [-5.0]
    with pytest.raises(ValueError, match="nearness compares with the clean run"):
        nearness(torch.zeros(1, 2), replace(batch, clean_logits=None))


def test_models_refuse_tasks_for_the_other_kind_and_two_way_models_padding(loaded):
    model, truth = loaded
    with pytest.raises(ValueError, match="reads both ways, and task.*set its two_way to True"):
        exact(model, replace(truth.task, two_way=False), nearness)
    one_way = Model.load("truth/copy")
    task = replace(known("truth/copy", n=2).task, two_way=True)
    with pytest.raises(ValueError, match="reads only to the left, and task.*two_way to False"):
        exact(one_way, task, logit_diff)
    short = Prompt((1, 2), (1, 3), (0,), (1,))
    ragged = Task("ragged", (*truth.task.prompts, short), two_way=True)
    with pytest.raises(ValueError, match=r"would read padding as well.*of_length"):
        exact(model, ragged, nearness)


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": without(CONFIG, "d_head")}, "config.json lacks d_head"),
        ({"config": {**CONFIG, "layer_norm": True}}, "have no norms, this one has"),
        ({"config": {**CONFIG, "d_head": 4}}, "weights.npz does not fit its config.json"),
        ({"weights": without(random_weights(), "W_U")}, "holds no W_U"),
        ({"weights": without(random_weights(), "W_E")}, "does not fit.*Missing key"),
        ({"weights": {**random_weights(), "x": np.zeros(1)}}, "don't know how to convert.*'x'"),
        ({"weights": {**random_weights(), "W_E": np.zeros((6, 7))}}, "outputs are up to .* off"),
        ({"rows": [{"tokens": [1, 2, 3, 4]}]}, "each with tokens and resid: 'resid'"),
        ({"rows": [{"tokens": [1, 2], "resid": [[0.0], [0.0]]}]}, r"\(1, 2, 2\), io.json holds"),
    ],
)
def test_folders_that_do_not_fit_together_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_tracr(write(tmp_path, **changes))


def test_folders_with_missing_or_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no compiled program: it lacks config.json"):
        load_tracr(tmp_path)
    write(tmp_path)
    (tmp_path / "weights.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"weights.npz is no .npz file of plain arrays"):
        load_tracr(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not a whole JSON file"):
        load_tracr(tmp_path)


def test_examples_without_any_contrast_are_refused(tmp_path):
    row = {"tokens": [1, 2, 3, 4], "resid": twin(random_weights(), [1, 2, 3, 4])[0].tolist()}
    with pytest.raises(ValueError, match="all outputs are alike at the last position"):
        load_tracr(write(tmp_path, rows=[row, row]))


def test_edges_are_read_in_the_spelling_of_eap_ig():
    assert edge_name("a0.h1->a1.h0<k>") == "a0.h1->a1.h0.k"


# The programs that Tracr compiled.

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="no compiled programs are here")


@needs_shared
@pytest.mark.parametrize("program", ["frac_prevs", "reverse", "sort_unique"])
def test_compiled_programs_give_their_outputs_and_exact_patching_finds_their_circuits(program):
    model, truth = load_tracr(SHARED / program, dtype=torch.float64)
    examples = read_examples(SHARED / program)
    # Stored outputs are rounded to six digits.
    assert_close(model.run(examples.tokens).logits, examples.outputs, atol=6e-7, rtol=0)
    active, structural = (
        Circuit.from_edges(model.graph, [tuple(edge.split("->")) for edge in sorted(edges)])
        for edges in (truth.active, truth.structural)
    )
    scores = exact(model, truth.task, nearness, batch_size=64)
    assert recovery(scores, active, ranking="signed").auroc == 1
    assert not scores.matrix[(~active).mask].any()
    found = evaluate(model, truth.task, [active, ~active, structural], nearness, batch_size=64)
    # The same sums in another order: 1e-16 of outputs up to 1.
    expected = torch.stack([found.clean, found.corrupt, found.clean])
    assert_close(found.values, expected, atol=1e-14, rtol=0)


@needs_shared
def test_numbers_and_values_are_told_apart_in_the_tasks():
    numbers = load_tracr(SHARED / "frac_prevs")[1].task.prompts
    assert {(p.answers, p.wrong_answers) for p in numbers} == {((0,), ())}
    values = load_tracr(SHARED / "sort_unique")[1].task.prompts
    assert all(p.wrong_answers and p.answers != p.wrong_answers for p in values)
