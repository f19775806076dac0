"""Words for what the shell calls by short names: methods, selectors, ablations."""

METHOD_NAMES = {
    "eap": "edge attribution patching (EAP)",
    "eap-ig": "edge attribution patching with integrated gradients (EAP-IG)",
    "clean-corrupt": "edge attribution patching at both the clean and the corrupt run",
    "ig-activations": "edge attribution patching with integrated gradients over activations",
    "eap-gp": "edge attribution patching along an adjusted path (EAP-GP)",
    "conductance": "conductance along the path of EAP-IG",
    "eap-hvp": "edge attribution patching with a second-order correction",
    "relp": "relevance patching (RelP)",
    "relp-ah": "relevance patching (RelP) with fixed attention patterns",
    "gim": "gradient interaction modifications (GIM)",
    "qk-fix": "attribution patching with recomputed attention patterns (AtP* without GradDrop)",
    "grad-drop": "attribution patching with GradDrop",
    "atp-star": "AtP*",
    "information-flow": "information-flow routes",
    "exact": "exact activation patching of single edges",
}

_ABLATIONS = {
    "resample": "the paired corrupt prompt writes in its place (resample ablation)",
    "zero": "nothing writes in its place (zero ablation)",
}


def ablated(ablation: str) -> str:
    """How edges outside a circuit were taken out, as the end of a sentence.

    >>> ablated("zero")
    'so that nothing writes in its place (zero ablation)'
    """
    said = _ABLATIONS.get(ablation.partition(" (")[0])
    return f"by {ablation}" if said is None else f"so that {said}"


def chosen(selector: str, n: int, ranking: str) -> str:
    """How the edges were chosen, as a sentence without its full stop.

    >>> chosen("top-n", 20, "absolute")
    'We kept the 20 edges of the largest absolute score'
    """
    if selector == "top-n":
        return f"We kept the {n:,} edges of the largest {ranking} score"
    if selector == "greedy":
        return f"We grew a circuit of {n:,} edges from the logits by {ranking} score, best first"
    return f"We kept {n:,} edges by {ranking} score ({selector})"
