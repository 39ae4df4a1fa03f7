"""Reinforcement learning: bandits and Markov decision processes with linear structure."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("gymnasium", "joblib", "scipy", "sklearn", extra="rl")

from rankone.rl.adversarial_mdp import AdversarialPolicyOptimizer
from rankone.rl.misspecified_bandit import (
    DenseDesign,
    MisspecifiedBandit,
    SparseElimination,
    SparseRecovery,
)
from rankone.rl.reward_free import HoeffdingRewardFree, HorizonFreeExplorer

_SUBMODULES = ("adversarial_mdp", "envs", "misspecified_bandit", "planning", "reward_free")

__all__ = [
    "AdversarialPolicyOptimizer",
    "DenseDesign",
    "HoeffdingRewardFree",
    "HorizonFreeExplorer",
    "MisspecifiedBandit",
    "SparseElimination",
    "SparseRecovery",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
