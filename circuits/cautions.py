"""What to be told of scores that do not add up to the metric's gap; knows no scores."""

DOUBTFUL = 1.0
"""The share of the gap that sums of scores may be off before it is said: zeros are off by 1."""

DOUBTFUL_SIGNS = 0.75
"""The share from which it is said that edges are chosen by sign: from .9 on, half of them kept .05
to 1.7 of the gap where choosing by absolute value kept .95 to 1 (docs/how-to/find.md)."""


def of_sums(error: float | None, total: float, gap: float) -> str | None:
    """That scores may be wrong, where their sum is off by more than `DOUBTFUL` of the gap."""
    if (error or 0.0) <= DOUBTFUL:
        return None
    return (
        f"{_sums(total, gap)}: they may be of the wrong size, or sign. Integrate (eap-ig), rank by "
        "absolute value, and hold a sample against exact patching (verify)"
    )


def of_signs(error: float | None, total: float, gap: float) -> str | None:
    """That signs may be wrong, where the sum is off by more than `DOUBTFUL_SIGNS` of the gap."""
    if (error or 0.0) <= DOUBTFUL_SIGNS:
        return None
    return (
        f"{_sums(total, gap)}: edges that help may have scores below 0, so that a choice by sign "
        "leaves them out. Rank by absolute value, or integrate (eap-ig)"
    )


def _sums(total: float, gap: float) -> str:
    return (
        f"the scores of all edges out of the embedding add up to {total:+.3g}, where the metric's "
        f"gap is {gap:+.3g}"
    )
