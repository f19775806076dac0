"""How a family is read: its blocks, norms, named places, and the proof that they fit."""
