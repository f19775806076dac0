"""The table of methods: what the shell, the documentation and the contract tests share."""

from collections.abc import Callable
from dataclasses import dataclass

from circuits.scores import Scores
from circuits.scoring.named import (
    clean_corrupt,
    eap,
    eap_ig,
    gim,
    ig_activations,
    relp,
    relp_ah,
)


@dataclass(frozen=True)
class Method:
    """A scorer as the shell offers it: F and B are one forward and one backward of a batch.

    What it obeys: `additive`: edges out of a writer sum to its node score; `complete`: the
    embedding's scores approach the clean-corrupt gap as steps grow; `exact_if_linear`: equals
    exact patching on a linear model.
    """

    function: Callable[..., Scores]
    cost: str
    source: str
    takes_steps: bool = False
    takes_ablation: bool = True
    additive: bool = True
    complete: bool = False
    exact_if_linear: bool = True


METHODS: dict[str, Method] = {
    "eap": Method(eap, "2F + 1B", "Syed et al. 2023, arXiv:2310.10348"),
    "eap-ig": Method(
        eap_ig,
        "2F + steps (F + B)",
        "Hanna et al. 2024, arXiv:2403.17806",
        takes_steps=True,
        complete=True,
    ),
    "clean-corrupt": Method(
        clean_corrupt, "2F + 2B", "Hanna et al. 2024, arXiv:2403.17806", takes_ablation=False
    ),
    "ig-activations": Method(
        ig_activations,
        "2F + (2 layers + 1) steps (F + B)",
        "Marks et al. 2024, arXiv:2403.19647",
        takes_steps=True,
        exact_if_linear=False,
    ),
    "relp": Method(relp, "2F + 1B", "Rezaei Jafari et al. 2025, arXiv:2508.21258"),
    "relp-ah": Method(relp_ah, "2F + 1B", "Rezaei Jafari et al. 2025, arXiv:2508.21258"),
    "gim": Method(gim, "2F + 1B", "Edin et al. 2025, arXiv:2505.17630", exact_if_linear=False),
}
