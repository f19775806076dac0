"""Names of the shell given to Python where it asks for what they stand for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jaxtyping
import pytest

from circuits import Circuit, acdc, eap_ig, evaluate, exact, relp
from circuits.running.trial import prepare
from circuits.scoring import Recipe, along_inputs, score
from patching import Model, activation_patching, logit_diff
from patching.attribution import attribution_patching
from patching.models import induction
from patching.tasks import Task
from patching.values import IN_PYTHON


@dataclass(frozen=True)
class Place:
    model: Model
    task: Task

    @property
    def given(self) -> tuple[Model, Task]:
        return self.model, self.task

    @property
    def full(self) -> list[Circuit]:
        return [Circuit.full(self.model.graph)]


ROWS: dict[str, dict[str, Callable[[Place], object]]] = {
    "metric": {
        "score": lambda at: score(*at.given, "logit-diff", Recipe()),
        "exact": lambda at: exact(*at.given, "logit-diff"),
        "evaluate": lambda at: evaluate(*at.given, at.full, "logit-diff"),
        "activation_patching": lambda at: activation_patching(*at.given, "kl", "resid_pre"),
        "attribution_patching": lambda at: attribution_patching(*at.given, "kl"),
    },
    "ablation": {
        "eap_ig": lambda at: eap_ig(*at.given, logit_diff, ablation="zero"),
        "relp": lambda at: relp(*at.given, logit_diff, ablation="mean"),
        "exact": lambda at: exact(*at.given, logit_diff, ablation="zero"),
        "evaluate": lambda at: evaluate(*at.given, at.full, logit_diff, ablation="mean"),
        "prepare": lambda at: prepare(*at.given, logit_diff, ablation="mean"),
        "acdc": lambda at: acdc(*at.given, threshold=0.1, ablation="zero"),
    },
    "rule": {
        "score": lambda at: score(*at.given, logit_diff, Recipe(along_inputs(2), "relp")),
        "attribution_patching": lambda at: attribution_patching(*at.given, logit_diff, rule="relp"),
    },
    "path": {"score": lambda at: score(*at.given, logit_diff, Recipe("inputs"))},
}


@pytest.fixture(scope="module")
def place() -> Place:
    return Place(Model.load("truth/induction"), induction(n=4).task)


@pytest.mark.parametrize(
    ("what", "call"),
    [
        pytest.param(what, call, id=f"{what} of {name}")
        for what, of in ROWS.items()
        for name, call in of.items()
    ],
)
def test_a_name_is_refused_and_what_is_right_is_said(place, what, call, monkeypatch):
    jaxtyping.config.update("jaxtyping_disable", True)  # which users do not have
    monkeypatch.setattr(Model, "answer_logits", partial(pytest.fail, "the model was run"))
    with pytest.raises(ValueError, match=rf"{what}='.*' is a name of the shell; in Python") as told:
        call(place)
    assert IN_PYTHON[what] in str(told.value)
