"""The transcoders that ship with toys: of the models as they are, small, and good enough to use."""

import pytest

from patching.dictionaries import Recipe, embedded, load_dictionaries
from patching.dictionaries.attaching import measure
from patching.model import Model
from patching.models import WITH_TRANSCODERS, transcoders_folder


@pytest.mark.parametrize("name", WITH_TRANSCODERS)
def test_they_are_of_the_model_small_and_rebuild_what_its_mlps_write(name):
    model, several = Model.load(name), load_dictionaries(name)
    assert several.name == f"transcoders of {name}"
    assert [(one.reads, one.writes) for one in several] == [(f"m{i}.in", f"m{i}") for i in range(4)]
    assert {one.facts["weights"] for one in several} == {model.weights}
    size = sum(file.stat().st_size for file in transcoders_folder(name).rglob("*.safetensors"))
    assert size < 550_000
    for one, fit in zip(
        several, measure(model, several, embedded.toy_text(model, n=2, seed=9)), strict=True
    ):
        assert fit.fvu < 0.1 and fit.l0 <= 12
        assert abs(fit.fvu - one.facts["quality"]["fvu"]) < 0.03
        assert one.facts["quality"]["loss_recovered"] > 0.9


def test_they_are_made_by_the_product_and_other_models_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "_LENGTH", 5)  # tokens of its own rows: sampling takes longest
    recipe = Recipe(features=16, k=2, steps=3, batch_size=32)
    embedded.make("toy", tmp_path / "toy", recipe, n=1)
    again = load_dictionaries(tmp_path / "toy")
    assert len(again) == 4 and again["m0"].facts["recipe"]["steps"] == 3
    assert str(again["m0"].w_enc.dtype) == "torch.float16"
    assert transcoders_folder("toy-context") is None and transcoders_folder("gpt2") is None
    with pytest.raises(ValueError, match="there is no folder 'toy-context'"):
        load_dictionaries("toy-context")
