"""Interpretability of a user's own networks."""
