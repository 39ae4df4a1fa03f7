"""Imaging: hyperspectral super-resolution."""
