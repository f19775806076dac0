"""One model and its activations: nodes, tasks, metrics, hooks, gradients.

Names are imported when first used: most modules here need no model library, and it is slow to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patching.activation import activation_patching as activation_patching
    from patching.activation import as_share as as_share
    from patching.activation import neuron_patching as neuron_patching
    from patching.activation import span_patching as span_patching
    from patching.attention import compress as compress
    from patching.attention import copying_scores as copying_scores
    from patching.attention import head_scores as head_scores
    from patching.attention import ov_circuit as ov_circuit
    from patching.attention import patterns as patterns
    from patching.attention import qk_circuit as qk_circuit
    from patching.attention import repeated_tokens as repeated_tokens
    from patching.attribution import atp_star as atp_star
    from patching.attribution import attribution_patching as attribution_patching
    from patching.comparing import agreement_table as agreement_table
    from patching.comparing import compare as compare
    from patching.decoding import continue_greedily as continue_greedily
    from patching.decoding import contrast as contrast
    from patching.directions import steering as steering
    from patching.directions import steering_vectors as steering_vectors
    from patching.graph import Graph as Graph
    from patching.intervene import intervening as intervening
    from patching.lens import direct_logit_attribution as direct_logit_attribution
    from patching.lens import load_tuned_lens as load_tuned_lens
    from patching.lens import logit_lens as logit_lens
    from patching.lens import plot_contributions as plot_contributions
    from patching.lens import semantic_flow as semantic_flow
    from patching.lens import train_tuned_lens as train_tuned_lens
    from patching.metrics import accuracy as accuracy
    from patching.metrics import kl as kl
    from patching.metrics import logit_diff as logit_diff
    from patching.metrics import prob_diff as prob_diff
    from patching.model import Model as Model
    from patching.tasks import Prompt as Prompt
    from patching.tasks import Task as Task
    from patching.token_attribution import agreement as agreement
    from patching.token_attribution import attribute_tokens as attribute_tokens
    from patching.token_attribution import draw_tokens as draw_tokens
    from patching.tracing import causal_tracing as causal_tracing
    from patching.tracr import load_tracr as load_tracr
    from patching.views import attention_view as attention_view
    from patching.views import lens_view as lens_view
    from patching.work import Run as Run

_HOMES = {
    "patching.activation": ("activation_patching", "as_share", "neuron_patching", "span_patching"),
    "patching.attention": (
        "compress",
        "copying_scores",
        "head_scores",
        "ov_circuit",
        "patterns",
        "qk_circuit",
        "repeated_tokens",
    ),
    "patching.attribution": ("atp_star", "attribution_patching"),
    "patching.comparing": ("agreement_table", "compare"),
    "patching.decoding": ("continue_greedily", "contrast"),
    "patching.directions": ("steering", "steering_vectors"),
    "patching.graph": ("Graph",),
    "patching.intervene": ("intervening",),
    "patching.lens": (
        "direct_logit_attribution",
        "load_tuned_lens",
        "logit_lens",
        "plot_contributions",
        "semantic_flow",
        "train_tuned_lens",
    ),
    "patching.metrics": ("accuracy", "kl", "logit_diff", "prob_diff"),
    "patching.model": ("Model",),
    "patching.tasks": ("Prompt", "Task"),
    "patching.token_attribution": ("agreement", "attribute_tokens", "draw_tokens"),
    "patching.tracing": ("causal_tracing",),
    "patching.tracr": ("load_tracr",),
    "patching.views": ("attention_view", "lens_view"),
    "patching.work": ("Run",),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for names in _HOMES.values() for name in names)})
