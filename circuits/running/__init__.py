"""Circuits run: which edges are ablated, on which prompts, many circuits side by side."""
