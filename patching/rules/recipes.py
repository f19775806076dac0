"""The rules by name: which parts make up RelP, AttnLRP, GIM and their variants.

LRP is patented technology according to its authors' code (see `patching.rules.parts`), free for
personal and scientific use; RelP and GIM were published under Apache-2.0 and MIT.
"""

from patching.rules.parts import (
    attention_rule,
    attention_shares,
    half_rule,
    head_norm_rule,
    identity_rule,
    norm_rule,
    softcap_rule,
    softmax_rule,
)
from patching.rules.rule import Rule

_NORMS = (norm_rule, head_norm_rule)
_MLPS = (half_rule, identity_rule)

plain = Rule("plain", (), freezes_norms=False)
"""The gradient as it is."""

ln_rule = Rule("ln", _NORMS, freezes_norms=True)
"""The LN rule alone."""

relp = Rule("relp", (*_NORMS, *_MLPS, softcap_rule), freezes_norms=True)
"""Relevance patching as described: LN, identity and half rules; the softmax keeps its gradient.

The identity rule on Gemma 2's capped logits is ours, so that relevance is conserved there too.
Source: Rezaei Jafari et al. 2025, arXiv:2508.21258.
"""

relp_ah = Rule("relp-ah", (*relp.parts, attention_rule), freezes_norms=True)
"""RelP with the AH rule, which its authors list and leave off.

Without biases it conserves relevance: `sum(x * gradient)` at the embedding is the metric, if that
is linear in the logits.
"""

relp_no_identity = Rule("relp-no-identity", (*_NORMS, half_rule), freezes_norms=True)
"""RelP as its released recipe runs.

The recipe switches the rules on after the model is made, when the activations have been chosen:
FarnoushRJ/RelP aa0e228 never applies the identity rule so. Figures in the paper may be either.
"""

attn_lrp = Rule("attn-lrp", (*relp.parts, attention_shares), freezes_norms=True)
"""AttnLRP in its gradient form: RelP's rules, and the shares of attention's bilinear products.

Source: Achtibat et al. 2024, arXiv:2402.05602; rachtibat/LRP-eXplains-Transformers (efficient).
"""

gim_no_gates = Rule(
    "gim-no-gates", (*_NORMS, softmax_rule(2.0), attention_shares), freezes_norms=True
)
"""GIM as in its releases up to 0.1.4, which leave gated MLPs alone."""

gim = Rule("gim", (*gim_no_gates.parts, half_rule), freezes_norms=True)
"""Gradient interaction modifications: a softmax at temperature 2 backward, and shares of products.

Refused where attention is Hugging Face's own (OPT, GPT-J, GPT-Neo), as no hook reaches its softmax.
Source: Edin et al. 2025, arXiv:2505.17630; corticph/gim 7e31c65.
"""

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (plain, ln_rule, relp, relp_ah, relp_no_identity, attn_lrp, gim, gim_no_gates)
}
