"""The laws of edge scorers, tried on small models: `(model, task, metric, *, ...) -> Scores`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature

import torch

from circuits.checks.law import Verdicts, require, require_equal
from circuits.checks.linear import SCORES, linear_model, linear_task
from circuits.checks.specimens import Specimen, specimen, specimens
from circuits.scores import MUST_AGREE, Scores
from circuits.scoring import Laws, Method
from patching.ablations import mean, zero
from patching.attribution import attribute
from patching.files.parsing import provenance_json
from patching.metrics import accuracy, logit_diff
from patching.model import Model
from patching.rules import RULES, Rule
from patching.tasks.task import Task

Scorer = Callable[..., Scores]


@dataclass(frozen=True)
class _Case:
    scorer: Scorer
    laws: Laws
    on: Specimen

    def score(self, task: Task, **options: object) -> Scores:
        """Scores of a task on the case's model: all prompts in one batch, and few steps."""
        steps = {"steps": 2} if self.laws.takes_steps else {}
        usual = {"batch_size": len(task), **steps}
        found = self.scorer(self.on.model, task, self.on.metric, **{**usual, **options})
        law = "a scorer returns Scores"
        require(isinstance(found, Scores), law, f"a {type(found).__name__} was returned")
        return found

    @cached_property
    def found(self) -> Scores:
        """Scores of the case's own task."""
        return self.score(self.on.task)


def check_scorer(
    scorer: Scorer | Method, laws: Laws | None = None, *, models: Sequence[Model] | None = None
) -> None:
    """Try a scorer on small models and hold it to the laws that every scorer obeys, and to its own.

    All: the same scores twice, whatever the batch size; the mean over prompts, padded or not;
    nothing where clean equals corrupt; a provenance from which the result can be repeated; the
    model left as it was; refusals of what cannot be scored. Which further laws it obeys a scorer
    declares: `check_scorer(mine, Laws(additive=False))`; a `Method` carries them along.

    >>> from circuits.scoring import METHODS
    >>> check_scorer(METHODS["eap"])

    Args:
        scorer: to be tried.
        laws: its own; by default those of `Laws()`, the strictest.
        models: to try it on instead of a small GPT-2, a Llama and a Gemma 2 with random weights.

    Raises:
        AssertionError: naming every law that is broken, with the numbers.
    """
    function = scorer.function if isinstance(scorer, Method) else scorer
    own = laws or (scorer if isinstance(scorer, Method) else Laws())
    _is_a_scorer(function)
    verdicts = Verdicts()
    for on in specimens() if models is None else map(specimen, models):
        case = _Case(function, own, on)
        for law in _LAWS:
            with verdicts.on(on.model.name):
                law(case)
    for of_linear in (_exact_if_linear, _needs_layers):
        with verdicts.on("a linear model"):
            of_linear(function, own)
    verdicts.require_none()


def _is_a_scorer(scorer: Scorer) -> None:
    law = "a scorer is called with a model, a task and a metric, and takes a batch_size="
    try:
        signature(scorer).bind("model", "task", "metric", batch_size=1)
    except TypeError as error:
        require(False, law, str(error))


def _scores_the_graph(case: _Case) -> None:
    law = "scores are of the model's graph and not all 0"
    found = case.found
    require(found.graph == case.on.model.graph, law, f"the graph is {found.graph.describe()}")
    require(float(found.matrix.abs().max()) > 0, law, "all scores are 0")


def _leaves_nothing(case: _Case) -> None:
    law = "the model is left as it was"
    model = case.on.model
    before = {name: p.clone() for name, p in model.bridge.named_parameters()}
    case.score(case.on.task.take(1))
    for name, point in model.bridge.hook_dict.items():
        added = [hook for hook in (*point.fwd_hooks, *point.bwd_hooks) if not hook.is_permanent]
        require(not added, law, f"{len(added)} hooks are left at {name}")
    for name, parameter in model.bridge.named_parameters():
        require(parameter.grad is None, law, f"{name} has a gradient; freeze what is not needed")
        require(not parameter.requires_grad, law, f"{name} was unfrozen")
        require(torch.equal(parameter, before[name]), law, f"{name} was changed")


def _same_again(case: _Case) -> None:
    again = case.score(case.on.task).matrix
    require_equal(again, case.found.matrix, "equal calls give equal scores", case.on.rounding)


def _any_batch_size(case: _Case) -> None:
    """Three prompts and one: of two lengths, so that shorter ones are padded beside longer ones."""
    apart = case.score(case.on.task, batch_size=3).matrix
    law = "scores do not hang on the batch size"
    require_equal(apart, case.found.matrix, law, case.on.rounding)


def _mean_over_prompts(case: _Case) -> None:
    task = case.on.task
    once, twice = case.found, case.score(replace(task, prompts=task.prompts * 2))
    law = "scores are a mean over prompts and no sum"
    require_equal(twice.matrix, once.matrix, law, case.on.rounding)
    if not case.laws.by_prompt:
        return
    last = case.score(replace(task, prompts=task.prompts[-1:])).matrix
    others = case.score(task.take(len(task) - 1)).matrix
    expected = (last + (len(task) - 1) * others) / len(task)
    law = "scores are the mean of each prompt's alone (else declare Laws(by_prompt=False))"
    require_equal(once.matrix, expected, law, case.on.rounding)


def _nothing_without_contrast(case: _Case) -> None:
    if not case.laws.paired:
        return
    law = "pairs that do not differ are refused or score 0"
    same = Task("same", tuple(replace(p, corrupt=p.clean) for p in case.on.task.prompts))
    try:
        found = float(case.score(same).matrix.abs().max())
    except ValueError:
        return
    require(found == 0, law, f"an edge scores {found:.3g}")


def _says_what_it_did(case: _Case) -> None:
    law = "the provenance says how scores were made"
    task = case.on.task
    said = case.found.provenance
    absent = [field for field in (*MUST_AGREE, "tokens", "n_examples") if field not in said]
    require(not absent, law, f"it lacks {', '.join(absent)}; see circuits.provenance.describe")
    provenance_json(said)
    facts = {"tokens": task.hash, "n_examples": len(task), "weights": case.on.model.weights}
    for field, right in facts.items():
        require(said[field] == right, law, f"{field} is {said[field]!r}, {right!r} is right")
    if isinstance(case.laws, Method):
        own = getattr(case.scorer, "__name__", "").replace("_", "-")
        require(said["method"] == own, law, f"method is {said['method']!r}, {own!r} is right")


def _refuses(case: _Case) -> None:
    vocab = int(case.on.model.bridge.cfg.d_vocab)
    (first, *rest) = case.on.task.prompts
    foreign = replace(first, clean=(vocab, *first.clean[1:]))
    task = replace(case.on.task, prompts=(foreign, *rest))
    law = "a task for another vocabulary is refused with a ValueError"
    require(_is_refused(lambda: case.score(task)), law, f"token id {vocab} went through")
    if case.laws.by_gradient:
        law = "a metric without gradient is refused with a ValueError"
        call = _is_refused(lambda: case.scorer(case.on.model, case.on.task, accuracy))
        require(call, law, "accuracy went through; if it may, declare Laws(by_gradient=False)")


def _takes_ablations(case: _Case) -> None:
    if not case.laws.takes_ablation:
        return
    law = "writers may be replaced by zeros or means (else declare Laws(takes_ablation=False))"
    taken = signature(case.scorer).parameters
    takes = "ablation" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())
    require(takes, law, f"it takes no ablation=, only {', '.join(taken)}")
    for ablation in (zero, mean(case.on.task)):
        name = ablation(case.on.model).name
        found = case.score(case.on.task, ablation=ablation)
        said = found.provenance.get("ablation")
        require(said == name, law, f"the provenance calls the ablation {said!r}, not {name!r}")
        require(float(found.matrix.abs().max()) > 0, law, f"under {name} all scores are 0")


def _adds_up(case: _Case) -> None:
    """Out of the embedding: the gap and what the path method misses of it.

    At the clean run, out of every writer: attribution patching of its write by the same rule.
    """
    if not case.laws.additive:
        return
    law = "edges out of a writer sum to its node score (else declare Laws(additive=False))"
    found = case.found
    nodes, tolerance = found.node_scores(), 10 * case.on.rounding  # sums of up to ten edges
    if found.completeness is not None:
        expected = nodes.clone()
        expected[0] = found.completeness.mean() + _gap(case.on)
        require_equal(nodes, expected, law, tolerance)
    rule = _rule_at_clean(found)
    if rule is not None:
        expected = attribute(case.on.model, case.on.task, case.on.metric, rule=rule).writers
        require_equal(nodes, expected, law, tolerance)


def _completes(case: _Case) -> None:
    if not (case.laws.complete and case.laws.takes_steps):
        return
    law = "the embedding's scores approach the gap as steps grow"
    gap = _gap(case.on)
    coarse, fine = (
        abs(float(case.score(case.on.task, steps=n).node_scores()[0]) - gap) for n in (10, 80)
    )
    found = f"{coarse:.3g} are missing of {gap:.3g} with 10 steps, {fine:.3g} with 80"
    require(fine < max(0.1 * coarse, 1e-6 * abs(gap)), law, found)  # second order: 1/64


def _exact_if_linear(scorer: Scorer, laws: Laws) -> None:
    if not laws.exact_if_linear:
        return
    law = "on a linear model scores are exact (else declare Laws(exact_if_linear=False))"
    found = scorer(linear_model(), linear_task(2), logit_diff)
    graph = found.graph
    for (source, dest), right in SCORES.items():
        score = found.of(source, dest)
        require(abs(score - right) < 1e-9, law, f"{source}->{dest} scores {score:.6g}, not {right}")
    others = int((found.matrix.abs() > 1e-9).sum()) - len(SCORES)
    require(others == 0, law, f"{others} of {graph.n_edges} edges score that do nothing")


def _needs_layers(scorer: Scorer, laws: Laws) -> None:
    if laws.n_layers > 1:
        law = f"a model of fewer than {laws.n_layers} layers is refused with a ValueError"
        call = _is_refused(lambda: scorer(linear_model(), linear_task(2), logit_diff))
        require(call, law, "one layer went through")


_LAWS: tuple[Callable[[_Case], None], ...] = (
    _scores_the_graph,
    _leaves_nothing,
    _same_again,
    _any_batch_size,
    _mean_over_prompts,
    _nothing_without_contrast,
    _says_what_it_did,
    _refuses,
    _takes_ablations,
    _adds_up,
    _completes,
)


def _is_refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except ValueError:
        return True
    return False


def _rule_at_clean(scores: Scores) -> Rule | None:
    """The backward rule of scores made at the clean run alone; None for another path."""
    options = scores.provenance.get("options")
    options = options if isinstance(options, dict) else {}
    if options.get("path", "clean") != "clean":
        return None
    return RULES.get(str(options.get("rule", "plain")))


def _gap(on: Specimen) -> float:
    """The mean of the metric in the clean run minus that in the corrupt one."""
    (batch,) = on.task.batches(len(on.task), on.model.device)
    clean, corrupt = (
        float(on.metric(on.model.answer_logits(prompts, batch), batch).double().mean())
        for prompts in (batch.clean, batch.corrupt)
    )
    return clean - corrupt
