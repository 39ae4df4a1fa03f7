"""Every method of the library: what it is, where it comes from, and how to call it.

One entry a method. The README's table, `rankone methods` and the registry of reproductions are
read from here; importing this module imports nothing else of the package.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "TABLE_BEGIN",
    "TABLE_END",
    "Method",
    "Paper",
    "catalog_table",
    "method",
    "methods",
    "resolve",
    "update_readme",
    "updated_readme",
]

TABLE_BEGIN = "<!-- catalogue: written by `rankone methods --markdown`, do not edit -->"
TABLE_END = "<!-- end of catalogue -->"


@dataclass(frozen=True)
class Paper:
    """Where a method was published.

    Attributes:
        title: as the paper has it.
        arxiv: its arXiv identifier, such as ``"2401.04658"``; None where unknown.
    """

    title: str
    arxiv: str | None = None

    @property
    def url(self) -> str | None:
        """Its address on arXiv, or None."""
        return None if self.arxiv is None else f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def reference(self) -> str:
        """Title and identifier, to cite it by."""
        return self.title if self.arxiv is None else f"{self.title}, arXiv {self.arxiv}"

    @property
    def link(self) -> str:
        """The title in Markdown, as a link where there is an address."""
        return self.title if self.url is None else f"[{self.title}]({self.url})"


@dataclass(frozen=True)
class Method:
    """One published method.

    Attributes:
        slug: its name in commands and file names, such as ``"lightning-attention-2"``.
        title: what it computes, in a few words.
        paper: where it was published.
        field: the field of its users.
        entry_points: dotted names to import, most important first.
        family: the kernel family it runs on, or None.
        extra: the optional dependencies it needs (``pip install 'rankone[extra]'``), or None.
    """

    slug: str
    title: str
    paper: Paper
    field: str
    entry_points: tuple[str, ...]
    family: str | None = None
    extra: str | None = None

    @property
    def module(self) -> str:
        """The dotted name of the method's reproduction."""
        return "rankone.reproduce." + self.slug.replace("-", "_")


_METHODS = (
    Method(
        slug="lightning-attention-2",
        title="Tiled causal linear attention with decay",
        paper=Paper(
            "Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in "
            "Large Language Models",
            "2401.04658",
        ),
        field="sequence models",
        entry_points=(
            "rankone.ops.linear_attention",
            "rankone.ops.linear_attention_step",
            "rankone.ops.decay_slopes",
            "rankone.nn.LightningAttention",
        ),
        family="linear_attention",
    ),
    Method(
        slug="deltanet",
        title="Chunked delta rule, with scalar and channel gates",
        paper=Paper(
            "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
            "2406.06484",
        ),
        field="sequence models",
        entry_points=(
            "rankone.ops.delta_rule",
            "rankone.ops.delta_rule_step",
            "rankone.ops.causal_conv1d",
            "rankone.nn.DeltaNet",
            "rankone.nn.GatedDeltaNet",
            "rankone.nn.DeltaNetLM",
        ),
        family="delta_rule",
    ),
    Method(
        slug="mixture-of-memories",
        title="Routed linear-time memories",
        paper=Paper("MoM: Linear Sequence Modeling with Mixture-of-Memories", "2502.13685"),
        field="sequence models",
        entry_points=(
            "rankone.nn.MixtureOfMemories",
            "rankone.nn.MixtureOfMemoriesLM",
            "rankone.nn.load_balancing_loss",
            "rankone.ops.route_tokens",
        ),
        family="delta_rule",
    ),
    Method(
        slug="tokenformer",
        title="Transformers of parameter tokens that grow while trained",
        paper=Paper(
            "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
            "2410.23168",
        ),
        field="sequence models",
        entry_points=(
            "rankone.nn.Pattention",
            "rankone.nn.TokenFormer",
            "rankone.nn.functional.pattention",
        ),
    ),
    Method(
        slug="transnormer",
        title="Normalised linear attention over block-diagonal attention",
        paper=Paper("The Devil in Linear Transformer", "2210.10340"),
        field="sequence models",
        entry_points=(
            "rankone.nn.TransNormerLM",
            "rankone.nn.TransNormer",
            "rankone.nn.NormAttention",
            "rankone.nn.DiagAttention",
            "rankone.nn.LRPE",
            "rankone.nn.local_attention_mass",
            "rankone.nn.attention_gradient_bound",
        ),
        family="linear_attention",
    ),
    Method(
        slug="bio-xlstm",
        title="xLSTM sequence models for DNA, proteins and small molecules",
        paper=Paper(
            "Bio-xLSTM: Generative modeling, representation and in-context learning of biological "
            "and chemical sequences",
            "2411.04165",
        ),
        field="sequence models",
        entry_points=(
            "rankone.nn.XLSTMLM",
            "rankone.nn.MLSTMBlock",
            "rankone.nn.SLSTMBlock",
            "rankone.nn.bio.DNATokenizer",
            "rankone.ops.mlstm",
            "rankone.ops.mlstm_step",
            "rankone.ops.slstm",
        ),
        family="linear_attention",
        extra="data",
    ),
    Method(
        slug="hedgehog",
        title="Linear attention with learned feature maps that mimic softmax, and conversion to it",
        paper=Paper(
            "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry",
            "2402.04347",
        ),
        field="sequence models",
        entry_points=(
            "rankone.nn.convert.to_hedgehog",
            "rankone.nn.convert.distill_attention",
            "rankone.nn.HedgehogAttention",
            "rankone.nn.HedgehogFeatureMap",
        ),
        family="linear_attention",
        extra="convert",
    ),
    Method(
        slug="liger",
        title="Pretrained decoders as gated recurrent models, without new parameters",
        paper=Paper(
            "Liger: Linearizing Large Language Models to Gated Recurrent Structures", "2503.01496"
        ),
        field="sequence models",
        entry_points=(
            "rankone.nn.convert.to_liger",
            "rankone.nn.convert.liger_gate",
            "rankone.nn.convert.add_lora",
            "rankone.nn.LigerAttention",
            "rankone.nn.sliding_window_attention",
        ),
        family="linear_attention",
        extra="convert",
    ),
    Method(
        slug="cayley-growth",
        title="Growth, diameters and path finding on Cayley graphs",
        paper=Paper(
            "CayleyPy Growth: Efficient growth computations and hundreds of new conjectures on "
            "Cayley graphs",
            "2509.19162",
        ),
        field="Cayley graphs",
        entry_points=(
            "rankone.cayley.CayleyGraph",
            "rankone.cayley.PermutationGroups",
            "rankone.cayley.prepare_graph",
            "rankone.cayley.train_predictor",
            "rankone.cayley.analysis.fit_quasi_polynomial",
            "rankone.ops.permutation_bfs",
        ),
        family="permutation_bfs",
        extra="cayley",
    ),
    Method(
        slug="chimera",
        title="2D selective state spaces for multivariate time series",
        paper=Paper(
            "Chimera: Effectively Modeling Multivariate Time Series with 2-Dimensional State "
            "Space Models",
            "2406.04320",
        ),
        field="forecasting",
        entry_points=(
            "rankone.ops.selective_scan_2d",
            "rankone.ops.selective_scan_2d_step",
            "rankone.ops.selective_scan",
            "rankone.ops.roesser_kernel",
            "rankone.nn.SelectiveScan2d",
            "rankone.nn.Chimera",
            "rankone.nn.ChimeraBlock",
            "rankone.nn.ClosedLoopDecoder",
            "rankone.nn.VisionChimera2d",
            "rankone.forecast.ChimeraForecaster",
        ),
        family="selective_scan_2d",
        extra="forecast",
    ),
    Method(
        slug="ltsf-linear",
        title="Linear long-horizon forecasters and their protocol",
        paper=Paper("Are Transformers Effective for Time Series Forecasting?", "2205.13504"),
        field="forecasting",
        entry_points=(
            "rankone.forecast.LinearForecaster",
            "rankone.forecast.evaluate_long_horizon",
            "rankone.forecast.RepeatForecaster",
            "rankone.forecast.SeasonalNaiveForecaster",
            "rankone.nn.LinearForecast",
            "rankone.nn.SeriesDecomposition",
        ),
        extra="forecast",
    ),
    Method(
        slug="sp500-lstm",
        title="Price forecasts with ARIMA and LSTM against the naive forecast",
        paper=Paper("Forecasting S&P 500 Using LSTM Models", "2501.17366"),
        field="forecasting",
        entry_points=(
            "rankone.forecast.LSTMForecaster",
            "rankone.forecast.ARIMAForecaster",
            "rankone.forecast.NaiveForecaster",
            "rankone.forecast.walk_forward_evaluate",
            "rankone.forecast.technical_indicators",
            "rankone.stats.diebold_mariano",
        ),
        extra="forecast",
    ),
    Method(
        slug="hyperspectral-sr",
        title="Unregistered hyperspectral super-resolution with a shared Dirichlet encoder",
        paper=Paper(
            "Unsupervised and Unregistered Hyperspectral Image Super-Resolution with Mutual "
            "Dirichlet-Net",
            "1904.12175",
        ),
        field="imaging",
        entry_points=(
            "rankone.imaging.DirichletSpectralFusion",
            "rankone.imaging.LinearSpectralRegression",
            "rankone.imaging.simulate_scene",
            "rankone.nn.DirichletEncoder",
        ),
        extra="imaging",
    ),
    Method(
        slug="sparse-random-support",
        title="Sparse regression with random pivots",
        paper=Paper("Sparse Linear Regression is Easy on Random Supports", "2511.06211"),
        field="regression",
        entry_points=(
            "rankone.linear_model.RandomPivotLasso",
            "rankone.linear_model.RandomPivotLassoCV",
            "rankone.linear_model.RandomPivotPreconditioner",
        ),
        extra="stats",
    ),
    Method(
        slug="dpp-least-squares",
        title="Least squares at determinantal and volume-sampled points",
        paper=Paper(
            "Weighted least-squares approximation with determinantal point processes and "
            "generalized volume sampling",
            "2312.14057",
        ),
        field="regression",
        entry_points=(
            "rankone.linear_model.DPPLeastSquares",
            "rankone.linear_model.WeightedLeastSquares",
            "rankone.linear_model.sample_design",
        ),
        extra="stats",
    ),
    Method(
        slug="robust-high-dimensional",
        title="Screening, nonconvex penalties, Tsallis mixed effects, proximal conjugate gradients",
        paper=Paper(
            "Accelerated Gradient Methods for Sparse Statistical Learning with Nonconvex Penalties",
            "2009.10629",
        ),
        field="regression",
        entry_points=(
            "rankone.linear_model.NonconvexRegression",
            "rankone.linear_model.TsallisMixedEffects",
            "rankone.stats.MutualInfoScreener",
        ),
        extra="stats",
    ),
    Method(
        slug="naive-bayes-vs-logistic",
        title="Generative against discriminative linear classifiers",
        paper=Paper(
            "Revisiting Discriminative vs. Generative Classifiers: Theory and Implications",
            "2302.02334",
        ),
        field="regression",
        entry_points=(
            "rankone.linear_model.LinearGaussianNB",
            "rankone.linear_model.generative_classifiers.compare_learning_curves",
            "rankone.linear_model.generative_classifiers.zero_one_excess_bound",
        ),
        extra="stats",
    ),
    Method(
        slug="compositional-partial-correlation",
        title="Partial correlations between the parts of a composition",
        paper=Paper("Partial Correlations in Compositional Data Analysis", "1904.09480"),
        field="statistics",
        entry_points=(
            "rankone.stats.CompositionalPartialCorrelation",
            "rankone.stats.compositional.partial_correlation",
            "rankone.stats.compositional.residual_correlation",
        ),
        extra="stats",
    ),
    Method(
        slug="adaptive-data-analysis",
        title="Answers to adaptively chosen queries, with guarantees",
        paper=Paper("Preserving Statistical Validity in Adaptive Data Analysis", "1411.2664"),
        field="statistics",
        entry_points=(
            "rankone.stats.adaptive.Thresholdout",
            "rankone.stats.adaptive.GaussianMechanism",
            "rankone.stats.adaptive.PrivateMultiplicativeWeights",
            "rankone.stats.adaptive.SparseVector",
            "rankone.stats.adaptive.gaussian_accuracy",
        ),
        extra="stats",
    ),
    Method(
        slug="coulomb-gas",
        title="Cumulants of linear statistics of Coulomb gases",
        paper=Paper("Linear statistics for Coulomb gases: higher order cumulants", "2310.16420"),
        field="statistics",
        entry_points=(
            "rankone.stats.coulomb.cumulants",
            "rankone.stats.coulomb.large_deviation_rate",
            "rankone.stats.coulomb.sample_coulomb_gas",
            "rankone.stats.coulomb.exact_cumulants_determinantal",
        ),
        extra="stats",
    ),
    Method(
        slug="flexible-survival",
        title="Survival regression with several covariate-dependent parameters",
        paper=Paper(
            "A Flexible Parametric Modelling Framework for Survival Analysis", "1901.03212"
        ),
        field="statistics",
        entry_points=(
            "rankone.stats.APGWRegressor",
            "rankone.stats.survival.APGW",
            "rankone.stats.survival.compare_apgw",
            "rankone.stats.survival.survival_target",
        ),
        extra="stats",
    ),
    Method(
        slug="diffusion-concentration",
        title="Concentration and Gaussian universality of diffusion models",
        paper=Paper(
            "Concentration of Measure for Distributions Generated via Diffusion Models",
            "2501.07741",
        ),
        field="statistics",
        entry_points=(
            "rankone.stats.concentration.DiffusionGenerator",
            "rankone.stats.concentration.universality_gap",
            "rankone.stats.concentration.lipschitz_profile",
            "rankone.stats.concentration.concentration_report",
        ),
        extra="stats",
    ),
    Method(
        slug="batter-impact",
        title="A batter's impact from ball-by-ball events and commentary",
        paper=Paper(
            "Impact of a Batter in ODI Cricket Implementing Regression Models from Match Commentary"
        ),
        field="statistics",
        entry_points=(
            "rankone.stats.BatterImpactRegressor",
            "rankone.stats.batting.CommentaryParser",
            "rankone.stats.batting.load_cricsheet",
            "rankone.stats.batting.build_innings_table",
            "rankone.stats.batting.effective_runs",
        ),
        extra="stats",
    ),
    Method(
        slug="debiased-predictions",
        title="Undoing the shrinkage of predicted outcomes before a causal analysis",
        paper=Paper(
            "Debiasing Machine Learning Predictions for Causal Inference Without Additional Ground "
            "Truth Data: 'One Map, Many Trials' in Satellite-Driven Poverty Analysis",
            "2508.01341",
        ),
        field="causal inference",
        entry_points=(
            "rankone.causal.TweedieDebiaser",
            "rankone.causal.LinearCalibrationDebiaser",
            "rankone.causal.debiased_ate",
            "rankone.causal.compare_debiasers",
        ),
        extra="stats",
    ),
    Method(
        slug="approximate-invariance",
        title="Approximately invariant representations with guarantees on unseen interventions",
        paper=Paper("PAC Generalization via Invariant Representations", "2205.15196"),
        field="causal inference",
        entry_points=(
            "rankone.causal.ApproximateInvariantRegressor",
            "rankone.causal.approximate_invariance.LinearSEM",
            "rankone.causal.approximate_invariance.InterventionFamily",
            "rankone.causal.approximate_invariance.pac_violation_bound",
        ),
        extra="stats",
    ),
    Method(
        slug="rep4ex",
        title="Effects of unseen interventions through an identified representation",
        paper=Paper("Identifying Representations for Intervention Extrapolation", "2310.04295"),
        field="causal inference",
        entry_points=(
            "rankone.causal.Rep4Ex",
            "rankone.causal.ControlFunctionRegressor",
            "rankone.causal.LinearInvarianceAutoencoder",
            "rankone.causal.maximum_moment_restriction",
            "rankone.causal.affine_r2",
        ),
        extra="stats",
    ),
    Method(
        slug="continuous-treatment",
        title="Dose response with an optimum that depends on covariates",
        paper=Paper(
            "Learning Interactions Between Continuous Treatments and Covariates with a "
            "Semiparametric Model",
            "2505.03893",
        ),
        field="causal inference",
        entry_points=(
            "rankone.causal.SemiparametricDoseResponse",
            "rankone.datasets.warfarin_doses",
        ),
        extra="stats",
    ),
    Method(
        slug="misspecified-sparse-bandit",
        title="Sparse misspecified linear bandits: candidate elimination, recovery, hard instances",
        paper=Paper("Does Sparsity Help in Learning Misspecified Linear Bandits?", "2303.16998"),
        field="reinforcement learning",
        entry_points=(
            "rankone.rl.SparseElimination",
            "rankone.rl.SparseRecovery",
            "rankone.rl.misspecified_bandit.g_optimal_design",
        ),
        extra="rl",
    ),
    Method(
        slug="adversarial-linear-mdp",
        title="Policy optimisation for adversarial MDPs with linear Q-functions",
        paper=Paper(
            "Refined Regret for Adversarial MDPs with Linear Function Approximation", "2301.12942"
        ),
        field="reinforcement learning",
        entry_points=(
            "rankone.rl.AdversarialPolicyOptimizer",
            "rankone.rl.envs.LinearMDP",
            "rankone.rl.adversarial_mdp.log_barrier_ftrl",
        ),
        extra="rl",
    ),
    Method(
        slug="horizon-free-exploration",
        title="Horizon-free reward-free exploration of linear mixture MDPs",
        paper=Paper(
            "Optimal Horizon-Free Reward-Free Exploration for Linear Mixture MDPs", "2303.10165"
        ),
        field="reinforcement learning",
        entry_points=(
            "rankone.rl.HorizonFreeExplorer",
            "rankone.rl.envs.LinearMixtureMDP",
            "rankone.rl.reward_free.home_variance",
            "rankone.rl.planning.backward_induction",
        ),
        extra="rl",
    ),
    Method(
        slug="attack-detection",
        title="Attack detection with a secured quadratic measurement",
        paper=Paper("Attack Detection in Dynamic Games with Quadratic Measurements", "2510.00241"),
        field="control",
        entry_points=(
            "rankone.control.AttackDetector",
            "rankone.control.OnlineAttackDetector",
            "rankone.control.QuadraticObserver",
            "rankone.control.wild_bootstrap_mmd",
            "rankone.control.PursuitEvasionGame",
            "rankone.control.attack_detection.project_quadratic",
        ),
        extra="stats",
    ),
    Method(
        slug="interaction-basis",
        title="Interaction basis, degeneracy counts and interaction modularity",
        paper=Paper(
            "Using Degeneracy in the Loss Landscape for Mechanistic Interpretability", "2405.10927"
        ),
        field="interpretability",
        entry_points=(
            "rankone.interpret.InteractionBasis",
            "rankone.interpret.module_sections",
            "rankone.interpret.interaction_modularity",
            "rankone.interpret.plot_interaction_graph",
            "rankone.interpret.parameter_degeneracy",
            "rankone.interpret.effective_parameter_count",
            "rankone.interpret.synchronized_groups",
        ),
        extra="interpret",
    ),
    Method(
        slug="linear-interpreter",
        title="Linear interpreters: the affine map a network is at one input",
        paper=Paper("A Tour of Convolutional Networks Guided by Linear Interpreters", "1908.05168"),
        field="interpretability",
        entry_points=(
            "rankone.interpret.LinearScope",
            "rankone.interpret.LinearInterpreter",
            "rankone.interpret.residual_share",
            "rankone.interpret.localisation",
        ),
        extra="interpret",
    ),
    Method(
        slug="causal-abstraction",
        title="Causal abstraction with linear and non-linear alignment maps",
        paper=Paper(
            "The Non-Linear Representation Dilemma: Is Causal Abstraction Enough for "
            "Mechanistic Interpretability?",
            "2507.08802",
        ),
        field="interpretability",
        entry_points=(
            "rankone.interpret.DistributedAlignmentSearch",
            "rankone.interpret.alignment_ladder",
            "rankone.interpret.LookupAlignment",
            "rankone.interpret.HookSite",
        ),
        extra="interpret",
    ),
    Method(
        slug="mode-connectivity",
        title="Linear mode connectivity: barriers, alignment and ridges",
        paper=Paper("Landscaping Linear Mode Connectivity", "2406.16300"),
        field="interpretability",
        entry_points=(
            "rankone.interpret.linear_path",
            "rankone.interpret.weight_matching",
            "rankone.interpret.curvature_barrier",
            "rankone.interpret.mountainside_ridge",
        ),
        extra="interpret",
    ),
    Method(
        slug="accuracy-on-the-curve",
        title="Subpopulation accuracy curves: the moon shape",
        paper=Paper(
            "Accuracy on the Curve: On the Nonlinear Correlation of ML Performance Between "
            "Data Subpopulations",
            "2305.02995",
        ),
        field="interpretability",
        entry_points=(
            "rankone.interpret.MoonShapeAnalysis",
            "rankone.interpret.subpopulation_accuracies",
            "rankone.interpret.default_model_zoo",
            "rankone.interpret.spurious_mixture",
            "rankone.interpret.gaussian_frontier",
        ),
        extra="interpret",
    ),
    Method(
        slug="exact-permutation-learning",
        title="Exact learning of bit permutations by network ensembles",
        paper=Paper(
            "Exact Learning of Permutations for Nonzero Binary Inputs with Logarithmic Training "
            "Size and Quadratic Ensemble Complexity",
            "2502.16763",
        ),
        field="in-context learning",
        entry_points=(
            "rankone.icl.ExactPermutationLearner",
            "rankone.icl.ensemble_complexity",
            "rankone.icl.ntk_coefficients",
            "rankone.icl.posterior",
            "rankone.icl.two_layer_kernels",
            "rankone.icl.binary_inputs",
            "rankone.icl.make_permutation_task",
        ),
        extra="stats",
    ),
    Method(
        slug="one-step-gradient-descent",
        title="One layer of linear self-attention and one step of gradient descent",
        paper=Paper(
            "One Step of Gradient Descent is Provably the Optimal In-Context Learner with One "
            "Layer of Linear Self-Attention",
            "2307.03576",
        ),
        field="in-context learning",
        entry_points=(
            "rankone.icl.LinearSelfAttention",
            "rankone.icl.train_lsa",
            "rankone.icl.optimal_preconditioner",
            "rankone.icl.optimal_step_size",
            "rankone.icl.population_loss",
            "rankone.icl.OneStepGDRegressor",
            "rankone.icl.make_regression_tasks",
        ),
        family="linear_attention",
        extra="stats",
    ),
    Method(
        slug="in-context-linear-models",
        title="Which learning algorithm an in-context learner runs on linear models",
        paper=Paper(
            "What learning algorithm is in-context learning? Investigations with linear models",
            "2211.15661",
        ),
        field="in-context learning",
        entry_points=(
            "rankone.icl.prefix_predictions",
            "rankone.icl.InContextTransformer",
            "rankone.icl.train_in_context",
            "rankone.icl.algorithm_profile",
            "rankone.icl.probe_hidden_states",
            "rankone.icl.implicit_weights",
            "rankone.icl.ConstructedSGD",
            "rankone.icl.ConstructedRidge",
        ),
        family="linear_attention",
        extra="stats",
    ),
)


def methods() -> tuple[Method, ...]:
    """Every method, in the order in which the library presents them.

    Returns:
        The entries, in the order of the catalogue.

    Example:
        >>> from rankone.catalog import methods
        >>> methods()[0].slug
        'lightning-attention-2'
    """
    return _METHODS


@functools.cache
def _by_slug() -> dict[str, Method]:
    return {entry.slug: entry for entry in _METHODS}


def method(slug: str) -> Method:
    """The method of this slug.

    Args:
        slug: its name, such as ``"deltanet"``.

    Returns:
        Its entry in the catalogue.

    Raises:
        ValueError: for an unknown slug, naming the nearest known one.

    Example:
        >>> from rankone.catalog import method
        >>> method("lightning-attention-2").paper.arxiv
        '2401.04658'
    """
    known = _by_slug()
    if slug in known:
        return known[slug]
    nearest = difflib.get_close_matches(slug, known, n=1, cutoff=0.3)
    hint = f"did you mean {nearest[0]!r}?" if nearest else "`rankone methods` lists them"
    raise ValueError(f"no method is called {slug!r}; {hint}")


def resolve(entry_point: str) -> object:
    """Import what a dotted name of ``Method.entry_points`` stands for.

    An attribute of the parent wins over a submodule of the same name.

    Args:
        entry_point: dotted name.

    Returns:
        The function, class or module.

    Raises:
        ImportError: where there is neither.

    Example:
        >>> from rankone.catalog import resolve
        >>> resolve("rankone.catalog.Method").__name__
        'Method'
    """
    if not isinstance(entry_point, str):
        raise TypeError(f"entry_point must be a dotted name, got {entry_point!r}")
    parent, _, name = entry_point.rpartition(".")
    if not parent:
        return importlib.import_module(name)
    module = importlib.import_module(parent)
    try:
        return getattr(module, name)
    except AttributeError:
        return importlib.import_module(entry_point)


def catalog_table() -> str:
    """The methods as a Markdown table, one row a method, for the README.

    Returns:
        The table, a heading and a row a method.

    Example:
        >>> from rankone.catalog import catalog_table
        >>> "`deltanet`" in catalog_table()
        True
    """
    lines = [
        "| method | field | entry points | kernel family | extra | paper |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for entry in _METHODS:
        cells = (
            f"{entry.title} (`{entry.slug}`)",
            entry.field,
            ", ".join(f"`{name.removeprefix('rankone.')}`" for name in entry.entry_points),
            f"`{entry.family}`" if entry.family else "",
            f"`rankone[{entry.extra}]`" if entry.extra else "",
            entry.paper.link,
        )
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines)


def updated_readme(text: str) -> str:
    r"""A text with the catalogue table between its two markers renewed.

    Args:
        text: with the lines ``TABLE_BEGIN`` and ``TABLE_END`` once each.

    Returns:
        The text with the current table.

    Raises:
        ValueError: where one of the markers is missing, repeated, or they are out of order.

    Example:
        >>> from rankone.catalog import TABLE_BEGIN, TABLE_END, catalog_table, updated_readme
        >>> text = updated_readme(f"{TABLE_BEGIN}\nan older table\n{TABLE_END}")
        >>> catalog_table() in text, "an older table" in text
        (True, False)
    """
    if text.count(TABLE_BEGIN) != 1 or text.count(TABLE_END) != 1:
        raise ValueError(f"expected the lines {TABLE_BEGIN!r} and {TABLE_END!r} once each")
    before, _, rest = text.partition(TABLE_BEGIN)
    _, end, after = rest.partition(TABLE_END)
    if not end:
        raise ValueError(f"{TABLE_END!r} stands before {TABLE_BEGIN!r}")
    return f"{before}{TABLE_BEGIN}\n{catalog_table()}\n{TABLE_END}{after}"


def update_readme(path: str | os.PathLike[str]) -> bool:
    """Renew the catalogue table in a README.

    Args:
        path: of the README.

    Returns:
        Whether anything changed.

    Raises:
        ValueError: where the markers are missing.
        FileNotFoundError: where there is no such file.

    Example:
        >>> from rankone.catalog import update_readme
        >>> update_readme("README.md")  # doctest: +SKIP
        False
    """
    from rankone._files import write_whole

    current = Path(path).read_text(encoding="utf-8")
    renewed = updated_readme(current)
    if renewed == current:
        return False
    write_whole(path, renewed)
    return True


def __dir__() -> list[str]:
    return sorted(__all__)
