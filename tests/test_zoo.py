"""Every causal language model class is right or refused in words: never wrong, no other error."""

from pathlib import Path

import pytest
import zoo
from judged import judge

PAGE = Path(__file__).resolve().parent.parent / "docs" / "families.md"

SOME = {
    "AfmoeForCausalLM": "right",  # gates of heads, one for each of their numbers
    "BartForCausalLM": "refused",  # no adapter
    "DeepseekV3ForCausalLM": "right",  # keys and values by way of a shared latent
    "FalconForCausalLM:7b": "right",  # parallel, one key-value head
    "GPTBigCodeForCausalLM:mha": "refused",  # a fault of the library's adapter
    "LagunaForCausalLM": "right",  # gates of heads, one for each of them
    "Llama4ForCausalLM": "right",  # experts whose output the library reshapes
    "ModernBertDecoderForCausalLM": "right",  # a fused gate
    "StableLmForCausalLM:parallel": "right",  # a norm of its own for each head
}


def listed() -> dict[str, str]:
    """The page's verdicts."""
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return {row[0].removeprefix("| "): row[1] for row in rows[2:]}


@pytest.mark.filterwarnings("ignore")  # of models that are built as nobody builds them
@pytest.mark.parametrize("name", SOME)
def test_a_class_is_right_or_refused_in_words(name):
    verdict = judge(name)
    assert verdict.verdict == SOME[name] == listed()[name], verdict


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(zoo.names()) - set(SOME)))
def test_every_class_is_right_or_refused_in_words_as_the_documentation_says(name):
    verdict = judge(name)
    assert verdict.verdict != "WRONG", verdict
    assert verdict.verdict == listed()[name], verdict


def test_the_documentation_lists_every_class_and_none_that_is_wrong():
    assert set(listed()) == set(zoo.names())
    assert set(listed().values()) == {"right", "refused", "not built"}
