"""Runs of batches: cut to fit, repeated from a finished one, patched at many places."""
