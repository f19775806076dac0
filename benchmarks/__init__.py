"""Speed and memory, as ratios to the plain model's own passes in the same run."""
