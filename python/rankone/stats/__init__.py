"""Statistics: survival, compositions, adaptive analysis, random matrices, diffusion, cricket."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("joblib", "pandas", "scipy", "sklearn", extra="stats")

from rankone.stats.batting import BatterImpactRegressor
from rankone.stats.compositional import CompositionalPartialCorrelation
from rankone.stats.diebold_mariano import diebold_mariano
from rankone.stats.mutual_info import MutualInfoScreener
from rankone.stats.q_gaussian import MultivariateQGaussian
from rankone.stats.survival import APGW, APGWRegressor

_SUBMODULES = (
    "adaptive",
    "batting",
    "compositional",
    "concentration",
    "coulomb",
    "mutual_info",
    "q_gaussian",
    "survival",
)

__all__ = [
    "APGW",
    "APGWRegressor",
    "BatterImpactRegressor",
    "CompositionalPartialCorrelation",
    "MultivariateQGaussian",
    "MutualInfoScreener",
    "diebold_mariano",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
