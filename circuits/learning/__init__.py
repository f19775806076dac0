"""Learning circuits: masks of edges or nodes, and constants, by gradient descent.

Every method is a function `(model, task, metric, *, size, ...) -> Learned`: scores that nest like
any others, the circuit of the size asked for, and the history of the loss.
"""

from circuits.learning.constants import optimal_outside
from circuits.learning.edges import PRUNING, edge_pruning
from circuits.learning.learned import Learned, connected
from circuits.learning.nodes import PROBING, subnetwork_probing
from circuits.learning.uniform import SAMPLING, uniform_sampling
from circuits.running.masked import run_ends, run_masked
from patching.paths import Ends

__all__ = [
    "PROBING",
    "PRUNING",
    "SAMPLING",
    "Ends",
    "Learned",
    "connected",
    "edge_pruning",
    "optimal_outside",
    "run_ends",
    "run_masked",
    "subnetwork_probing",
    "uniform_sampling",
]
