"""Statistics: survival, compositions, adaptive analysis, random matrices, diffusion, cricket."""

from rankone.stats.compositional import CompositionalPartialCorrelation
from rankone.stats.survival import APGWRegressor

__all__ = ["APGWRegressor", "CompositionalPartialCorrelation"]
