"""The report on reweighted neurons: Markdown from measured numbers, and the tidy table behind it.

Runs no model.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from circuits.reporting.report import settings_table, table
from patching.files.visible import in_markdown
from patching.intervals import Estimate
from patching.neurons.evaluation import BOTH, DECODED, EDITED, ORIGINAL, SideEffect, Trial, label
from patching.neurons.measures import FOLLOWS, MEASURES, PREFERS, STUBBORN
from patching.neurons.questions import estimate, questions
from patching.neurons.selection import name_of

_WAYS = {
    ORIGINAL: "original model",
    DECODED: "context-aware decoding (CAD)",
    EDITED: "neurons reweighted",
    BOTH: "neurons reweighted, with CAD",
}


@dataclass(frozen=True)
class Sentence:
    """What the report says first: does it work, by how much, and is it more than chance?"""

    gain: Estimate
    gain_over_control: Estimate

    @property
    def works(self) -> bool:
        """Whether both intervals lie above 0."""
        return self.gain.low > 0 and self.gain_over_control.low > 0

    def __str__(self) -> str:
        gain, over = _signed(self.gain), _signed(self.gain_over_control)
        if self.works:
            return (
                f"Reweighting these neurons makes the model follow its context more often: {gain} "
                f"on held-out conflicts, {over} more than random neurons of the same layers."
            )
        if self.gain.high < 0:
            return f"Reweighting these neurons makes the model follow its context less: {gain}."
        return (
            f"Reweighting these neurons does not clearly help: {gain} on held-out conflicts, "
            f"{over} against random neurons of the same layers."
        )


def verdict(trial: Trial) -> Sentence:
    """The gain on held-out conflicts, and that over random neurons, with intervals."""
    groups = questions(trial.tasks[1])
    return Sentence(estimate(trial.gain, groups), estimate(trial.gain_over_control, groups))


def render(
    trial: Trial,
    settings: Mapping[str, object],
    figures: Mapping[str, str],
    tokens: Mapping[str, str],
) -> str:
    """The report as Markdown.

    `figures` maps `layers`, `sweep` and `betas` to file names; `tokens` says of neurons what they
    promote.
    """
    dev, held_out = trial.tasks
    h, beta = len(trial.neurons), label(trial.beta)
    n_questions = int(questions(held_out).max()) + 1
    parts = [
        f"# {in_markdown(held_out.name)} in {in_markdown(str(settings.get('model')))}: "
        f"{count(h)} at beta {beta}",
        f"**{verdict(trial)}**",
        f"h = {h} and beta = {beta} were chosen on {len(dev)} development conflicts. All numbers "
        f"below but the sweep's are of {len(held_out)} held-out conflicts about {n_questions} "
        "questions, none of which is in the development part. Brackets hold 95 % intervals, by "
        "bootstrap over questions; differences are paired.",
        "## Which answer is given",
        _decodings(trial),
        "An answer is the likeliest next token of the whole vocabulary. `prefers context` compares "
        "the two answers alone.",
        "## By beta",
        f"![Rate of following the context by beta]({figures['betas']})",
        _betas(trial),
        "## Choosing h and beta (development conflicts)",
        f"![Rate of following the context by h and beta]({figures['sweep']})",
        "## What it does elsewhere",
        _elsewhere(trial.side_effects),
        "Losses are nats a token, over the prompts' own tokens; perplexity is their exponential.",
        "## The neurons",
        f"![Neurons by layer]({figures['layers']})",
        "The figure shows all candidates, the table those that were reweighted, best first.",
        _neurons(trial, tokens),
        "## Settings",
        settings_table(settings),
    ]
    return "\n\n".join(parts) + "\n"


def count(h: int) -> str:
    """So many neurons, in words."""
    return f"{h} neuron" + ("" if h == 1 else "s")


def tidy(trial: Trial) -> pd.DataFrame:
    """Every measured number of the held-out conflicts: one row a place, with its interval.

    Columns: `what` (edited, control or a way of decoding), `seed` of a control, `beta`, `measure`,
    `value`, `low`, `high`, `n`.
    """
    groups = questions(trial.tasks[1])
    rows = []
    for beta in trial.held_out.axes["beta"]:
        for measure in MEASURES:
            values = trial.held_out.select(beta=beta, measure=measure).values
            rows.append(_row("edited", "", beta, measure, values, groups))
        for seed in trial.control.axes["seed"]:
            values = trial.control.select(beta=beta, seed=seed).values
            rows.append(_row("control", seed, beta, FOLLOWS, values, groups))
    chosen = {ORIGINAL: "1", DECODED: "1", EDITED: label(trial.beta), BOTH: label(trial.beta)}
    for way, beta in chosen.items():
        for measure in MEASURES:
            values = trial.decodings.select(decoding=way, measure=measure).values
            rows.append(_row(way, "", beta, measure, values, groups))
    return pd.DataFrame(rows)


def _row(
    what: str,
    seed: str,
    beta: str,
    measure: str,
    values: Float[Tensor, " example"],
    groups: Int[np.ndarray, " example"],
) -> dict[str, object]:
    found = estimate(values, groups)
    named = {"what": what, "seed": seed, "beta": float(beta), "measure": measure}
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return {**named, **numbers, "n": int((~values.isnan()).sum())}


def _decodings(trial: Trial) -> str:
    groups = questions(trial.tasks[1])
    rows = []
    for way, words in _WAYS.items():
        of = trial.decodings.select(decoding=way)
        found = [estimate(of.select(measure=m).values, groups) for m in MEASURES]
        rows.append((words, *map(_rate, found)))
    follows = trial.decodings.select(measure=FOLLOWS)
    gains = {
        "gain over the original": trial.gain,
        "gain over random neurons": trial.gain_over_control,
        "gain of both over CAD alone": follows.select(decoding=BOTH).values
        - follows.select(decoding=DECODED).values,
    }
    for words, values in gains.items():
        rows.append((words, _signed(estimate(values, groups)), "", ""))
    return table(("", FOLLOWS, STUBBORN, PREFERS), rows)


def _betas(trial: Trial) -> str:
    groups = questions(trial.tasks[1])
    control = trial.control.mean
    rows = []
    for i, beta in enumerate(trial.held_out.axes["beta"]):
        of = trial.held_out.select(beta=beta)
        follows, stubborn = (
            _rate(estimate(of.select(measure=m).values, groups)) for m in (FOLLOWS, STUBBORN)
        )
        change = _signed(estimate(trial.change(beta), groups))
        drawn = control[:, i]
        span = f"{drawn.mean():.1%} [{drawn.min():.1%}, {drawn.max():.1%}]"
        rows.append(
            (f"**{beta}**" if beta == label(trial.beta) else beta, follows, change, span, stubborn)
        )
    n_seeds = len(trial.control.axes["seed"])
    control_head = f"random neurons: mean [range] of {n_seeds}"
    head = ("beta", f"these neurons: {FOLLOWS}", "change from beta 1", control_head, STUBBORN)
    return table(head, rows)


def _elsewhere(effects: tuple[SideEffect, ...]) -> str:
    return table(
        ("prompts", "quantity", "before", "after", "difference"), list(_effect_rows(effects))
    )


def _effect_rows(effects: tuple[SideEffect, ...]) -> Iterator[tuple[str, str, str, str, str]]:
    for effect in effects:
        difference = estimate(effect.after - effect.before)
        if effect.quantity == "accuracy":
            before, after = (f"{v.mean():.1%}" for v in (effect.before, effect.after))
            yield in_markdown(effect.name), "accuracy", before, after, _signed(difference)
            continue
        weights = effect.weights / effect.weights.sum()
        before, after = (
            f"{float((v * weights).sum().exp()):.2f}" for v in (effect.before, effect.after)
        )
        number = f"{difference.value:+.3f} nats [{difference.low:+.3f}, {difference.high:+.3f}]"
        yield in_markdown(effect.name), "perplexity", before, after, number


def _neurons(trial: Trial, tokens: Mapping[str, str]) -> str:
    scores = trial.neurons.scores
    rows = [
        (
            str(i),
            f"`{name_of(place)}`",
            f"{scores[place]:.4g}" if place in scores else "",
            in_markdown(tokens.get(name_of(place), "")),
        )
        for i, place in enumerate(trial.neurons, 1)
    ]
    return table(("", "neuron", "chosen by examples", "promotes the tokens"), rows)


def _rate(found: Estimate) -> str:
    if np.isnan(found.value):
        return "-"
    return f"{found.value:.1%}" + (
        "" if np.isnan(found.low) else f" [{found.low:.1%}, {found.high:.1%}]"
    )


def _signed(found: Estimate) -> str:
    """A difference of rates, in percentage points."""
    return f"{100 * found.value:+.1f} points" + (
        "" if np.isnan(found.low) else f" [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    )
