"""The edge table of a real pretrained model, measured before with separate prototypes.

Normalised faithfulness at 50, 100 and 200 of 1,701 edges; all prompts, gradient at the clean run
(or 5 midpoint steps), absolute ranking, no pruning, resample ablation.
"""

from pathlib import Path

import pytest

from circuits import evaluate, random_circuit, top_n
from circuits.scoring import Recipe, along_inputs, at_clean, score
from patching.metrics import logit_diff
from patching.model import Model
from patching.rules import RULES
from patching.tasks import from_json

FOLDER = Path(__file__).parents[2] / "shared" / "models" / "stories260K"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="the pretrained model is not here")

SIZES = (50, 100, 200)
TABLE = {
    "pronoun_noun": {
        ("plain", "clean"): (0.53, 0.62, 0.73),
        ("plain", "inputs"): (0.63, 0.79, 0.79),
        ("relp", "clean"): (0.45, 0.82, 0.87),
        ("relp-ah", "clean"): (0.63, 0.82, 0.89),
        ("ln", "clean"): (0.76, 0.81, 0.86),
        ("gim-no-gates", "clean"): (0.72, 0.81, 0.89),
        ("relp", "inputs"): (0.66, 0.79, 0.86),
        ("gim-no-gates", "inputs"): (0.75, 0.71, 0.84),
    },
    "object_copy": {
        ("plain", "clean"): (0.52, 0.74, 0.93),
        ("plain", "inputs"): (0.87, 0.91, 0.98),
        ("relp", "clean"): (0.91, 0.99, 0.99),
        ("relp-ah", "clean"): (0.82, 0.84, 0.85),
        ("ln", "clean"): (0.80, 0.99, 1.00),
        ("gim-no-gates", "clean"): (0.81, 0.98, 1.00),
    },
    "sva_was_were": {
        ("plain", "clean"): (0.89, 0.94, 0.94),
        ("plain", "inputs"): (0.93, 0.97, 0.96),
        ("relp", "clean"): (0.93, 0.98, 0.97),
    },
}


@pytest.fixture(scope="module")
def model():
    return Model.load(FOLDER)


@pytest.mark.parametrize("name", TABLE)
def test_the_table_is_reproduced(model, name):
    task = from_json(FOLDER / "tasks" / f"{name}.json")
    circuits = []
    for rule, path in TABLE[name]:
        recipe = Recipe(at_clean if path == "clean" else along_inputs(5), RULES[rule])
        scores = score(model, task, logit_diff, recipe, batch_size=64)
        circuits += [top_n(scores, n, ranking="absolute") for n in SIZES]
    circuits += [random_circuit(model.graph, n, seed=0) for n in SIZES]
    found = evaluate(model, task, circuits, logit_diff, batch_size=64).faithfulness.tolist()
    for i, (row, expected) in enumerate(TABLE[name].items()):
        assert found[3 * i : 3 * i + 3] == pytest.approx(expected, abs=0.02), row
    assert max(map(abs, found[-3:])) < 0.1
