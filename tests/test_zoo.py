"""Every causal language model class is right or refused in words: never wrong, no other error."""

import pytest
import zoo
from judged import judge

SOME = {
    "AfmoeForCausalLM": "refused",  # a gate reads the stream beside the readers
    "BartForCausalLM": "refused",  # no adapter
    "DeepseekV3ForCausalLM": "refused",  # keys and values by way of a shared latent
    "FalconForCausalLM:7b": "right",  # parallel, one key-value head
    "GPTBigCodeForCausalLM:mha": "refused",  # a fault of the library's adapter
    "Llama4ForCausalLM": "right",  # experts whose output the library reshapes
    "ModernBertDecoderForCausalLM": "right",  # a fused gate
    "StableLmForCausalLM:parallel": "right",  # a norm of its own for each head
}


@pytest.mark.filterwarnings("ignore")  # of models that are built as nobody builds them
@pytest.mark.parametrize("name", SOME)
def test_a_class_is_right_or_refused_in_words(name):
    verdict = judge(name)
    assert verdict.verdict == SOME[name], verdict


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(SOME)))
def test_every_class_is_right_or_refused_in_words(name):
    verdict = judge(name)
    assert verdict.verdict != "WRONG", verdict
