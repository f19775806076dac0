"""The doctor: is this model, and this task for it, fit for finding circuits?

`examine` measures and says for each check what the number means and what to do. Rows of a task are
named by their number, from 0. Nothing is changed in the model.
"""

from circuits.doctor.examine import examine
from circuits.doctor.finding import EXIT_CODES, Finding, Report, Skipped
from circuits.doctor.rows import Fault, Reading, read_rows
from circuits.doctor.telling import summary

__all__ = [
    "EXIT_CODES",
    "Fault",
    "Finding",
    "Reading",
    "Report",
    "Skipped",
    "examine",
    "read_rows",
    "summary",
]
