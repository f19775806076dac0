"""What is a value in Python and a name in the shell: text in its place is refused in words."""

IN_PYTHON = {
    "metric": "a function of patching.metrics, such as logit_diff,",
    "rule": "one of patching.rules, such as relp,",
    "path": "one of circuits.scoring, such as along_inputs(5),",
    "ablation": "one of patching.ablations, such as zero or mean(task),",
}
"""What stands for what the shell calls by a name."""


def refuse_names(**given: object) -> None:
    """Refuse names of the shell where Python asks for what they stand for.

    Raises:
        ValueError: saying what was given, and what would be right.
    """
    for what, value in given.items():
        if isinstance(value, str):
            raise ValueError(
                f"{what}={value!r} is a name of the shell; in Python {IN_PYTHON[what]} is right"
            )
