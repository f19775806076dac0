"""The method chosen by evidence: cheap scores, held against each other on prompts of the search.

The prompts of the search are halved. Every cheap recipe scores each half, circuits of one half's
scores are run on the other, and the recipe, or mean of recipes, whose circuits are nearest to the
model is kept, with its scores of both halves together: each prompt is scored once and judged once.
Prompts that a circuit is to be judged on later are never seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations

from circuits.choosing.comparing import AROUND, Compared, compare, near
from circuits.judging.smallest import Goal, between
from circuits.judging.uncertainty import ensemble
from circuits.provenance import describe
from circuits.running.trial import Trial, prepare
from circuits.scores import Scores, merge
from circuits.scoring import Recipe, along_inputs, score, score_each
from patching.files.brief import as_table, briefly
from patching.metrics import Metric
from patching.model import Model
from patching.rules import gim, relp
from patching.tasks.task import Task
from patching.work import Run

RECIPES: Mapping[str, Recipe] = {
    "eap-ig": Recipe(along_inputs(5)),
    "relp x inputs": Recipe(along_inputs(3), relp),
    "gim x inputs": Recipe(along_inputs(3), gim),
}
"""What the tables in docs/truth.md support: none of them is last anywhere, each is first somewhere.

With their means by twos and threes, seven ways to score.
"""

AND = " + "
"""Between the names of recipes whose mean is meant."""

LEAST = 4
"""Prompts without which halves cannot be held against each other."""


@briefly
@dataclass(frozen=True, eq=False)
class Auto:
    """What was compared, and the scores of the best, by all prompts of the search.

    `size` is the number of edges that circuits were compared at, before pruning. `units` is what it
    cost in plain forward and backward passes over the prompts, a circuit counted as one forward.
    """

    scores: Scores
    compared: tuple[Compared, ...]
    left_out: Mapping[str, str]
    size: int
    units: float

    @property
    def best(self) -> str:
        """The name of what was kept."""
        return self.compared[0].name

    def to_dataframe(self) -> "object":
        """What was compared, the best first."""
        import pandas  # slow to import, and seldom needed

        return pandas.DataFrame(self.compared)

    def _repr_html_(self) -> str:
        import pandas

        said = f"{self.best} is kept, compared at {self.size:,} edges, for {self.units:.1f} passes:"
        return as_table(said, pandas.DataFrame(self.compared))


def auto(
    model: Model,
    task: Task,
    metric: Metric,
    goal: Goal,
    *,
    size: int | None = None,
    by_prompt: bool = False,
    batch_size: int = 16,
    run: Run | None = None,
) -> Auto:
    """The cheap way to score whose circuits are nearest to the model, of a size or for a goal.

    Nearest on prompts of the search that its scores had not seen. Without a size, circuits are
    compared near the size at which the mean of all recipes reaches `goal.faithfulness`. `by_prompt`
    keeps what each prompt alone scores, for intervals that contain the search. Costs some 23 plain
    forward and backward passes by count; `units` says how many.

    >>> from patching.metrics import logit_diff
    >>> from patching.models import induction
    >>> model, known = Model.load("truth/induction"), induction(n=8)
    >>> found = auto(model, known.task, logit_diff, Goal("absolute"), size=5)
    >>> found.scores.provenance["method"], len(found.compared)
    ('auto', 7)

    Raises:
        ValueError: if there are fewer than four prompts, the graph has not `size` edges, a recipe
            scores every edge 0, metric or ablation do not fit the recipes, or clean and corrupt
            do not differ or corrupt does better.
    """
    _check(model, task, size)
    usable, left_out = _usable(model, goal)
    job = _Job(model, metric, goal, usable, by_prompt, batch_size, run)
    halves = task.split(0.5, seed=0)
    found = [job.score(half) for half in halves]
    judges = [job.trial(half) for half in reversed(halves)]
    ways = [_ways(alone) for alone in found]
    n_circuits = len(ways[0]) * len(AROUND)
    if size is None:
        size = near(judges, [next(iter(way.values())) for way in ways], goal)
        n_circuits += len(between(0, model.graph.n_edges))
    compared = compare(judges, ways, size, goal)
    units = sum(map(_units, usable.values())) + n_circuits / 3
    said = {"compared_at": size, "compared": [asdict(one) for one in compared]}
    said |= {"left_out": left_out, "units": round(units, 3)}
    best = _together(found, compared[0].name)
    made = job.describe(task, {"recipes": list(usable), "kept": compared[0].name})
    parts = {"scores": dict(best.provenance), **said}
    return Auto(replace(best, provenance={**made, **parts}), compared, left_out, size, units)


@dataclass(frozen=True)
class _Job:
    """What scores and what runs circuits, on some of the prompts of the search."""

    model: Model
    metric: Metric
    goal: Goal
    recipes: Mapping[str, Recipe]
    by_prompt: bool
    batch_size: int
    run: Run | None

    def score(self, task: Task) -> dict[str, Scores]:
        """Scores of some prompts by every recipe.

        Raises:
            ValueError: if a recipe scores every edge 0, or nothing fits it.
        """
        found, by = {}, score_each if self.by_prompt else score
        for name, recipe in self.recipes.items():
            found[name] = by(
                self.model,
                task,
                self.metric,
                recipe,
                batch_size=self.batch_size,
                method=name,
                run=self.run,
            )
            if not found[name].matrix.any():
                raise ValueError(f"every edge scores 0 by {name}; give other prompts, or a metric")
        return found

    def trial(self, task: Task) -> Trial:
        """Where circuits are run on some prompts."""
        return prepare(
            self.model,
            task,
            self.metric,
            ablation=self.goal.ablation,
            direction=self.goal.direction,
            batch_size=self.batch_size,
            kept_in=self.run,
        )

    def describe(self, task: Task, options: Mapping[str, object]) -> dict[str, object]:
        """Provenance of the scores that are kept."""
        ablation = self.goal.ablation(self.model).name
        return describe(self.model, task, self.metric, "auto", options, ablation=ablation)


def _usable(model: Model, goal: Goal) -> tuple[dict[str, Recipe], dict[str, str]]:
    """The recipes under the goal's ablation, and why others cannot be used on this model."""
    usable, left_out = {}, {}
    for name, recipe in RECIPES.items():
        try:
            recipe.rule.start(model)  # a rule's own check
        except ValueError as error:
            left_out[name] = str(error)
        else:
            usable[name] = replace(recipe, ablation=goal.ablation)
    return usable, left_out


def _ways(alone: Mapping[str, Scores]) -> dict[str, Scores]:
    """Scores by every recipe and by means of several, those of most of them first."""
    return {
        AND.join(names): _mean([alone[name] for name in names])
        for n in range(len(alone), 0, -1)
        for names in combinations(alone, n)
    }


def _mean(members: Sequence[Scores]) -> Scores:
    return ensemble(members) if len(members) > 1 else members[0]


def _together(halves: Sequence[Mapping[str, Scores]], way: str) -> Scores:
    """What was kept, of the prompts of both halves."""
    first, second = halves
    return _mean([merge(first[name], second[name]) for name in way.split(AND)])


def _units(recipe: Recipe) -> float:
    """Plain forward and backward passes: two forwards, and both at each step; B is two F."""
    steps = recipe.path.options["steps"]
    assert isinstance(steps, int), "all recipes are along inputs"
    return steps + 2 / 3


def _check(model: Model, task: Task, size: int | None) -> None:
    if len(task) < LEAST:
        raise ValueError(
            f"a method is chosen on one half of the prompts for the other: {LEAST} or more are "
            f"needed, got {len(task)}; name a method, such as eap-ig"
        )
    n_edges = model.graph.n_edges
    if size is not None and not 1 <= size <= n_edges:
        raise ValueError(f"cannot choose {size} edges; this graph has {n_edges}, 1 is the least")
