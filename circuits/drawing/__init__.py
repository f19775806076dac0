"""Circuits drawn: coordinates, pictures and figures. Knows no model."""
