"""Attention and lens pages: their files, their refusals, and what a user sees in a browser."""

import re
from pathlib import Path

import pytest
import torch
from browser import needs_browser, visit

from patching.views import attention_view, lens_view
from patching.views.page import escaped_json

EVIL = "</script><img src=x onerror=document.title=1>"
TOKENS = ["<s>", " a", "$b", EVIL]


def pattern(layers: int = 2, heads: int = 3, n: int = 4, *, causal: bool = True) -> torch.Tensor:
    scores = torch.randn(layers, heads, n, n, generator=torch.Generator().manual_seed(0))
    if causal:
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
    return scores.softmax(-1)


def lens(n: int = 4):
    top = [[[EVIL, " a"], [" a", EVIL], ["x", "y"], ["", "\n"]]] * 2
    shares = torch.tensor([0.75, 0.125]).expand(2, n, 2)
    return lens_view(TOKENS, ["0", "last"], top, shares, title=EVIL)


@pytest.mark.parametrize("page", [attention_view(pattern(), TOKENS, title=EVIL), lens()])
def test_pages_refer_to_nothing_outside_and_escape_every_string(page):
    assert re.findall(r"\w+://[^\s\"'<]+", page.content) == ["http://www.w3.org/2000/svg"]
    assert "<img" not in page.content
    assert page.content.count("</script>") == 2
    assert len(page.content.encode()) < 30_000
    bundle = page._repr_mimebundle_()
    assert bundle["text/html"].count("<") == 2
    assert bundle["image/png"].startswith(b"\x89PNG")


def test_lone_surrogates_and_line_separators_do_not_break_a_file():
    assert escaped_json({"t": "\ud800\u2028&"}).encode() == b'{"t":"\\ud800\\u2028\\u0026"}'
    with pytest.raises(ValueError, match="the data of a page must fit into JSON"):
        escaped_json({"t": float("nan")})


@pytest.mark.parametrize(
    ("tokens", "change", "says"),
    [
        (TOKENS[:3], {}, r"a pattern of 3 tokens has the shape \[layer head 3 3\]"),
        (TOKENS, {"layer": 2}, "there is no layer 2; this pattern has 0 to 1"),
        (TOKENS, {"head": -1}, "there is no head -1; this pattern has 0 to 2"),
    ],
)
def test_attention_that_does_not_fit_is_refused(tokens, change, says):
    with pytest.raises(ValueError, match=says):
        attention_view(pattern(), tokens, **change)


def test_scores_are_no_attention():
    with pytest.raises(ValueError, match="from 0 to 1; this pattern holds others"):
        attention_view(-pattern(), TOKENS)


def test_a_lens_that_does_not_fit_is_refused():
    shares = torch.tensor([[[0.5, 0.25]]])
    top = [[["a", "b"]]]
    with pytest.raises(ValueError, match=r"2 layers and 1 tokens need probabilities of shape"):
        lens_view(["t"], ["0", "1"], top, shares)
    with pytest.raises(ValueError, match=r"top_tokens should be nested as the probabilities are"):
        lens_view(["t"], ["0"], [[["a"]]], shares)
    with pytest.raises(ValueError, match=r"probabilities are from 0 to 1; these hold others"):
        lens_view(["t"], ["0"], top, 4 * shares)
    with pytest.raises(ValueError, match="should stand likeliest first"):
        lens_view(["t"], ["0"], top, shares.flip(2))


@needs_browser
@pytest.mark.parametrize("causal", [True, False])
def test_attention_shows_the_weights_of_the_tensor(causal, tmp_path: Path):
    weights = pattern(causal=causal)
    script = """
    const box = (side, i) => $(`.token[data-side="${side}"][data-at="${i}"]`);
    enter(box("query", 2));
    said.one = $$(".line").length;
    const weight = (side, i) => box(side, i).querySelector(".weight").textContent;
    said.weights = [0, 1, 2, 3].map((key) => weight("key", key));
    enter(box("query", 2), "pointerleave");
    await click(box("key", 1));
    said.held = [0, 1, 2, 3].map((query) => weight("query", query));
    await press(document.body, "Escape");
    said.texts = $$(".token text").map((text) => text.textContent);
    await click($("#after"));
    said.head = [$("#layer").value, $("#head").value];
    await click($("#show-model"));
    said.maps = $$(".map").length;
    await click($$(".map")[0]);
    said.opened = [$("#layer").value, $("#head").value, $("#model-view").hidden];
    said.images = document.images.length;
    """
    page = attention_view(weights, TOKENS, layer=1, head=0)
    seen = visit(page.content, script, tmp_path)

    def words(values: torch.Tensor) -> list[str]:
        return [f"{100 * value:.1f} %" if value >= 0.0005 else "" for value in values.tolist()]

    assert seen.console == []
    assert seen.said["weights"] == words(weights[1, 0, 2])
    assert seen.said["one"] == (weights[1, 0, 2] > 0).sum()
    assert seen.said["held"] == words(weights[1, 0, :, 1])
    assert seen.said["head"] == ["1", "1"]
    assert seen.said["maps"] == 6
    assert seen.said["opened"] == ["1", "0", True]  # the last layer is at the top
    assert "</script><img·sr…" in seen.said["texts"]
    assert seen.said["images"] == 0


@needs_browser
def test_a_lens_shows_the_likeliest_and_marks_tokens(tmp_path: Path):
    script = """
    const cell = $$(".cell")[0];
    said.cell = cell.textContent;
    enter(cell);
    said.card = $("#card").textContent;
    await click($$(".cell")[1]);
    said.marked = [$$(".cell.first").length, $$(".cell.marked").length, $("#said").textContent];
    await press($$(".cell")[1], "ArrowRight");
    said.focus = document.activeElement.textContent;
    await press(document.body, "Escape");
    said.cleared = $$(".cell.marked").length;
    await type($("#search"), "y", "input");
    said.found = [$$(".cell.first").length, $$(".cell.marked").length];
    said.images = document.images.length;
    said.title = document.title;
    """
    seen = visit(lens().content, script, tmp_path)
    assert seen.console == []
    assert seen.said["cell"] == EVIL.replace(" ", "·")
    assert "layer last, after 0 <s>" in seen.said["card"]
    assert "75.0 %" in seen.said["card"]
    assert seen.said["marked"][:2] == [2, 4]
    assert seen.said["marked"][2] == "·a: likeliest in 2 cells, among the 2 likeliest in 4"
    assert seen.said["focus"] == "x"
    assert seen.said["cleared"] == 0
    assert seen.said["found"] == [0, 2]
    assert (seen.said["images"], seen.said["title"]) == (0, EVIL)


def test_tokens_as_a_tokenizer_spells_them_are_shown_as_text():
    page = attention_view(torch.eye(3).expand(1, 1, 3, 3), ["\u0120the", "\u2581a", "\u010a"])
    assert '"tokens":[" the"," a","\\n"]' in page.content
