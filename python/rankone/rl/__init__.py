"""Reinforcement learning: bandits and Markov decision processes with linear structure."""

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

__all__ = [
    "AdversarialPolicyOptimizer",
    "DenseDesign",
    "HoeffdingRewardFree",
    "HorizonFreeExplorer",
    "MisspecifiedBandit",
    "SparseElimination",
    "SparseRecovery",
]
