"""Interpretability: bases, linear readings and abstractions of trained networks."""

from types import ModuleType

from rankone._namespace import public_names, submodule
from rankone._optional import require_installed

require_installed("joblib", "networkx", "pandas", "scipy", "sklearn", extra="interpret")

from rankone.interpret.causal_abstraction import (
    CausalModel,
    DistributedAlignmentSearch,
    EqualityMLP,
    HookSite,
    IdentityAlignment,
    Interventions,
    LinearAlignment,
    LookupAlignment,
    RevNetAlignment,
    SplitSite,
    WhitenedAlignment,
    alignment_ladder,
    distributive_law,
    hierarchical_equality,
    interchange,
    interchange_intervention_accuracy,
    sample_interventions,
    untrained_copy,
)
from rankone.interpret.interaction_basis import (
    InteractionBasis,
    LayerBasis,
    LayerDegeneracy,
    ModularityResult,
    activation_gram,
    effective_parameter_count,
    interaction_modularity,
    jacobian_gram,
    module_sections,
    parameter_degeneracy,
    plot_interaction_graph,
    synchronized_groups,
)
from rankone.interpret.linear_interpreter import (
    LinearInterpreter,
    LinearScope,
    NonlinearModelError,
    localisation,
    residual_share,
)
from rankone.interpret.mode_connectivity import (
    PathProfile,
    PermutationSpec,
    RidgeReport,
    activation_matching,
    apply_permutation,
    curvature_barrier,
    directional_derivatives,
    layerwise_barriers,
    linear_path,
    mountainside_ridge,
    parameter_groups,
    parameters_of,
    plot_path,
    predict_layerwise_barriers,
    sequential_permutation_spec,
    spawn_experiment,
    weight_matching,
)
from rankone.interpret.subpopulation import (
    MoonShapeAnalysis,
    default_model_zoo,
    gaussian_frontier,
    gaussian_optimal_angle,
    gaussian_subpopulation_accuracy,
    mixture_accuracy,
    overall_accuracy,
    spurious_digits,
    spurious_mixture,
    subpopulation_accuracies,
)

_SUBMODULES = (
    "causal_abstraction",
    "interaction_basis",
    "linear_interpreter",
    "mode_connectivity",
    "subpopulation",
)

__all__ = [
    "CausalModel",
    "DistributedAlignmentSearch",
    "EqualityMLP",
    "HookSite",
    "IdentityAlignment",
    "InteractionBasis",
    "Interventions",
    "LayerBasis",
    "LayerDegeneracy",
    "LinearAlignment",
    "LinearInterpreter",
    "LinearScope",
    "LookupAlignment",
    "ModularityResult",
    "MoonShapeAnalysis",
    "NonlinearModelError",
    "PathProfile",
    "PermutationSpec",
    "RevNetAlignment",
    "RidgeReport",
    "SplitSite",
    "WhitenedAlignment",
    "activation_gram",
    "activation_matching",
    "alignment_ladder",
    "apply_permutation",
    "curvature_barrier",
    "default_model_zoo",
    "directional_derivatives",
    "distributive_law",
    "effective_parameter_count",
    "gaussian_frontier",
    "gaussian_optimal_angle",
    "gaussian_subpopulation_accuracy",
    "hierarchical_equality",
    "interaction_modularity",
    "interchange",
    "interchange_intervention_accuracy",
    "jacobian_gram",
    "layerwise_barriers",
    "linear_path",
    "localisation",
    "mixture_accuracy",
    "module_sections",
    "mountainside_ridge",
    "overall_accuracy",
    "parameter_degeneracy",
    "parameter_groups",
    "parameters_of",
    "plot_interaction_graph",
    "plot_path",
    "predict_layerwise_barriers",
    "residual_share",
    "sample_interventions",
    "sequential_permutation_spec",
    "spawn_experiment",
    "spurious_digits",
    "spurious_mixture",
    "subpopulation_accuracies",
    "synchronized_groups",
    "untrained_copy",
    "weight_matching",
]


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name, _SUBMODULES)


def __dir__() -> list[str]:
    return public_names(globals())
