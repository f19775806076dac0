"""Results do not hang on the modes that torch is in, nor on other threads."""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import families
import pytest
import torch
from torch import Tensor

from circuits.learning import edge_pruning
from circuits.running.evaluation import evaluate
from circuits.scoring import eap, eap_hvp, eap_ig, exact, qk_fix
from circuits.select import top_n
from patching.activation import activation_patching
from patching.anatomy.stack import skipping
from patching.attribution import attribution_patching
from patching.descent import Schedule
from patching.intervene import intervening, zero
from patching.lens import logit_lens
from patching.metrics import logit_diff
from patching.model import Model
from patching.token_attribution import attribute_tokens

TASK = families.task()
PROMPT = [4, 9, 7, 5]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(families.module("gpt2", torch.float32))


def evaluated(model: Model) -> Tensor:
    circuit = top_n(eap(model, TASK, logit_diff), 20, ranking="absolute")
    return evaluate(model, TASK, [circuit], logit_diff).values


def learned(model: Model) -> Tensor:
    schedule = Schedule(steps=2, batch_size=2)
    return edge_pruning(model, TASK, size=20, schedule=schedule).scores.matrix


def read(model: Model) -> Tensor:
    return logit_lens(model, [PROMPT]).kl().values


ENTRIES: dict[str, Callable[[Model], Tensor]] = {
    "eap": lambda model: eap(model, TASK, logit_diff).matrix,
    "eap-ig": lambda model: eap_ig(model, TASK, logit_diff, steps=2).matrix,
    "eap-hvp": lambda model: eap_hvp(model, TASK, logit_diff).matrix,
    "qk-fix": lambda model: qk_fix(model, TASK, logit_diff).matrix,
    "exact": lambda model: exact(model, TASK, logit_diff).matrix,
    "evaluate": evaluated,
    "activation patching": lambda m: activation_patching(m, TASK, logit_diff).values,
    "attribution patching": lambda m: attribution_patching(m, TASK, logit_diff)["z"].values,
    "logit lens": read,
    "neurons": lambda m: (
        attribution_patching(m, TASK, logit_diff, kinds=["neurons"])["neurons"].values
    ),
    "tokens": lambda model: attribute_tokens(model, TASK, logit_diff).values,
    "learning": learned,
    "run": lambda model: model.run(PROMPT, cache=["m0"])["m0"],
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_autocast_around_changes_no_bit(model, entry):
    plain = entry(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = entry(model)
    assert inside.dtype == plain.dtype
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_inference_mode_changes_no_bit_or_is_refused_in_words(model, entry):
    plain = entry(model)
    with torch.inference_mode():
        try:
            inside = entry(model)
        except ValueError as error:
            assert "torch.inference_mode is on, which forbids them" in str(error)
            return
    assert torch.equal(inside, plain)


@pytest.mark.parametrize("entry", ["eap", "learning", "tokens", "neurons"])
def test_no_grad_around_changes_no_bit(model, entry):
    plain = ENTRIES[entry](model)
    with torch.no_grad():
        assert torch.equal(ENTRIES[entry](model), plain)


def test_loading_in_inference_mode_is_loading_and_making_a_module_there_is_refused():
    with torch.inference_mode():
        embedded = Model.load("truth/copy")
        module = families.module("gpt2", torch.float32)
    assert not next(embedded.bridge.parameters()).is_inference()
    with pytest.raises(ValueError, match="it was made in torch.inference_mode"):
        Model.load(module)


# Threads.


def test_threads_on_one_model_wait_for_each_other(model):
    entries = [ENTRIES[name] for name in ("eap", "run", "activation patching", "logit lens")]
    expected = [entry(model) for entry in entries]
    jobs = list(range(len(entries))) * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: entries[i](model), jobs))
    assert all(torch.equal(one, expected[i]) for i, one in zip(jobs, found, strict=True))


def test_a_thread_waits_for_anothers_intervention_and_not_for_its_own(model):
    plain, entered, leave = model.run(PROMPT).logits, Event(), Event()

    def intervene() -> Tensor:
        with intervening(model, zero("m0")):
            entered.set()
            inside = model.run(PROMPT).logits  # this thread has its turn already
            leave.wait(30)
            return inside

    with ThreadPoolExecutor(2) as pool:
        changed = pool.submit(intervene)
        assert entered.wait(30)
        other = pool.submit(lambda: model.run(PROMPT).logits)
        leave.set()
        assert not torch.equal(changed.result(60), plain)
        assert torch.equal(other.result(60), plain)


def test_a_look_at_a_model_waits_for_a_run_that_leaves_blocks_out(model):
    identity, entered, leave = model.identity, Event(), Event()

    def skip() -> None:
        with skipping(model.bridge, 1, as_tuple=model.blocks_return_tuples):
            entered.set()
            leave.wait(30)

    with ThreadPoolExecutor(3) as pool:
        skipped = pool.submit(skip)
        assert entered.wait(30)
        looks = [pool.submit(lambda: model.identity), pool.submit(model.check, TASK)]
        assert not wait(looks, timeout=0.2).done
        leave.set()
        skipped.result(60)
        assert [look.result(60) for look in looks] == [identity, None]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "neox"])
def test_deep_copies_share_nothing(family):
    model = Model.load(families.module(family, torch.float32))
    first, second = copy.deepcopy(model), copy.deepcopy(model)
    places = [
        {tensor.data_ptr() for tensor in (*m.bridge.parameters(), *m.bridge.buffers())}
        for m in (model, first, second)
    ]
    assert not (places[0] & places[1] or places[0] & places[2] or places[1] & places[2])
    assert first.weights == model.weights and first.graph == model.graph
    plain = model.run(PROMPT).logits
    assert torch.equal(first.run(PROMPT).logits, plain)
    with torch.no_grad():
        for parameter in first.bridge.parameters():
            parameter.mul_(0.5)
    assert first.identity != model.identity
    assert torch.equal(model.run(PROMPT).logits, plain)
    assert torch.equal(second.run(PROMPT).logits, plain)
    with intervening(second, zero("m0")):
        assert torch.equal(model.run(PROMPT).logits, plain)


def test_a_deep_copy_of_a_changed_model_is_changed_too_and_says_so():
    model = Model.load("truth/copy")
    assert copy.deepcopy(model).identity == model.identity
    model.bridge.blocks[0].attn.o.weight.data.mul_(2)
    copied = copy.deepcopy(model)
    assert copied.source is None and copied.identity.inside is not None
    assert torch.equal(copied.run([1, 2]).logits, model.run([1, 2]).logits)
    with pytest.raises(ValueError, match="made of a model in memory"):
        copy.copy(copied)
