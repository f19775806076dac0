"""The engine of exact sweeps: patches of one batch, run many at a time."""
