"""The table of methods: what the shell, the documentation and the contract tests share."""

from collections.abc import Callable
from dataclasses import dataclass

from circuits.scores import Scores
from circuits.scoring.adjusted import eap_gp
from circuits.scoring.conductance import conductance
from circuits.scoring.dropping import atp_star, grad_drop
from circuits.scoring.flow import information_flow
from circuits.scoring.laws import Laws
from circuits.scoring.named import (
    clean_corrupt,
    eap,
    eap_ig,
    gim,
    ig_activations,
    relp,
    relp_ah,
)
from circuits.scoring.patterns import qk_fix
from circuits.scoring.second_order import eap_hvp
from circuits.scoring.single_edges import exact


@dataclass(frozen=True)
class Method(Laws):
    """A scorer as the shell offers it, with its laws.

    `cost` is in F and B, one forward and one backward of a batch.
    """

    function: Callable[..., Scores]
    cost: str
    source: str


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
    "eap-gp": Method(
        eap_gp,
        "3F + 2 steps (F + B)",
        "Zhang et al. 2025, arXiv:2502.06852",
        takes_steps=True,
        takes_quadrature=False,
    ),
    "conductance": Method(
        conductance,
        "2F + (steps + 1) (F + B)",
        "Dhamdhere et al. 2018, arXiv:1805.12233",
        takes_steps=True,
        takes_quadrature=False,
        takes_ablation=False,
        complete=True,
    ),
    "eap-hvp": Method(
        eap_hvp,
        "2F + 1B + 8 double B, each reader by itself",
        "Zhang & Wang 2026, arXiv:2606.09899",
        additive=False,
    ),
    "relp": Method(relp, "2F + 1B", "Rezaei Jafari et al. 2025, arXiv:2508.21258"),
    "relp-ah": Method(relp_ah, "2F + 1B", "Rezaei Jafari et al. 2025, arXiv:2508.21258"),
    "gim": Method(gim, "2F + 1B", "Edin et al. 2025, arXiv:2505.17630", exact_if_linear=False),
    "qk-fix": Method(
        qk_fix, "2F + 1B + patterns anew", "Kramár et al. 2024, arXiv:2403.00745", additive=False
    ),
    "grad-drop": Method(
        grad_drop,
        "layers (2F + 1B)",
        "Kramár et al. 2024, arXiv:2403.00745",
        takes_ablation=False,
        n_layers=2,
        additive=False,
        exact_if_linear=False,
        by_prompt=False,
    ),
    "atp-star": Method(
        atp_star,
        "layers (2F + 1B + patterns anew)",
        "Kramár et al. 2024, arXiv:2403.00745",
        n_layers=2,
        additive=False,
        exact_if_linear=False,
        by_prompt=False,
    ),
    "information-flow": Method(
        information_flow,
        "1F",
        "Ferrando & Voita 2024, arXiv:2403.00824",
        takes_ablation=False,
        by_gradient=False,
        paired=False,
        additive=False,
        exact_if_linear=False,
    ),
    "exact": Method(
        exact,
        "2F + about 0.35 F an edge",
        "Zhang & Nanda 2024, arXiv:2309.16042",
        by_gradient=False,
        additive=False,
    ),
}
