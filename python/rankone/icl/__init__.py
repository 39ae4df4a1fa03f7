"""Theory of in-context learning: linear self-attention, exact learning by kernel ensembles."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("joblib", "scipy", "sklearn", extra="stats")

from rankone.icl.linear_models import (
    ConstructedRidge,
    ConstructedSGD,
    InContextTransformer,
    LinearTasks,
    algorithm_profile,
    bayes_alpha,
    gelu_product,
    ilwd,
    implicit_weights,
    layernorm_reciprocal,
    make_linear_tasks,
    prefix_predictions,
    prefix_weights,
    probe_hidden_states,
    spd,
    train_in_context,
)
from rankone.icl.linear_self_attention import (
    ICLTasks,
    LinearSelfAttention,
    OneStepGDRegressor,
    TrainingHistory,
    empirical_step_size,
    make_regression_tasks,
    one_step_gd,
    optimal_preconditioner,
    optimal_step_size,
    population_loss,
    single_index_step_size,
    train_lsa,
)
from rankone.icl.permutation_learning import (
    ExactPermutationLearner,
    binary_inputs,
    ensemble_complexity,
    make_permutation_task,
    ntk_coefficients,
    posterior,
    two_layer_kernels,
)

_SUBMODULES = ("linear_models", "linear_self_attention", "permutation_learning")

__all__ = [
    "ConstructedRidge",
    "ConstructedSGD",
    "ExactPermutationLearner",
    "ICLTasks",
    "InContextTransformer",
    "LinearSelfAttention",
    "LinearTasks",
    "OneStepGDRegressor",
    "TrainingHistory",
    "algorithm_profile",
    "bayes_alpha",
    "binary_inputs",
    "empirical_step_size",
    "ensemble_complexity",
    "gelu_product",
    "ilwd",
    "implicit_weights",
    "layernorm_reciprocal",
    "make_linear_tasks",
    "make_permutation_task",
    "make_regression_tasks",
    "ntk_coefficients",
    "one_step_gd",
    "optimal_preconditioner",
    "optimal_step_size",
    "population_loss",
    "posterior",
    "prefix_predictions",
    "prefix_weights",
    "probe_hidden_states",
    "single_index_step_size",
    "spd",
    "train_in_context",
    "train_lsa",
    "two_layer_kernels",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
