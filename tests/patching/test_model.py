"""Loading and proving models, and running them at the answer positions."""

from collections.abc import Iterator
from typing import cast

import families
import pytest
import tokenizers
import torch
import transformers as hf
import zoo
from jaxtyping import config
from tokenizers import models, pre_tokenizers
from torch import Tensor, nn
from torch.testing import assert_close

from patching.anatomy.blocks import EMBEDDING
from patching.anatomy.proof import graph_of
from patching.anatomy.weights import hash_tensors
from patching.graph import Graph
from patching.model import Model
from patching.tasks import Prompt, Task, Tokenizer

GPT2_BLOCK = "transformer.h.0"
LLAMA_BLOCK = "model.layers.0"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path) -> None:
    """No test may ask a hub, nor remember hashes in the user's own folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """What a user sees: shape and type checks run in tests only."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tiny"
    families.module("gpt2", torch.float32).save_pretrained(path)
    return path


def tokenizer() -> hf.PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(families.VOCAB)}
    made = tokenizers.Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="w0")


def ragged(padding: str) -> Task:
    """Random prompts of 3, 9, 6 and 5 tokens."""
    generator = torch.Generator().manual_seed(5)
    prompts = []
    for length in (3, 9, 6, 5):
        clean = torch.randint(4, families.VOCAB, (length,), generator=generator).tolist()
        prompts.append(Prompt(tuple(clean), (4, *clean[1:]), (5,), (6,)))
    return Task("ragged", tuple(prompts), padding="left" if padding == "left" else "right")


def answers_of(model: Model, task: Task | None = None) -> Tensor:
    (batch,) = (task or families.task()).batches(100)
    return model.answer_logits(batch.clean, batch)


def n_hooks(model: Model) -> int:
    """Every forward and backward hook of every module, PyTorch's and the library's."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "fwd_hooks", "bwd_hooks")
    return sum(len(getattr(part, kind, ())) for part in model.bridge.modules() for kind in kinds)


# Where models come from.


def test_a_folder_gives_the_model_that_was_saved_in_it(folder):
    loaded = Model.load(folder)
    in_memory = Model.load(families.module("gpt2", torch.float32))
    assert torch.equal(answers_of(loaded), answers_of(in_memory))
    assert (loaded.name, loaded.revision, loaded.tokenizer) == ("tiny", None, None)
    assert loaded.graph == in_memory.graph == Graph(2, 4, 4)
    assert torch.equal(answers_of(Model.load(str(folder))), answers_of(loaded))


def test_a_folder_is_loaded_in_float32_unless_told_otherwise(tmp_path):
    families.module("llama", torch.bfloat16).save_pretrained(tmp_path)
    assert Model.load(tmp_path).dtype == torch.float32
    assert Model.load(tmp_path, dtype=torch.float64).dtype == torch.float64
    assert Model.load(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_module_keeps_its_dtype_unless_told_otherwise():
    assert Model.load(families.module("gpt2", torch.float64)).dtype == torch.float64
    told = Model.load(families.module("gpt2", torch.float64), dtype=torch.float32, device="cpu")
    assert (told.dtype, told.device) == (torch.float32, torch.device("cpu"))


def test_a_folder_of_a_model_that_sees_pictures_gives_its_text_part(tmp_path):
    module = zoo.build("Mistral3ForConditionalGeneration")
    module.save_pretrained(tmp_path)
    tokens = torch.tensor([[5, 9, 30, 7]])
    expected = zoo.logits_of(module, tokens)
    loaded = Model.load(tmp_path)
    torch.testing.assert_close(loaded.run(tokens).logits, expected, rtol=1e-5, atol=1e-5)
    assert loaded.graph.describe() == "2 sequential layers, 4 heads, 2 key-value heads"


def test_a_tokenizer_in_the_folder_comes_with_the_model(folder):
    tokenizer().save_pretrained(folder)
    loaded = Model.load(folder)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode("w3 w9") == [3, 9]


def test_a_tokenizer_that_is_given_goes_before_the_folders(folder):
    tokenizer().save_pretrained(folder)
    mine = tokenizer()
    assert Model.load(folder, tokenizer=cast(Tokenizer, mine)).tokenizer is mine


def test_a_bridge_is_taken_as_it_is(gpt2):
    again = Model.load(gpt2.bridge, tokenizer=cast(Tokenizer, tokenizer()))
    assert again.bridge is gpt2.bridge
    assert again.graph == gpt2.graph
    assert again.tokenizer is not None
    assert torch.equal(answers_of(again), answers_of(gpt2))


def test_a_bridge_has_the_dtype_that_is_asked_for():
    bridge = Model.load(families.module("gpt2", torch.float32)).bridge
    assert Model.load(bridge, dtype=torch.float64).dtype == torch.float64


def test_weights_are_hashed_by_what_was_loaded(folder):
    loaded = Model.load(folder)
    assert loaded.weights == Model.load(folder).weights
    module = families.module("gpt2", torch.float32)
    assert Model.load(module).weights == loaded.weights
    assert Model.load(families.module("gpt2", torch.float32, seed=1)).weights != loaded.weights


def test_a_loaded_model_is_frozen_and_in_evaluation_mode():
    module = families.module("gpt2", torch.float64).train()
    model = Model.load(module)
    assert not any(parameter.requires_grad for parameter in model.bridge.parameters())
    assert not any(part.training for part in model.bridge.modules())


# What is refused.


def test_an_unknown_name_is_refused_in_one_line():
    with pytest.raises(ValueError, match="no model 'no-such-model': .* not embedded .*toy") as info:
        Model.load("no-such-model")
    assert "\n" not in str(info.value)
    assert "the hub did not give it" in str(info.value)


def test_a_path_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="no model .*/nowhere': it is no folder") as info:
        Model.load(tmp_path / "nowhere")
    assert "\n" not in str(info.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a model folder: it holds no config.json"):
        Model.load(tmp_path)


def test_a_cut_off_file_is_refused_in_one_line(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        said = "the model in .*tiny cannot be read: |the weight files beside it, of .* bytes, allow"
        with pytest.raises(ValueError, match=said) as info:
            Model.load(folder)
        assert "\n" not in str(info.value)


def test_a_config_that_is_not_json_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tiny/config\.json is not a whole JSON file: "):
        Model.load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused_and_named(value):
    module = families.module("gpt2", torch.float64)
    with torch.no_grad():
        module.get_parameter("transformer.h.1.mlp.c_fc.weight")[3, 4] = value
    with pytest.raises(
        ValueError, match=r"hold NaN or infinite values, first in .*h\.1.*c_fc.*wei"
    ):
        Model.load(module)


def test_weights_that_are_not_numbers_are_found_wherever_they_are():
    module = families.module("gpt2", torch.float64)
    with torch.no_grad():
        module.get_parameter("transformer.wpe.weight")[60, 4] = float("nan")
    with pytest.raises(ValueError, match=r"hold NaN or infinite values, first in .*wpe"):
        Model.load(module)


def test_a_module_that_is_already_wrapped_is_refused():
    module = families.module("gpt2", torch.float64)
    Model.load(module)
    with pytest.raises(ValueError, match="this GPT2LMHeadModel is already wrapped .* a fresh copy"):
        Model.load(module)


def test_what_is_no_language_model_is_refused(without_type_checks):
    with pytest.raises(ValueError, match="one of Hugging Face's, got a Linear"):
        Model.load(nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]


def test_a_model_without_its_head_is_refused():
    bare = hf.GPT2Model(hf.GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=97))
    with pytest.raises(ValueError, match="cannot wrap a GPT2Model .*Unsupported architecture"):
        Model.load(bare)


@pytest.mark.parametrize("kind", ["encoder-decoder", "state space"])
def test_a_model_that_is_no_stack_of_attention_and_mlp_is_refused(kind):
    if kind == "state space":
        small = hf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1)
        module = hf.MambaForCausalLM(small)
    else:
        small = hf.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
        module = hf.T5ForConditionalGeneration(small)
    with pytest.raises(ValueError, match="is refused"):
        Model.load(module)


def test_layers_with_different_numbers_of_heads_are_refused(gpt2):
    fewer = hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=97)
    other = Model.load(hf.GPT2LMHeadModel(fewer).double())
    with pytest.raises(ValueError, match="mixed is refused: its layers differ in their numbers"):
        graph_of("mixed", (gpt2.blocks[0], other.blocks[0]))


# The proof: structure that the graph does not know is refused.


def first(output: object) -> Tensor:
    found = output[0] if isinstance(output, tuple) else output
    assert isinstance(found, Tensor)
    return found


def add_branch(module: nn.Module, args: tuple[Tensor, ...], output: object) -> object:
    """Another branch beside attention and MLP: the input in reverse."""
    changed = first(output) + 0.1 * args[0].flip(-1)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed


def scale_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (1.1 * args[0], *args[1:])


def scale_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return 1.1 * output


@pytest.mark.parametrize(
    ("family", "block"), [("gpt2", GPT2_BLOCK), ("llama", LLAMA_BLOCK), ("gemma2", LLAMA_BLOCK)]
)
def test_a_hidden_branch_is_refused(family, block):
    module = families.module(family, torch.float64)
    module.get_submodule(block).register_forward_hook(add_branch)
    with pytest.raises(ValueError, match="layer 0's stream, from its writers cannot be rebuilt"):
        Model.load(module)


def test_a_hidden_scale_before_a_block_is_refused():
    module = families.module("llama", torch.float64)
    module.get_submodule("model.layers.1").register_forward_pre_hook(scale_input)
    with pytest.raises(ValueError, match="layer 1's stream, from its writers cannot be rebuilt"):
        Model.load(module)


def test_a_hidden_scale_between_two_blocks_is_refused():
    bridge = Model.load(families.module("gpt2", torch.float64)).bridge
    bridge.blocks[1].register_forward_pre_hook(scale_input)
    with pytest.raises(ValueError, match="layer 1's .* cannot be rebuilt"):
        Model.load(bridge)


def test_a_hidden_scale_between_the_blocks_and_the_final_norm_is_refused():
    bridge = Model.load(families.module("gpt2", torch.float64)).bridge
    bridge.ln_final.register_forward_pre_hook(scale_input)
    with pytest.raises(ValueError, match="the final norm's input cannot be rebuilt"):
        Model.load(bridge)


@pytest.mark.parametrize(
    ("family", "norm"),
    [
        ("gpt2", f"{GPT2_BLOCK}.ln_1"),
        ("gpt2", f"{GPT2_BLOCK}.ln_2"),
        ("gpt2", "transformer.ln_f"),
        ("llama", f"{LLAMA_BLOCK}.input_layernorm"),
        ("llama", f"{LLAMA_BLOCK}.post_attention_layernorm"),
        ("llama", "model.norm"),
        ("olmo2", f"{LLAMA_BLOCK}.post_attention_layernorm"),
    ],
)
def test_another_norm_is_refused(family, norm):
    """Here a scale that neither `weight` nor `eps` tells of."""
    module = families.module(family, torch.float64)
    module.get_submodule(norm).register_forward_hook(scale_output)
    with pytest.raises(ValueError, match=r"is refused: .* cannot be rebuilt .* \(relative error"):
        Model.load(module)


def test_a_norm_with_another_epsilon_than_it_says_is_refused():
    class Lying(nn.LayerNorm):
        def forward(self, input: Tensor) -> Tensor:
            return nn.functional.layer_norm(input, (32,), self.weight, self.bias, 0.01)

    module = families.module("gpt2", torch.float64)
    lying = Lying(32).double()
    lying.load_state_dict(module.get_submodule(f"{GPT2_BLOCK}.ln_2").state_dict())
    module.get_submodule(GPT2_BLOCK).ln_2 = lying
    with pytest.raises(ValueError, match="layer 0's MLP .* cannot be rebuilt"):
        Model.load(module)


def test_a_small_vocabulary_and_a_short_context_are_no_obstacle():
    small = hf.GPT2Config(
        vocab_size=5, n_positions=3, n_embd=8, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    assert Model.load(hf.GPT2LMHeadModel(small).double()).graph == Graph(1, 2, 2)


# Tasks that a model cannot read.


def test_ids_outside_the_vocabulary_are_refused(gpt2):
    gpt2.check(Task("t", (Prompt((1,), (2,), (families.VOCAB - 1,)),)))
    for prompt in (Prompt((97,), (2,), (3,)), Prompt((1,), (2,), (97,)), Prompt((1,), (97,), (3,))):
        with pytest.raises(ValueError, match="token id 97, and GPT2LMHeadModel has only 97 tokens"):
            gpt2.check(Task("t", (prompt,)))


def test_a_prompt_that_is_too_long_is_refused(gpt2):
    gpt2.check(Task("t", (Prompt((1,) * 64, (2,) * 64, (3,)),)))
    with pytest.raises(ValueError, match="'t' has a prompt of 65 tokens; .* reads at most 64"):
        gpt2.check(Task("t", (Prompt((1,) * 65, (2,) * 65, (3,)),)))


# Runs.


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "opt", "gptneo", "phi"])
def test_padding_leaves_each_rows_answer_logits_as_they_are(family, padding):
    """Against Hugging Face, each prompt alone and unpadded."""
    plain = families.module(family, torch.float32)
    task = ragged(padding)
    with torch.no_grad():
        rows = [plain(torch.tensor([prompt.clean])).logits[0, -1] for prompt in task.prompts]
    found = answers_of(Model.load(families.module(family, torch.float32)), task)
    expected = torch.stack(rows)
    # Two layers of float32 in another order: some ulps (1.2e-7) of the largest logit, not many.
    assert_close(found, expected, rtol=0, atol=5e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_batch_several_times_over_gives_its_logits_several_times(gpt2, padding):
    (batch,) = ragged(padding).batches(4)
    once = gpt2.answer_logits(batch.clean, batch)
    thrice = gpt2.answer_logits(batch.clean.repeat(3, 1), batch)
    # the sizes of matrix products differ: roundings of float64 numbers of size 10
    assert_close(thrice, once.repeat(3, 1), rtol=0, atol=1e-12)


def test_answer_logits_are_in_float32_or_wider():
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        assert answers_of(Model.load(families.module("llama", dtype))).dtype == expected


def test_a_hook_may_change_what_passes_or_only_look(gpt2):
    (batch,) = families.task().batches(3)
    seen = []
    looked = gpt2.answer_logits(batch.clean, batch, [(EMBEDDING, seen.append)])
    assert [x.shape for x in seen] == [(len(batch), 9, 32)]
    assert torch.equal(looked, answers_of(gpt2))
    silenced = gpt2.answer_logits(batch.clean, batch, [(EMBEDDING, torch.zeros_like)])
    # nothing tells the rows apart but where a matrix product puts them: float64 roundings
    assert_close(silenced, silenced[:1].expand_as(silenced), rtol=0, atol=1e-12)
    assert torch.equal(answers_of(gpt2), looked), "and the hook is gone"


@pytest.mark.parametrize("family", ["gpt2", "gptneo", "gemma2"])
def test_an_error_inside_a_hook_leaves_the_model_as_it_was(family):
    model = Model.load(families.module(family, families.best_dtype(family)))
    (batch,) = families.task().batches(3)
    expected = model.answer_logits(batch.clean, batch)
    hooks, weights = n_hooks(model), hash_tensors(list(model.bridge.state_dict().items()))

    def fail(tensor: Tensor) -> None:
        raise RuntimeError("from within")

    for name in (EMBEDDING, model.blocks[1].z, model.blocks[1].mlp_out):
        with pytest.raises(RuntimeError, match="from within"):
            model.answer_logits(batch.clean, batch, [(EMBEDDING, torch.ones_like), (name, fail)])
        assert n_hooks(model) == hooks
    assert hash_tensors(list(model.bridge.state_dict().items())) == weights
    assert torch.equal(model.answer_logits(batch.clean, batch), expected)


def test_runs_leave_no_hook_and_no_activation_behind(gpt2):
    before, during = n_hooks(gpt2), []
    (batch,) = families.task().batches(3)
    gpt2.answer_logits(batch.clean, batch, [(EMBEDDING, lambda _: during.append(n_hooks(gpt2)))])
    assert n_hooks(gpt2) == before < during[0]
    assert all(getattr(block.bridge.attn, "_pattern", None) is None for block in gpt2.blocks)


def test_weights_that_were_changed_since_have_another_hash():
    model = Model.load("truth/copy")
    before = model.weights
    weight = next(model.bridge.parameters())
    kept = weight.detach().clone()
    weight.data[0, 0] += 1  # no version counter sees this
    assert model.weights != before
    weight.data.copy_(kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))])
    assert model.weights != before  # rows exchanged
    weight.data.copy_(kept)
    assert model.weights == before
