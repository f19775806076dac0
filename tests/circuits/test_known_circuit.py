"""Scorers judged on circuits whose edges are known; and these, judged by exact patching.

A head's softmax is saturated. At the clean run its slope is all but zero, so that EAP does not see
what feeds its queries and keys; integrated gradients and exact patching do.
"""

from dataclasses import dataclass

import pytest
import torch

from circuits import Circuit
from circuits.judging.recovery import recovery
from circuits.running.evaluation import evaluate
from circuits.scores import Scores
from circuits.scoring import eap, eap_ig
from circuits.scoring.single_edges import exact
from patching.metrics import logit_diff
from patching.model import Model
from patching.models import Known, induction, known
from patching.models.truth import library
from patching.models.truth.meaning import Swap, run

NOISY = tuple(name for name in library.names() if "noise" in name)
# Programs that cannot be written in the Llama format, and why: none of them.
NOT_AS_LLAMA: dict[str, str] = {}


@dataclass(frozen=True)
class Judged:
    name: str
    model: Model
    truth: Known
    scores: Scores

    def circuit(self, edges) -> Circuit:
        return Circuit.from_edges(self.model.graph, [tuple(e.split("->")) for e in sorted(edges)])

    @property
    def tolerance(self) -> float:
        """Of effects in logits. Llama's norms, rotations and softmax are in float32: 1e-7 of 20."""
        return 1e-5 if self.name.endswith("-llama") else 1e-9


@pytest.fixture(scope="module", params=library.names())
def judged(request):
    model = Model.load(request.param, dtype=torch.float64)
    truth = known(request.param, n=6)
    return Judged(request.param, model, truth, exact(model, truth.task, logit_diff))


def test_every_program_has_both_formats_but_those_listed():
    plain = [name for name in library.names() if not name.endswith("-llama")]
    as_llama = {name + "-llama" for name in plain if name not in NOT_AS_LLAMA}
    assert {name for name in library.names() if name.endswith("-llama")} == as_llama


def test_exact_patching_tells_the_active_edges_from_all_others(judged):
    active = judged.circuit(judged.truth.active)
    assert recovery(judged.scores, active, ranking="signed").auroc == 1
    assert recovery(judged.scores, active, ranking="absolute").auroc == 1


def test_exact_patching_by_span_tells_where_edges_are_active():
    truth = known("truth/composition", n=3, by_span=True)
    model = Model.load("truth/composition", dtype=torch.float64)
    scores = exact(model, truth.task, logit_diff)
    edges = [edge.split("->") for edge in sorted(truth.active)]
    active = Circuit.from_edges(scores.graph, [(source, dest) for source, dest in edges])
    found = recovery(scores, active, ranking="absolute")
    assert (found.auroc, found.n_known) == (1, len(truth.active))


def test_the_active_edges_keep_everything_and_the_others_nothing(judged):
    active = judged.circuit(judged.truth.active)
    found = evaluate(judged.model, judged.truth.task, [active, ~active], logit_diff)
    gap = found.clean.mean() - found.corrupt.mean()
    kept, others = ((found.values.mean(dim=1) - found.corrupt.mean()) / gap).tolist()
    assert kept == pytest.approx(1, abs=1e-3)
    assert abs(others) < 5e-3


def test_edges_outside_the_structure_have_no_effect(judged):
    """With noise in the other heads they have a little: less than 1 % of the gap of 20 logits."""
    outside = ~judged.circuit(judged.truth.structural)
    largest = float(judged.scores.matrix[outside.mask].abs().max())
    assert largest < (0.2 if judged.name in NOISY else judged.tolerance)


def test_edges_that_carry_constants_have_no_effect(judged):
    constant = judged.circuit(judged.truth.structural - judged.truth.active)
    assert float(judged.scores.matrix[constant.mask].abs().max()) < judged.tolerance


def test_each_effect_is_what_the_program_itself_predicts(judged):
    """The metric of a patched run, from words alone: ten logits for a word, by the answer slots."""
    if judged.name in NOISY:
        pytest.skip("noise moves the logits")
    example = library.find(judged.name)
    assert example is not None
    program, vocabulary = example.program, example.program.vocabulary
    for edge in judged.truth.structural:
        lost = 0.0
        for prompt in judged.truth.task.prompts:
            clean, corrupt = (
                [vocabulary[i] for i in ids] for ids in (prompt.clean, prompt.corrupt)
            )
            swap = Swap(edge, run(program, corrupt))
            for sign, state in ((1, run(program, clean)), (-1, run(program, clean, swap))):
                answer = state.answer(program)
                right, wrong = vocabulary[prompt.answers[0]], vocabulary[prompt.wrong_answers[0]]
                lost += sign * 10 * (answer.count(right) - answer.count(wrong)) / len(answer)
        found = judged.scores.of(*edge.split("->"))
        # Six other positions at e^-25 of the attention: 2e-9 of 20 logits; more in Llama's float32.
        tolerance = max(judged.tolerance, 1e-8)
        assert found == pytest.approx(lost / len(judged.truth.task), abs=tolerance)


# Gradient methods on the noisy induction circuit.


@pytest.fixture(scope="module")
def wired():
    return induction("noise", n=48)


@pytest.fixture(scope="module")
def model(wired):
    return Model.load(wired.model, dtype=torch.float64)


def auroc(model, wired, scorer):
    edges = [tuple(edge.split("->")) for edge in sorted(wired.active_edges)]
    active = Circuit.from_edges(model.graph, edges)
    scores = scorer(model, wired.task, logit_diff, batch_size=len(wired.task))
    return recovery(scores, active, ranking="absolute").auroc


def test_integrated_gradients_find_nearly_every_edge_of_a_known_circuit(model, wired):
    assert auroc(model, wired, eap_ig) >= 0.99


def test_gradients_at_the_clean_run_miss_what_a_saturated_softmax_reads(model, wired):
    assert auroc(model, wired, eap) <= 0.90
