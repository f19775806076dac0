"""Where papers appeared, by the key they are cited by."""

from collections.abc import Mapping

VENUES: Mapping[str, tuple[str, int]] = {
    "hanna2024faith": ("Conference on Language Modeling", 2024),
    "marks2024sparse": ("International Conference on Learning Representations", 2025),
    "ferrando2024information": (
        "Conference on Empirical Methods in Natural Language Processing",
        2024,
    ),
    "zhang2024practices": ("International Conference on Learning Representations", 2024),
    "ali2022xai": ("International Conference on Machine Learning", 2022),
    "achtibat2024attnlrp": ("International Conference on Machine Learning", 2024),
    "miller2024transformer": ("Conference on Language Modeling", 2024),
    "wang2022interpretability": ("International Conference on Learning Representations", 2023),
    "hanna2023greater": ("Advances in Neural Information Processing Systems", 2023),
    "dhamdhere2018important": ("International Conference on Learning Representations", 2019),
    "vig2020causal": ("Advances in Neural Information Processing Systems", 2020),
    "todd2023function": ("International Conference on Learning Representations", 2024),
    "stolfo2023mechanistic": (
        "Conference on Empirical Methods in Natural Language Processing",
        2023,
    ),
}
"""Proceedings that papers appeared in, and when; the others are where `source` says."""
