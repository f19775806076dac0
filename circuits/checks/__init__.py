"""The contracts of what can be added: one function for each kind, to try your own with.

`check_scorer`, `check_selector`, `check_exporter`, `check_metric` and `check_task` raise an
AssertionError that names the law that is broken, with the numbers; `check_scorer` names all that
are. Our own tests call them.
"""

from circuits.checks.exporters import check_exporter
from circuits.checks.metrics import check_metric
from circuits.checks.scorers import check_scorer
from circuits.checks.selectors import check_selector
from circuits.checks.tasks import check_task
from circuits.scoring.laws import Laws

__all__ = [
    "Laws",
    "check_exporter",
    "check_metric",
    "check_scorer",
    "check_selector",
    "check_task",
]
