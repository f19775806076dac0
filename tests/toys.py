"""The model of `circuits.checks.linear`, whose every score is a whole number known from paper."""

from circuits.checks.linear import CLEAN as CLEAN
from circuits.checks.linear import CORRUPT as CORRUPT
from circuits.checks.linear import SCORES as SCORES
from circuits.checks.linear import STOP as STOP
from circuits.checks.linear import A as A
from circuits.checks.linear import B as B
from circuits.checks.linear import linear_model as linear_model
from circuits.checks.linear import linear_task
from circuits.checks.linear import row as row

task = linear_task
