"""What a scorer says of itself: what it needs, and which laws its scores obey."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Laws:
    """Every scorer obeys what `circuits.checks.check_scorer` asks of all; these are its own.

    What it takes: `takes_steps`: a number of steps, as `steps=`, and where they lie, as
    `quadrature=`, unless `takes_quadrature` is off; `takes_ablation`: what replaces
    removed writers, as `ablation=`. What it needs: `by_gradient`: a metric with a slope; `paired`:
    pairs that differ, and a metric; `n_layers`: at least so many layers. What it obeys: `additive`:
    edges out of a writer sum to its node score; `complete`: the embedding's scores approach the
    clean-corrupt gap as steps grow; `exact_if_linear`: equals exact patching on a linear model;
    `by_prompt`: the mean of what each prompt scores alone (not GradDrop, which takes absolute
    values of means).
    """

    takes_steps: bool = False
    takes_quadrature: bool = True
    takes_ablation: bool = True
    by_gradient: bool = True
    paired: bool = True
    n_layers: int = 1
    additive: bool = True
    complete: bool = False
    exact_if_linear: bool = True
    by_prompt: bool = True
