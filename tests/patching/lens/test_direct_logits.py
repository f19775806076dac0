"""Direct logit attribution: sums, twins, TransformerLens' own route, a toy by hand."""

import families
import lensed
import pytest
import torch
import toys

from patching.anatomy.blocks import FINAL_STREAM, POSITIONS
from patching.lens import direct_logit_attribution, logit_lens, plot_contributions
from patching.lens.vocabulary import find_vocabulary
from patching.metrics import logit_diff
from patching.model import Model
from patching.tasks import Prompt, Task


@pytest.fixture(params=families.names())
def family(request):
    return request.param


@pytest.fixture
def model(family):
    return lensed.of_family(family)


@pytest.fixture
def floor(family):
    return lensed.rounding(family)


@pytest.fixture(scope="module")
def gpt2():
    return lensed.of_family("gpt2")


@pytest.fixture(scope="module")
def toy():
    return lensed.toy()


def size_of(model, task):
    return logit_lens(model, task, softcap=False).logits("r1.post").abs().max()


@pytest.mark.parametrize("neurons", [False, True])
def test_all_rows_sum_to_the_logit_difference_before_any_softcap(family, model, neurons, floor):
    if neurons and family in families.FLOAT32_ONLY:
        pytest.skip("mixtures of experts show no neurons")
    grid = direct_logit_attribution(model, families.ragged_task(), neurons=neurons, batch_size=2)
    error = (grid.values.sum(dim=1) - grid.clean).abs().max()
    assert error < floor * size_of(model, families.ragged_task())
    if family == "gpt2":
        assert error < 1e-10
    (batch,) = families.ragged_task().batches(3)
    logits = model.answer_logits(batch.clean, batch)
    if family == "gemma2":
        logits = 30 * torch.atanh(logits / 30)
    expected = logit_diff(logits, batch).double()
    assert (grid.clean - expected).abs().max() < 1e-5 * size_of(model, families.ragged_task())


def test_a_row_is_what_the_logits_lose_without_the_write_at_the_same_sigma(family, model, floor):
    """Slow twin: the write taken off the stream, which the norm then divides as before."""
    (batch,) = families.ragged_task().batches(3)
    seen = {}
    names = [FINAL_STREAM, *(b.mlp_out for b in model.blocks)]
    keep = [(n, lambda t, n=n: seen.update({n: t.detach()})) for n in names]
    model.answer_logits(batch.clean, batch, keep)
    rows = torch.arange(3)
    final = seen[FINAL_STREAM][rows, batch.answer_pos]
    vocabulary = find_vocabulary(model)
    sigma = vocabulary.sigma(final)
    grid = direct_logit_attribution(model, families.ragged_task())
    for i, block in enumerate(model.blocks):
        write = seen[block.mlp_out][rows, batch.answer_pos]

        def read(x):
            return logit_diff(vocabulary.logits(x, sigma=sigma, softcap=False), batch)

        expected = read(final) - read(final - write)
        found = grid.select(node=f"m{i}").values
        assert (found - expected).abs().max() < floor * size_of(model, families.ragged_task())


def test_the_attention_bias_is_a_row_of_its_own(family, model, floor):
    grid = direct_logit_attribution(model, families.ragged_task())
    biases = [getattr(block.bridge.attn, "b_O", None) for block in model.blocks]
    assert ("a0.bias" in grid.axes["node"]) == (biases[0] is not None)
    assert ("positions" in grid.axes["node"]) == (POSITIONS in model.bridge.hook_dict)
    if biases[0] is None:
        return
    (batch,) = families.ragged_task().batches(3)
    vocabulary = find_vocabulary(model)
    final = logit_lens(model, families.ragged_task()).states.final[:, 0]
    direction = torch.stack(
        [
            vocabulary.weight[p.answers[0]] - vocabulary.weight[p.wrong_answers[0]]
            for p in families.ragged_task().prompts
        ]
    )
    reader = vocabulary.pull_back(direction, vocabulary.sigma(final))
    for i, bias in enumerate(biases):
        found = grid.select(node=f"a{i}.bias").values
        error = (found - reader @ bias.detach().to(reader)).abs().max()
        assert error < floor * size_of(model, families.ragged_task())


def test_the_library_attributes_the_same_to_every_layer():
    """`decompose_resid` and `logit_attrs` on a folded and centred copy: differences stay."""
    task = families.task()
    grid = direct_logit_attribution(Model.load(families.module("gpt2", torch.float64)), task)
    bridge = Model.load(families.module("gpt2", torch.float64)).bridge
    bridge.enable_compatibility_mode(disable_warnings=True)
    (batch,) = task.batches(len(task))
    with torch.no_grad():
        _, cache = bridge.run_with_cache(batch.clean)
    stack, labels = cache.decompose_resid(return_labels=True, pos_slice=-1)
    right, wrong = batch.answers[:, 0], batch.wrong_answers[:, 0]
    theirs = cache.logit_attrs(stack, right, wrong, pos_slice=-1).detach()
    parts = dict(zip(labels, theirs, strict=True))
    ours = {name: grid.select(node=name).values for name in grid.axes["node"]}
    exact = {"atol": 2e-6, "rtol": 0}  # folding moves the library's own logits by 6e-7
    for layer in range(2):
        heads = sum(ours[f"a{layer}.h{h}"] for h in range(4)) + ours[f"a{layer}.bias"]
        torch.testing.assert_close(heads, parts[f"{layer}_attn_out"].double(), **exact)
        torch.testing.assert_close(ours[f"m{layer}"], parts[f"{layer}_mlp_out"].double(), **exact)
    embedding = ours["embed"] + ours["positions"]
    torch.testing.assert_close(embedding, (parts["embed"] + parts["pos_embed"]).double(), **exact)


def test_on_a_linear_model_rows_are_the_whole_numbers_worked_out_by_hand():
    grid = direct_logit_attribution(toys.linear_model(), toys.task(2), neurons=True)
    expected = {"a0.h0": -2, "a0.h1": 0, "m0.n0": 10}
    for name, value in zip(grid.axes["node"], grid.mean.tolist(), strict=True):
        assert value == pytest.approx(expected.get(name, 0), abs=1e-12)
    assert grid.clean.tolist() == pytest.approx([toys.CLEAN] * 2)


def test_answers_can_be_given_with_any_prompt(toy):
    text = "The capital of France is"
    grid = direct_logit_attribution(toy, text, "Paris", ["Rome", "London"])
    logits = logit_lens(toy, text, positions=-1).logits("r3.post").flatten()
    paris, rome, london = (toy.tokenizer.encode(w)[-1] for w in ("Paris", "Rome", "London"))
    expected = logits[paris] - (logits[rome] + logits[london]) / 2
    assert float(grid.clean) == pytest.approx(float(expected), abs=1e-4)
    alone = direct_logit_attribution(toy, text, paris)
    assert float(alone.clean) == pytest.approx(float(logits[paris]), abs=1e-4)
    assert float(alone.values.sum()) == pytest.approx(float(logits[paris]), abs=1e-4)


def test_several_answers_count_with_their_mean(gpt2):
    pair = Prompt((5, 6, 7), (5, 6, 8), (9, 11), (12,))
    other = Prompt((5, 6, 7, 8), (5, 6, 8, 8), (9,), (12, 13, 14))
    grid = direct_logit_attribution(gpt2, Task("several", (pair, other)))
    (batch,) = Task("several", (pair, other)).batches(2)
    expected = logit_diff(gpt2.answer_logits(batch.clean, batch), batch)
    torch.testing.assert_close(grid.clean, expected)
    torch.testing.assert_close(grid.values.sum(dim=1), expected)


def test_bars_show_the_largest_rows(gpt2):
    grid = direct_logit_attribution(gpt2, families.ragged_task())
    figure = plot_contributions(grid, k=4, title="direct")
    shown = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert shown == [labels[0] for labels, _ in grid.top(4)]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([value for _, value in grid.top(4)])
    one = direct_logit_attribution(gpt2, families.ragged_task().take(1))
    assert plot_contributions(one).axes[0].patches
    lens = logit_lens(gpt2, [5, 6]).entropy()
    with pytest.raises(ValueError, match=r"bars show one axis, node, and this grid has \['node',"):
        plot_contributions(lens)


def test_missing_answers_and_hidden_neurons_are_refused(gpt2):
    with pytest.raises(ValueError, match=r"say what to attribute: answers='Paris', or a task"):
        direct_logit_attribution(gpt2, [5, 6])
    with pytest.raises(ValueError, match=r"got no answers"):
        direct_logit_attribution(gpt2, [5, 6], [])
    with pytest.raises(ValueError, match=r"no token 97"):
        direct_logit_attribution(gpt2, [5, 6], 97)
    experts = Model.load(families.module("mixtral", torch.float32))
    with pytest.raises(ValueError, match=r"shows no neurons in m0.*take whole MLPs"):
        direct_logit_attribution(experts, families.ragged_task(), neurons=True)
