"""The method chosen by evidence: cheap scores, held against each other on prompts of the search.

Every cheap recipe scores every prompt of the search, once. The prompts are dealt into four parts;
circuits by the scores of three are run on the fourth, of every recipe and mean of recipes and by
every selector. Of what is as near to the model as the nearest, within a standard error, the first
selector is kept, with the scores of all parts together. Prompts that a circuit is to be judged on
later are never seen.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from random import Random

from circuits.choosing.comparing import Compared, Fold, compare, near, preferred
from circuits.circuit import Circuit
from circuits.judging.smallest import Goal, Selector, between
from circuits.judging.uncertainty import ensemble
from circuits.provenance import describe
from circuits.running.trial import Trial, prepare
from circuits.scores import Scores
from circuits.scoring import Recipe, along_inputs, at_clean, score_each
from circuits.select import OF_SIZES, SELECTORS, of_rows, require_rows
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
    "relp": Recipe(at_clean, relp),
    "gim": Recipe(at_clean, gim),
}
"""What the tables in docs/truth.md support: none of them is last anywhere, each is first somewhere.

With means by twos and threes of those along inputs, nine ways to score.
"""

SELECT_BY: Mapping[str, Selector] = {
    name: SELECTORS[name] for name in ("mean-size", "smoothed-size", "top-n")
}
"""How edges are chosen; of what the prompts do not tell apart, the first (docs/how-to/believe.md).

Sizes hang less on which prompts were drawn than means; those of an edge's ends are of many edges.
"""

AND = " + "
"""Between the names of recipes whose mean is meant."""

FOLDS = 4
"""Parts of the prompts; and prompts without which nothing can be held against each other."""


@briefly
@dataclass(frozen=True, eq=False)
class Auto:
    """What was compared, and the scores that are kept, by all prompts of the search.

    `goal` is the one given, with the selector that is kept. `size` is the number of edges that
    circuits were compared at, before pruning. `units` is what it cost in plain forward and backward
    passes over the prompts, a circuit counted as one forward.
    """

    scores: Scores
    goal: Goal
    kept: Compared
    compared: tuple[Compared, ...]
    left_out: Mapping[str, str]
    size: int
    units: float

    @property
    def best(self) -> str:
        """The name of the scores that are kept."""
        return self.kept.name

    def circuit(self, n: int | None = None) -> Circuit:
        """The circuit of n edges, or of as many as circuits were compared at.

        Raises:
            ValueError: if the graph does not have n edges.
        """
        n = self.size if n is None else n
        return self.goal.select(self.scores, n, ranking=self.goal.ranking, prune=self.goal.prune)

    def to_dataframe(self) -> "object":
        """What was compared, the nearest first."""
        import pandas  # slow to import, and seldom needed

        return pandas.DataFrame(self.compared)

    def _repr_html_(self) -> str:
        import pandas

        said = f"{self.best} by {self.kept.selector} is kept, compared at {self.size:,} edges, "
        said += f"for {self.units:.1f} passes:"
        return as_table(said, pandas.DataFrame(self.compared))


def auto(
    model: Model,
    task: Task,
    metric: Metric,
    goal: Goal,
    *,
    size: int | None = None,
    selectors: Mapping[str, Selector] = SELECT_BY,
    batch_size: int = 16,
    run: Run | None = None,
) -> Auto:
    """The cheap way to score and select whose circuits are nearest to the model.

    Of a size or for a goal, on prompts of the search that its scores had not seen. Without a size,
    circuits are compared near the one at which the mean of all recipes reaches
    `goal.faithfulness`. Scores keep what each prompt alone scores. Costs some 26 plain forward and
    backward passes by count; `units` says how many.

    >>> from patching.metrics import logit_diff
    >>> from patching.models import induction
    >>> model, known = Model.load("truth/induction"), induction(n=8)
    >>> found = auto(model, known.task, logit_diff, Goal("absolute"), size=5)
    >>> found.scores.provenance["method"], len(found.compared), found.circuit().size
    ('auto', 27, 5)

    Args:
        model: see `Model`.
        task: prompts of the search, four or more.
        metric: as everywhere, positive where the clean run does better.
        goal: the ranking, what is to be kept, and the ablation; its selector is not looked at.
        size: of the circuits that are compared.
        selectors: by name, of equals the first is kept; of a signed ranking, those of sizes are
            left out.
        batch_size: prompts at a time.
        run: where what is scored is kept, and who does it.

    Raises:
        ValueError: if there are fewer than four prompts, the graph has not `size` edges, a recipe
            scores every edge 0, metric or ablation do not fit the recipes, or clean and corrupt
            do not differ or corrupt does better.
    """
    _check(model, task, size)
    usable, left_out = _usable(model, goal)
    selectors = _fitting(selectors, goal)
    job = _Job(model, metric, goal, usable, batch_size, run)
    alone = job.score(task)
    folds = [_fold(job, task, alone, some) for some in _deal(len(task))]
    n_circuits = len(_ways(alone)) * len(selectors)
    if size is None:
        size = near(folds, next(iter(selectors.values())), goal)
        n_circuits += len(between(0, next(iter(alone.values())).graph.n_edges)) + 1
    compared = compare(folds, selectors, size, goal)
    kept = preferred(compared, list(selectors))
    scores = _mean([alone[name] for name in kept.name.split(AND)])
    units = sum(map(units_of, usable.values())) + n_circuits / 3
    options = {"recipes": list(usable), "kept": kept.name, "selector": kept.selector}
    said = {"compared_at": size, "compared": [asdict(one) for one in compared]}
    said |= {"left_out": left_out, "units": round(units, 3)}
    provenance = {**job.describe(task, options), "scores": dict(scores.provenance), **said}
    goal = replace(goal, select=selectors[kept.selector])
    found = replace(scores, provenance=provenance)
    return Auto(found, goal, kept, compared, left_out, size, units)


@dataclass(frozen=True)
class _Job:
    """What scores and what runs circuits, on some of the prompts of the search."""

    model: Model
    metric: Metric
    goal: Goal
    recipes: Mapping[str, Recipe]
    batch_size: int
    run: Run | None

    def score(self, task: Task) -> dict[str, Scores]:
        """Scores of prompts by every recipe, each prompt's own kept.

        Raises:
            ValueError: if a recipe scores every edge 0, or nothing fits it.
        """
        found = {}
        for name, recipe in self.recipes.items():
            found[name] = score_each(
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


def _fitting(selectors: Mapping[str, Selector], goal: Goal) -> Mapping[str, Selector]:
    """Those that fit the ranking.

    Raises:
        ValueError: if there are none.
    """
    signed = goal.ranking == "signed"
    some = {name: by for name, by in selectors.items() if not (signed and name in OF_SIZES)}
    if not some:
        raise ValueError(f"sizes have no sign: {', '.join(selectors)} rank by absolute")
    return some


def _deal(n: int) -> list[list[int]]:
    """Rows of each part."""
    rows = list(range(n))
    Random(0).shuffle(rows)
    return [sorted(rows[i::FOLDS]) for i in range(FOLDS)]


def _fold(job: _Job, task: Task, alone: Mapping[str, Scores], some: Sequence[int]) -> Fold:
    """Circuits are run on some prompts, and found on the others."""
    others = [row for row in range(len(task)) if row not in some]

    def ways() -> Iterator[tuple[str, Scores]]:
        seen = {name: of_rows(one, require_rows(one)[others]) for name, one in alone.items()}
        for names in _ways(seen):
            yield AND.join(names), _mean([seen[name] for name in names])

    return Fold(job.trial(task.some(some)), ways)


def _ways(recipes: Iterable[str]) -> list[tuple[str, ...]]:
    """Recipes whose scores are taken together, most of them first; those at one run alone."""
    along = [name for name in recipes if RECIPES[name].path.options.get("steps")]
    together = [names for n in range(len(along), 0, -1) for names in combinations(along, n)]
    return [*together, *((name,) for name in recipes if name not in along)]


def _mean(members: Sequence[Scores]) -> Scores:
    return ensemble(members) if len(members) > 1 else members[0]


def units_of(recipe: Recipe) -> float:
    """Plain forward and backward passes: two forwards, then both a step, or a backward of one.

    A backward costs two forwards.
    """
    steps = recipe.path.options.get("steps", 2 / 3)
    assert isinstance(steps, int | float), "a number of steps, if any"
    return steps + 2 / 3


def _check(model: Model, task: Task, size: int | None) -> None:
    if len(task) < FOLDS:
        raise ValueError(
            f"a method is chosen on some prompts for others, in {FOLDS} parts: {FOLDS} or more are "
            f"needed, got {len(task)}; name a method, such as eap-ig"
        )
    n_edges = model.graph.n_edges
    if size is not None and not 1 <= size <= n_edges:
        raise ValueError(f"cannot choose {size} edges; this graph has {n_edges}, 1 is the least")
