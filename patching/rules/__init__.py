"""Backward rules: RelP and its relatives as hooks that change gradients and no forward value."""

from patching.rules.parts import (
    attention_rule,
    attention_shares,
    graft,
    half_rule,
    head_norm_rule,
    identity_rule,
    norm_rule,
    scale_gradient,
    softcap_rule,
    softmax_rule,
)
from patching.rules.recipes import (
    RULES,
    attn_lrp,
    gim,
    gim_no_gates,
    ln_rule,
    plain,
    relp,
    relp_ah,
    relp_no_identity,
)
from patching.rules.rule import Applied, Rule, applied
from patching.rules.sites import Part, Site, Unruled, neurons, softmax, stream_norms, two_point_site
