"""One model and its activations: nodes, tasks, metrics, hooks, gradients."""

from patching.graph import Graph, Node

__all__ = ["Graph", "Node"]
