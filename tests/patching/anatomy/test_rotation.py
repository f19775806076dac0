"""A row alone is the row in any batch, where rotary embeddings depend on the longest row."""

import pytest
import torch
import transformers as hf

from patching.anatomy.rotation import Stretch, find_stretches
from patching.model import Model
from patching.tasks import Prompt, Task

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}


def phi3() -> hf.PreTrainedModel:
    """With other frequencies in runs of more than 8 tokens."""
    scaling = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 8,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
    }
    config = hf.Phi3Config(**SIZES, rope_parameters=scaling, original_max_position_embeddings=8)
    return shaken(hf.Phi3ForCausalLM(config))


def dynamic_llama() -> hf.PreTrainedModel:
    scaling = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return shaken(hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES, rope_parameters=scaling)))


def shaken(module: hf.PreTrainedModel) -> hf.PreTrainedModel:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)
    return module.eval()


def prompts(*lengths: int) -> Task:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(4, 97, (n,), generator=generator).tolist() for n in lengths]
    made = [Prompt(tuple(row), (5, *row[1:]), (6,), (7,)) for row in rows]
    return Task("some", tuple(made))


def test_such_a_model_reads_a_short_row_otherwise_beside_a_long_one():
    """What the refusals below are for: as the model is, and not something of this workbench."""
    module = phi3()
    row, long = torch.randint(4, 97, (1, 12), generator=torch.Generator().manual_seed(1)), 12
    alone = module(row[:, :6]).logits[0, 5]
    beside = module(row[:, :long]).logits[0, 5]
    assert (alone - beside).abs().max() > 0.01 * alone.abs().max()


def test_prompts_on_both_sides_of_the_length_are_refused_and_on_one_side_are_not():
    model = Model.load(phi3())
    with pytest.raises(ValueError, match="prompts of 6 to 12 tokens; Phi3ForCausalLM rotates .* 8"):
        model.check(prompts(6, 12))
    for lengths in ((6, 8, 3), (9, 12, 10)):
        task = prompts(*lengths)
        model.check(task)
        (batch,) = task.batches(len(task))
        together = model.answer_logits(batch.clean, batch)
        for i, length in enumerate(lengths):
            alone = model.run(list(task.prompts[i].clean)).logits[0, length - 1]
            torch.testing.assert_close(together[i], alone, rtol=1e-4, atol=1e-5)


def test_a_batch_of_rows_on_both_sides_of_the_length_is_refused():
    model = Model.load(phi3())
    tokens = torch.full((2, 12), 5)
    is_token = torch.arange(12)[None] < torch.tensor([[6], [12]])
    with pytest.raises(ValueError, match="the batch has prompts of 6 to 12 tokens"):
        model.run(tokens, is_token=is_token)


def test_a_prompt_for_which_dynamic_scaling_would_start_is_refused():
    model = Model.load(dynamic_llama())
    model.check(prompts(6, 64))
    with pytest.raises(ValueError, match="reads at most 64"):
        model.check(prompts(65))
    with pytest.raises(ValueError, match="beyond 64, .* makes its rotary embedding anew"):
        model.run(torch.full((1, 65), 5))


def test_other_rotary_embeddings_depend_on_no_length():
    plain = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES))
    assert find_stretches(plain) == ()
    assert find_stretches(phi3()) == (Stretch(8, each_anew=False),)
