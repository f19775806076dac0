"""Logit lens: every family's last layer, TransformerLens' own lens, a toy by hand, refusals."""

import families
import lensed
import numpy as np
import pytest
import torch
import toys
import transformers as hf
from transformer_lens.tools.analysis import logit_lens as library_lens

from patching import memory
from patching.lens import logit_lens, reading
from patching.lens import prompts as lens_prompts
from patching.lens.plots import plot_nodes
from patching.lens.vocabulary import find_vocabulary
from patching.lens.writers import find_writers
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


def tokens(length=7):
    return torch.tensor([list(p.clean) for p in families.task(length=length).prompts])


def assert_close(found, expected, tolerance):
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_last_layer_gives_the_models_own_logits(family, model):
    """The same modules on the same stream: at most the last bit of a product of other shape."""
    expected = model.bridge(tokens())
    found = logit_lens(model, tokens()).logits(f"r{len(model.blocks) - 1}.post")[0]
    exact = 1e-12 if model.dtype == torch.float64 else 1e-6
    assert_close(found, expected, exact)


def test_a_frozen_scale_changes_nothing_at_the_last_layer(family, model, floor):
    last = f"r{len(model.blocks) - 1}.post"
    for softcap in (True, False):
        moving, frozen = (
            logit_lens(model, tokens(), last, positions=-1, scale=scale, softcap=softcap).logits()
            for scale in ("recompute", "frozen")
        )
        assert_close(frozen, moving, floor)


def test_the_library_reads_the_same_logits_from_every_stream(family, model):
    """TransformerLens' own lens, which reads all streams but those after the last but one MLP."""
    theirs = library_lens(model.bridge, tokens(), positions=None, return_type="logits")
    names = [f"r{label.split('_')[0]}.pre" for label in theirs.labels if label.endswith("pre")]
    assert names
    expected = theirs.values[[i for i, x in enumerate(theirs.labels) if x.endswith("pre")]]
    found = logit_lens(model, tokens(), names).logits()
    assert_close(found, expected, 1e-12 if model.dtype == torch.float64 else 1e-6)


def test_readings_of_all_writers_add_up_at_a_frozen_scale(family, model, floor):
    """The sum of `reading - biases` over writers is the model's logits (before any softcap)."""
    writers = find_writers(model)
    named = [w.name for w in writers if w.kind != "bias" and w.kind != "positions"]
    options = {"positions": -1, "scale": "frozen", "softcap": False}
    lens = logit_lens(model, tokens(), [*named, "r0.pre", "attn_out"], **options)
    vocabulary = find_vocabulary(model)
    sigma = vocabulary.sigma(lens.states.final)
    biases = vocabulary.logits(torch.zeros_like(lens.states.final), sigma=sigma, softcap=False)
    mlps = [f"m{i}" for i in range(len(model.blocks))]
    attentions = [f"a{i}" for i in range(len(model.blocks))]
    total = (lens.logits("r0.pre", *attentions, *mlps) - biases).sum(dim=0) + biases
    expected = logit_lens(model, tokens(), f"r{len(mlps) - 1}.post", **options).logits()[0]
    assert_close(total, expected, floor)
    heads = [name for name in named if name.startswith("a")]
    if getattr(model.blocks[0].bridge.attn, "b_O", None) is None:
        split = (lens.logits(*heads) - biases).sum(dim=0)
        assert_close(split, (lens.logits(*attentions) - biases).sum(dim=0), floor)


def test_neurons_and_the_bias_are_the_mlps_write(family, model, floor):
    if family in families.FLOAT32_ONLY:
        with pytest.raises(ValueError, match=r"'m0.neurons'.*mixtures of experts.*take m0"):
            logit_lens(model, tokens(), "m0.neurons")
        return
    lens = logit_lens(model, tokens(), ["m1.neurons", "m1"], positions=[2, -1])
    parts = lens.states.vectors[:-1].sum(dim=0)
    rest = lens.states.vectors[-1] - parts
    bias = getattr(model.blocks[1].bridge.mlp.out.original_component, "bias", None)
    expected = torch.zeros_like(rest) if bias is None else bias.detach().expand_as(rest)
    # no family here has both a post-norm and an MLP bias, so the bias needs no sigma
    assert (rest - expected).abs().max() <= floor * lens.states.vectors[-1].abs().max()


def test_on_a_linear_model_readings_are_the_whole_numbers_worked_out_by_hand():
    nodes = ["embed", "a0.h0", "a0.h1", "a0", "m0", "m0.n0", "r0.pre", "r0.mid", "r0.post"]
    lens = logit_lens(toys.linear_model(), toys.task(1), nodes)
    expected = [[0, 0], [0, 2], [0, 0], [0, 2], [10, 0], [10, 0], [0, 0], [0, 2], [10, 2]]
    found = lens.logits()[:, 0, 0, :2]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    corrupt = logit_lens(toys.linear_model(), [[toys.B, toys.STOP]], "heads", positions=-1)
    expected = torch.tensor([3, 0], dtype=torch.float64)
    torch.testing.assert_close(corrupt.logits("a0.h1")[0, 0, 0, :2], expected)


def test_facts_are_those_of_the_softmax_written_out(gpt2):
    lens = logit_lens(gpt2, tokens(), ["r0.pre", "a1.h2", "m0"], positions=[-1, 3])
    facts, logits = lens.facts(4), lens.logits()
    probs = logits.softmax(-1)
    own = gpt2.bridge(tokens())[:, [-1, 3]].softmax(-1)
    for n in range(3):
        for e in range(len(tokens())):
            for p in range(2):
                line, mine = probs[n, e, p].tolist(), own[e, p].tolist()
                order = sorted(range(len(line)), key=lambda i, line=line: -line[i])
                assert facts.ids[n, e, p].tolist() == order[:4]
                best = torch.tensor([line[i] for i in order[:4]], dtype=torch.float64)
                torch.testing.assert_close(facts.probabilities[n, e, p], best)
                entropy = -sum(x * np.log(x) for x in line)
                kl = sum(x * np.log(x / y) for x, y in zip(mine, line, strict=True))
                assert facts.entropy[n, e, p].item() == pytest.approx(entropy, abs=1e-12)
                assert facts.kl[n, e, p].item() == pytest.approx(kl, abs=1e-12)
                rank = lens.rank([7, 9]).values[e, n, p].item()
                assert rank == 1 + min(order.index(7), order.index(9))
                both = lens.probability([7, 9]).values[e, n, p].item()
                assert both == pytest.approx(line[7] + line[9], abs=1e-12)


def test_tiles_change_no_number(gpt2):
    whole = logit_lens(gpt2, tokens(), "heads", scale="frozen").facts(3)
    with memory.budget(1):
        tiled = logit_lens(gpt2, tokens(), "heads", scale="frozen").facts(3)
    assert torch.equal(whole.ids, tiled.ids)
    torch.testing.assert_close(whole.kl, tiled.kl, atol=1e-12, rtol=0)


def test_the_kl_of_the_last_layer_is_zero_and_so_it_is_for_the_whole_task(toy):
    lens = logit_lens(toy, "The capital of France is")
    assert lens.kl().values[:, -1].abs().max() == 0
    assert lens.facts().ids[-1, 0, -1, 0] == toy.tokenizer.encode("Paris")[-1]


def test_a_task_is_read_at_its_answers_whatever_its_lengths(gpt2):
    parts = [families.task(1, length, seed=length).prompts[0] for length in (9, 6, 7)]
    lens = logit_lens(gpt2, Task("ragged", tuple(parts)))
    assert lens.positions == (-1,)
    for row, prompt in enumerate(parts):
        alone = logit_lens(gpt2, list(prompt.clean), positions=-1)
        expected = alone.probability(prompt.answers[0]).values[0]
        torch.testing.assert_close(lens.probability().values[row], expected)
        torch.testing.assert_close(lens.rank().values[row], alone.rank(prompt.answers[0]).values[0])
    (batch,) = Task("ragged", tuple(parts)).batches(3)
    expected = logit_diff(gpt2.answer_logits(batch.clean, batch), batch)
    found = logit_diff(lens.logits("r1.post")[0, :, 0], batch)
    torch.testing.assert_close(found, expected)


def test_padding_tokens_of_fewer_answers_do_not_count(gpt2):
    one = Prompt((5, 6, 7), (5, 6, 8), (9,))
    two = Prompt((5, 6, 7), (5, 6, 8), (9, 11))
    lens = logit_lens(gpt2, Task("answers", (one, two)))
    alone = logit_lens(gpt2, [5, 6, 7], positions=-1)
    expected = [alone.probability(9).values[0], alone.probability([9, 11]).values[0]]
    torch.testing.assert_close(lens.probability().values, torch.stack(expected))
    assert torch.equal(lens.rank().values[0], alone.rank(9).values[0])


def test_bfloat16_models_are_read_in_their_own_type():
    model = Model.load(families.module("llama", torch.bfloat16))
    found = logit_lens(model, tokens()).logits("r1.post")[0]
    assert found.dtype == torch.float32
    assert_close(found, model.bridge(tokens()).float(), 0.02)  # 8 bits of mantissa
    assert logit_lens(model, tokens(), "heads").entropy().values.isfinite().all()


def test_gemma2_is_capped_unless_asked_otherwise_and_granite_scaled():
    gemma = Model.load(families.module("gemma2", torch.float64))
    capped, plain = (
        logit_lens(gemma, tokens(), softcap=softcap).logits() for softcap in (True, False)
    )
    assert_close(30 * torch.tanh(plain / 30), capped, 1e-12)
    assert (plain - capped).abs().max() > 1e-3
    config = families.config("granite")
    config = type(config)(**{**config.to_dict(), "logits_scaling": 8.0})
    torch.manual_seed(0)
    granite = Model.load(hf.AutoModelForCausalLM.from_config(config).double().eval())
    assert find_vocabulary(granite).slope == pytest.approx(1 / 8)
    for softcap in (True, False):
        found = logit_lens(granite, tokens(), softcap=softcap).logits("r1.post")[0]
        assert_close(found, granite.bridge(tokens()), 1e-12)


def test_cohere_is_read_with_its_scale_and_its_norm_without_bias():
    torch.manual_seed(0)
    config = hf.CohereConfig(**families._llama_like(logit_scale=0.25))
    cohere = Model.load(hf.AutoModelForCausalLM.from_config(config).double().eval())
    assert find_vocabulary(cohere).slope == 0.25
    found = logit_lens(cohere, tokens()).logits("r1.post")[0]
    # the library writes Cohere's norm out in float64, Hugging Face's module runs in float32
    assert_close(found, cohere.bridge(tokens()), 1e-6)


def test_a_table_has_a_row_for_every_prediction(toy):
    table = logit_lens(toy, "The capital of France is", positions=[-1, 2]).to_dataframe(2)
    assert len(table) == 4 * 2 * 2
    row = table[(table.node == "r3.post") & (table.position == 5) & (table["rank"] == 1)].iloc[0]
    assert (row.token, row.text) == ("is", "Paris")
    assert row.probability > 0.9


def test_a_grid_names_nodes_and_tokens(toy):
    grid = logit_lens(toy, "The capital of France is").probability("Paris")
    assert grid.quantity == "probability of Paris"
    assert grid.at(node="r3.post", position="5 is") > 0.9
    assert grid.provenance["scale"] == "recompute"
    several = logit_lens(toy, ["The capital of France is", "The"], positions=-1).entropy()
    assert several.axes["position"] == ("-1",)
    assert several.values.shape == (2, 4, 1)


def test_a_plot_writes_the_token_into_every_square(toy):
    figure = logit_lens(toy, "The capital of France is").plot(title="lens")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == 4 * 6
    assert texts.count("Paris") >= 1
    for colour in ("entropy", "kl"):
        assert logit_lens(toy, "The capital").plot(colour).axes[0].texts


def test_lines_follow_a_task_through_the_layers(gpt2):
    grid = logit_lens(gpt2, families.task(), positions=[-1, 0]).probability()
    figure = plot_nodes(grid, title="task")
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["-1", "0"]
    assert list(lines[0].get_ydata()) == pytest.approx(grid.mean[:, 0].tolist())
    assert len(plot_nodes(logit_lens(gpt2, [5, 6]).entropy()).axes[0].lines) == 2
    with pytest.raises(ValueError, match=r"lines show the axes node and position, not \['node'\]"):
        plot_nodes(grid.select(position="0"))


def test_unknown_nodes_are_named_with_what_there_is(gpt2):
    with pytest.raises(ValueError, match=r"no nodes 'resid_pots'.*did you mean 'resid_post'"):
        logit_lens(gpt2, [5, 6], "resid_pots")
    with pytest.raises(ValueError, match=r"no place 'r7.post'.*2 layers"):
        logit_lens(gpt2, [5, 6], "r7.post")
    with pytest.raises(ValueError, match=r"a0.h1.q is no vector of the residual stream"):
        logit_lens(gpt2, [5, 6], "a0.h1.q")
    with pytest.raises(ValueError, match=r"got no nodes; name places"):
        logit_lens(gpt2, [5, 6], [])
    with pytest.raises(ValueError, match=r"has not read 'a9'; it has read r0.post, r1.post"):
        logit_lens(gpt2, [5, 6]).logits("a9")


def test_prompts_that_cannot_be_read_are_refused(gpt2, toy):
    for empty, message in (
        ("", "the prompt is empty"),
        ([[]], "prompt 0 is empty"),
        ([], "got no prompts"),
        ([[5, 6], []], "prompt 1 is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            logit_lens(toy, empty)
    with pytest.raises(ValueError, match=r"prompt 0 has 70 tokens; .* reads at most 64"):
        logit_lens(gpt2, [5] * 70)
    with pytest.raises(ValueError, match=r"token id 97; the ids of .* are 0 to 96"):
        logit_lens(gpt2, [5, 97])
    with pytest.raises(ValueError, match=r"no tokenizer to read the text 'hello' with"):
        logit_lens(gpt2, "hello")
    with pytest.raises(ValueError, match=r"tokens are \[pos\] or \[batch pos\], got shape \[1, 1"):
        logit_lens(gpt2, torch.zeros(1, 1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"a text or a list of token ids, got \('a', 3\)"):
        tuple(lens_prompts._ids(("a", 3)))  # from outside, the tests' own type checks come first


def test_positions_beyond_a_prompt_are_refused(gpt2):
    with pytest.raises(ValueError, match=r"position 3 lies beyond prompt 1, which has 2 tokens"):
        logit_lens(gpt2, [[5, 6, 7, 8], [5, 6]], positions=[0, 3])
    with pytest.raises(ValueError, match=r"position -3 lies beyond prompt 0"):
        logit_lens(gpt2, [5, 6], positions=-3)
    with pytest.raises(ValueError, match=r"have 1 to 2 tokens, so they share no positions"):
        logit_lens(gpt2, [[5, 6], [5]])
    with pytest.raises(ValueError, match=r"got no positions"):
        logit_lens(gpt2, [5, 6], positions=[])


def test_wrong_choices_are_refused(gpt2, toy):
    with pytest.raises(ValueError, match=r"scale is 'recompute' or 'frozen', got 'thawed'"):
        logit_lens.__wrapped__(gpt2, [5], scale="thawed")
    lens = logit_lens(gpt2, [5, 6])
    with pytest.raises(ValueError, match=r"the top 98 tokens of 97"):
        lens.facts(98)
    with pytest.raises(ValueError, match=r"the top 0 tokens"):
        lens.to_dataframe(0)
    with pytest.raises(ValueError, match=r"there is no prompt 1; they are 0 to 0"):
        lens.plot(example=1)
    with pytest.raises(ValueError, match=r"coloured by probability, entropy, kl, not by 'rank'"):
        reading.Lens.plot.__wrapped__(lens, "rank")
    with pytest.raises(ValueError, match=r"no token 97; ids are 0 to 96"):
        lens.rank(97)
    with pytest.raises(ValueError, match=r"no tokenizer to read the token 'x' with"):
        lens.rank("x")
    with pytest.raises(ValueError, match=r"say which tokens: only the prompts of a task"):
        lens.rank()
    with pytest.raises(ValueError, match=r"got no tokens"):
        lens.probability([])
    with pytest.raises(ValueError, match=r"'Paris Rome' is 2 tokens: 'Paris', 'Rome'"):
        logit_lens(toy, "The").rank("Paris Rome")


def test_a_model_that_does_more_than_norm_and_unembed_is_refused():
    model = Model.load(families.module("gpt2", torch.float64))
    model.bridge.cfg.output_logits_soft_cap = 3.0  # a cap that the model itself does not apply
    with pytest.raises(ValueError, match=r"has no lens: its logits are not .*relative error"):
        logit_lens(model, [5, 6])
