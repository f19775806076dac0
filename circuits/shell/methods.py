"""The command `methods`: what edges can be scored by. Heavy imports when needed."""

from argparse import Namespace

from circuits.shell.method_inputs import ABLATIONS, AUTO
from circuits.shell.printing import print_columns


def methods(args: Namespace) -> None:
    """Print the scoring methods."""
    from circuits.scoring import METHODS, PATHS, QUADRATURES
    from patching.rules import RULES

    rows = [(name, method.cost, method.source) for name, method in METHODS.items()]
    cost = "three of these along inputs, and some 30 circuits"
    rows.append((AUTO, cost, "chosen by evidence: circuits on prompts of the search"))
    print_columns(("method", "cost", "source"), rows)
    print(f"\nrules (--rule):             {', '.join(RULES)}")
    print(f"paths (--path):             {', '.join(PATHS)}")
    print(f"quadratures (--quadrature): {', '.join(QUADRATURES)}")
    print(f"ablations (--ablation):     {', '.join(ABLATIONS)}")
