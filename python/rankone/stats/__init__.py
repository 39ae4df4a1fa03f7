"""Statistics: survival, compositions, adaptive analysis, random matrices, diffusion, cricket."""

from rankone.stats.compositional import CompositionalPartialCorrelation

__all__ = ["CompositionalPartialCorrelation"]
