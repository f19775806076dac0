"""A model whose layers lie on two devices: pretended ones, which refuse to mix.

Whatever is computed there is what one device gives. Without pretence, a map of accelerate's over
the CPU alone.
"""

from collections.abc import Callable, Iterator

import families
import pretended
import pytest
import torch
from accelerate import dispatch_model
from pretended import AWAY, HOME
from torch.testing import assert_close
from transformer_lens.utilities import quantization

from circuits.circuit import Circuit
from circuits.learning import (
    edge_pruning,
    run_ends,
    run_masked,
    subnetwork_probing,
    uniform_sampling,
)
from circuits.running.evaluation import evaluate
from circuits.running.inside import active
from circuits.scoring import METHODS
from circuits.scoring.score import score
from circuits.scoring.single_edges import exact
from circuits.select import random_circuit
from patching.ablations import Ablation, mean, positional_mean, resample, zero
from patching.activation import activation_patching, neuron_patching
from patching.anatomy.devices import AtLayer, at_home
from patching.descent import Schedule
from patching.gathering import Recipe
from patching.lens import direct_logit_attribution, logit_lens
from patching.metrics import kl, logit_diff
from patching.model import Model
from patching.optimal import optimal
from patching.paths import along_activations, along_inputs, at_clean
from patching.rules import relp

PARTS = {
    "embed": HOME,
    "blocks.0": HOME,
    "blocks.1": AWAY,
    "ln_final": AWAY,
    "unembed": AWAY,
}
TASK = families.task(3, 7)
ABLATIONS: dict[str, Callable[[], Ablation]] = {
    "resample": lambda: resample,
    "zero": lambda: zero,
    "mean": lambda: mean(TASK),
    "positional": lambda: positional_mean(TASK),
}


def plain(family: str) -> Model:
    return Model.load(families.module(family, torch.float64))


@pytest.fixture(scope="module", params=["gpt2", pytest.param("gemma2", marks=pytest.mark.slow)])
def models(request) -> Iterator[tuple[Model, Model]]:
    """The same model on one device and laid over two."""
    bridge = plain(request.param).bridge
    patch = pytest.MonkeyPatch()
    patch.setattr(quantization, "unreadable_weight_reason", lambda weight: None)
    parts = PARTS | ({"pos_embed": HOME} if hasattr(bridge, "pos_embed") else {})
    rotary = {"rotary_emb": HOME} if hasattr(bridge, "rotary_emb") else {}
    pretended.lay(bridge, parts | rotary)
    with pretended.pretending():
        yield plain(request.param), Model.load(bridge)
    patch.undo()


def test_the_layers_lie_where_they_were_laid(models):
    _, apart = models
    assert apart.device == HOME
    assert [block.device for block in apart.blocks] == [HOME, AWAY]


def test_tensors_of_two_devices_do_not_meet(models):
    _, apart = models
    with pytest.raises(RuntimeError, match="tensors lie on meta:0, meta:1"):
        apart.blocks[0].w_o + apart.blocks[1].w_o


@pytest.mark.parametrize("path", [at_clean, along_inputs(2), along_activations(1)])
def test_scores_are_those_of_one_device(models, path):
    one, apart = models
    recipe = Recipe(path)
    expected, found = (score(model, TASK, logit_diff, recipe) for model in (one, apart))
    assert_close(found.matrix, expected.matrix)
    assert found.completeness is not None and expected.completeness is not None
    assert_close(found.completeness, expected.completeness)


def test_scores_under_a_backward_rule_are_those_of_one_device(models):
    recipe = Recipe(at_clean, relp)
    expected, found = (score(model, TASK, logit_diff, recipe).matrix for model in models)
    assert_close(found, expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_every_ablation_is_that_of_one_device(models, ablation):
    recipe = Recipe(along_inputs(1), ablation=ABLATIONS[ablation]())
    expected, found = (score(model, TASK, logit_diff, recipe).matrix for model in models)
    assert_close(found, expected)


def test_gradients_lie_where_their_layer_lies(models):
    from circuits.scoring.gather import prepare

    _, apart = models
    (batch,) = TASK.batches(100, apart.device)
    gathered = prepare(apart, TASK, logit_diff, Recipe()).gather(batch)
    ((_, gradients),) = gathered.gradients
    assert [layer.projected.device for layer in gradients.attention] == [HOME, AWAY]
    assert [part.device for part in gathered.difference.heads] == [HOME, AWAY]


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_circuits_are_evaluated_as_on_one_device(models, ablation):
    one, apart = models
    generator = torch.Generator().manual_seed(0)
    graph = one.graph
    masks = [
        graph.exists & (torch.rand(graph.exists.shape, generator=generator) < p) for p in (0.3, 0.8)
    ]
    circuits = [
        Circuit.full(graph),
        Circuit.empty(graph),
        *(Circuit(mask, graph) for mask in masks),
    ]
    made = ABLATIONS[ablation]()
    expected, found = (
        evaluate(model, TASK, circuits, logit_diff, ablation=made).values for model in (one, apart)
    )
    assert_close(found, expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_scores_as_on_one_device(models, method):
    score_by, few = METHODS[method].function, {"steps": 2} if METHODS[method].takes_steps else {}
    expected, found = (score_by(model, TASK, logit_diff, **few) for model in models)
    assert float(expected.matrix.abs().max()) > 0
    assert_close(found.matrix, expected.matrix)


@pytest.mark.parametrize("learn", [edge_pruning, uniform_sampling, subnetwork_probing])
def test_masks_are_learned_as_on_one_device(models, learn):
    schedule = Schedule(steps=3, batch_size=2)
    expected, found = (learn(m, TASK, kl, size=5, schedule=schedule) for m in models)
    assert_close(found.scores.matrix, expected.scores.matrix)
    assert found.history.last("loss") == pytest.approx(expected.history.last("loss"))


def test_constants_are_learned_as_on_one_device(models):
    schedule = Schedule(steps=3, batch_size=2)
    expected, found = (optimal(m, TASK, kl, schedule=schedule) for m in models)
    assert_close(found.constants.writes.embed.cpu(), expected.constants.writes.embed.cpu())
    for here, there in zip(
        found.constants.writes.heads, expected.constants.writes.heads, strict=True
    ):
        assert_close(here.cpu(), there.cpu())


@pytest.mark.parametrize("ablation", ["zero", "mean", "positional"])
def test_a_model_inside_a_circuit_runs_as_on_one_device(models, ablation):
    circuit = random_circuit(models[0].graph, 60, seed=0)
    tokens, found = TASK.prompts[0].clean, []
    for model in models:
        with active(circuit, model, ABLATIONS[ablation]()):
            found.append(model.run(list(tokens)).logits.cpu())
    assert_close(found[1], found[0])


def test_exact_scores_are_those_of_one_device(models):
    edges = [("embed", "a1.h0.q"), ("a0.h1", "m1"), ("m0", "logits"), ("a1.h2", "logits")]
    expected, found = (exact(model, TASK, logit_diff, edges=edges).matrix for model in models)
    assert_close(found, expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_edges_are_kept_in_part_as_on_one_device(models, ablation):
    one, _ = models
    removed = torch.rand(one.graph.exists.shape, generator=torch.Generator().manual_seed(0))
    found = []
    for model in models:
        (batch,) = TASK.batches(100, model.device)
        ends = run_ends(model, batch, ABLATIONS[ablation]()(model))
        found.append(run_masked(model, batch, ends, removed.double().to(model.device)))
    assert_close(found[1].to(found[0].device), found[0])


@pytest.mark.parametrize("kind", ["resid_post", "z", "k", "mlp_out"])
def test_activations_are_patched_as_on_one_device(models, kind):
    expected, found = (activation_patching(model, TASK, logit_diff, kind) for model in models)
    assert_close(found.values, expected.values)


def test_neurons_are_patched_as_on_one_device(models):
    expected, found = (neuron_patching(model, TASK, logit_diff, layers=[1]) for model in models)
    assert_close(found.values, expected.values)


def test_lenses_read_what_they_read_on_one_device(models):
    one, apart = models
    for look in (
        lambda model: logit_lens(model, TASK).logits(),
        lambda model: direct_logit_attribution(model, TASK).values,
    ):
        assert_close(look(apart).cpu(), look(one))


def test_activations_are_handed_over_at_home(models):
    one, apart = models
    known = ["a1.h0.z", "a1.h0.pattern", "m1"]
    expected, found = (model.run([5, 6, 7], cache=known) for model in (one, apart))
    for name in known:
        assert found[name].device == HOME
        assert_close(found[name].to("cpu"), expected[name])


def test_a_hook_sees_activations_at_home_unless_it_stays_at_its_layer():
    with pretended.pretending():
        there = torch.ones(2, device=AWAY)
        seen: list[torch.device] = []

        def double(x: torch.Tensor) -> torch.Tensor:
            seen.append(x.device)
            return 2 * x

        assert at_home(double, HOME)(there).device == AWAY
        assert at_home(AtLayer(double), HOME)(there).device == AWAY
        assert AtLayer(double)(there).device == AWAY
        assert at_home(lambda x: None, HOME)(there) is None
    assert seen == [HOME, AWAY, AWAY]


def test_a_module_that_accelerate_has_dispatched_scores_as_before():
    """Accelerate's own hooks are in place, though all of it lies on the CPU."""
    module = families.module("llama", torch.float64)
    map_ = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu"}
    map_ |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    model = Model.load(dispatch_model(module, map_, force_hooks=True))
    assert model.device_map == map_
    expected = score(plain("llama"), TASK, logit_diff, Recipe(along_inputs(2)))
    found = score(model, TASK, logit_diff, Recipe(along_inputs(2)))
    assert_close(found.matrix, expected.matrix)
