"""Which learning algorithm an in-context learner runs on linear models.

Three things in one place: the algorithms a learner may be running, evaluated at every prefix of a
prompt, and the distances to them; a small transformer trained on linear tasks, with the comparison
and the probes that say what it computes; and transformers with constructed weights that run SGD and
ridge regression exactly.

Source: "What learning algorithm is in-context learning? Investigations with linear models" (arXiv
2211.15661). The docstrings say what is the paper's and what was worked out for rankone.
"""

from rankone._namespace import public_names
from rankone.icl._constructed_transformers import (
    ConstructedRidge,
    ConstructedSGD,
    gelu_product,
    layernorm_reciprocal,
)
from rankone.icl._in_context_transformer import (
    InContextTransformer,
    TrainingHistory,
    train_in_context,
)
from rankone.icl._learner_profile import algorithm_profile, probe_hidden_states
from rankone.icl._reference_predictors import (
    LinearTasks,
    bayes_alpha,
    ilwd,
    implicit_weights,
    make_linear_tasks,
    prefix_predictions,
    prefix_weights,
    spd,
)

__all__ = [
    "ConstructedRidge",
    "ConstructedSGD",
    "InContextTransformer",
    "LinearTasks",
    "TrainingHistory",
    "algorithm_profile",
    "bayes_alpha",
    "gelu_product",
    "ilwd",
    "implicit_weights",
    "layernorm_reciprocal",
    "make_linear_tasks",
    "prefix_predictions",
    "prefix_weights",
    "probe_hidden_states",
    "spd",
    "train_in_context",
]


def __dir__() -> list[str]:
    return public_names(globals())
