"""Control: estimation and detection for plants with a sensor that can be spoofed."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("joblib", "scipy", "sklearn", "statsmodels", extra="stats")

from rankone.control.attack_detection import (
    AttackDetector,
    FixedGainObserver,
    KalmanObserver,
    LinearQuadraticSystem,
    OnlineAttackDetector,
    PursuitEvasionGame,
    QuadraticObserver,
    wild_bootstrap_mmd,
)

_SUBMODULES = ("attack_detection",)

__all__ = [
    "AttackDetector",
    "FixedGainObserver",
    "KalmanObserver",
    "LinearQuadraticSystem",
    "OnlineAttackDetector",
    "PursuitEvasionGame",
    "QuadraticObserver",
    "wild_bootstrap_mmd",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
