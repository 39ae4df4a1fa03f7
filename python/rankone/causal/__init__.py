"""Causal inference: effects, invariance, extrapolation."""
