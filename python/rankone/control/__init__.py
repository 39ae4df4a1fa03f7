"""Control: estimation and detection for plants with a sensor that can be spoofed."""

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
