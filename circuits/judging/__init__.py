"""Circuits judged: how faithful, complete, small and stable they are, and how sure that is."""
