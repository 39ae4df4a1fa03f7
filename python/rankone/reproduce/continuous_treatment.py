"""Continuous treatments with covariate-dependent optima (arXiv 2505.03893).

Recovery of the two scores and of the surface as the sample grows, against logistic models; what
happens without a treatment effect; coverage of the bootstrap intervals; and semi-synthetic warfarin
doses, where a patient's recorded stable dose is taken as the best one and the method sees only
whether a random dose was near it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from rankone._sweep import sweep
from rankone.causal.continuous_treatment import SemiparametricDoseResponse
from rankone.datasets.warfarin import warfarin_doses
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel

QUADRATIC, ASYMMETRIC, NO_EFFECT = "quadratic", "asymmetric", "no effect"
LINKS = (QUADRATIC, ASYMMETRIC)
_CLAIMED = (250, 500, 1000)  # sizes of the claims
_NEW_ROWS = 2000
_FIRST_SEED = 100  # of the simulated samples
_PENALTY = 0.01  # of the variant with an l2 penalty
_COVARIATES = ("age_decade", "weight", "vkorc1_a", "cyp2c9_2", "cyp2c9_3", "asian")
_FIXED_DOSE = 35.0  # mg a week
_TRAINING, _FIRST_TEST_ROW = 1800, 2500
_NEAR = 0.2  # a recommendation counts as near the true dose within this share of it


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        sizes: training rows n of the simulation; the claims are about 250, 500 and 1000.
        covariates: numbers of covariates p; the claims are about the first.
        repetitions: simulated samples a cell.
        null_repetitions: samples without a treatment effect.
        penalties: l2 penalties under which recovery is measured as well.
        max_iter: iterations of each stage.
        coverage_samples, coverage_size, coverage_draws: samples, rows of each and bootstrap draws
            of each in the check of the intervals.
        warfarin_seeds: splits of the warfarin patients.
        warfarin_rows: numbers of training patients; the claims are about the last.
        warfarin_draws: bootstrap draws of the first warfarin fit, 0 for none.
    """

    sizes: tuple[int, ...] = (250, 500, 1000)
    covariates: tuple[int, ...] = (5,)
    repetitions: int = 8
    null_repetitions: int = 4
    penalties: tuple[float, ...] = ()
    max_iter: int = 30
    coverage_samples: int = 5
    coverage_size: int = 500
    coverage_draws: int = 30
    warfarin_seeds: tuple[int, ...] = (0,)
    warfarin_rows: tuple[int, ...] = (1000, _TRAINING)
    warfarin_draws: int = 0


QUICK = Scale()
FULL = Scale(
    sizes=(250, 500, 1000, 2000, 4000, 8000),
    covariates=(5, 20),
    repetitions=50,
    null_repetitions=50,
    penalties=(_PENALTY,),
    coverage_samples=100,
    coverage_draws=200,
    warfarin_seeds=(0, 1, 2),
    warfarin_draws=200,
)


def run(settings: Settings) -> Reproduction:
    """Measure recovery, coverage and the warfarin rules."""
    scale = settings.scale(quick=QUICK, full=FULL)
    # Small fits are slower when BLAS hands them to several threads.
    with threadpool_limits(limits=1):
        recovery = _recovery(settings, scale)
        null = _without_effect(settings, scale)
        covered = _coverage(settings, scale)
        shown = _fitted_example(settings, scale)
        try:
            warfarin = _Warfarin.read()
        except ModuleNotFoundError as error:
            warfarin, missing = None, str(error)
        rules = [] if warfarin is None else _warfarin_rules(settings, scale, warfarin)
        unidentified = None if warfarin is None else _recorded_doses(warfarin, scale)
    claims = [
        *_recovery_claims(scale, recovery),
        Claim.at_most(
            f"no treatment effect, n = {scale.sizes[-1]}, l2 = {_PENALTY}: mean range of the "
            "average curve",
            float(np.mean([row["range"] for row in null[_PENALTY]])),
            0.1,
        ),
        Claim.at_least(
            f"share of 95 % bootstrap intervals of gamma that cover it, {QUADRATIC}, "
            f"n = {scale.coverage_size}",
            float(covered["covered"].mean()),
            0.85,
            expected="0.95",
            note=f"{covered['covered'].size} intervals, {scale.coverage_draws} draws each",
        ),
    ]
    tables = [
        *_recovery_tables(scale, recovery),
        _null_table(scale, null),
        _coverage_table(covered),
    ]
    figures = [_simulation_figure(scale, recovery, shown)]
    if warfarin is not None and unidentified is not None:
        claims += _warfarin_claims(scale, rules)
        tables += [_rule_table(rules), unidentified.table]
        if scale.warfarin_draws:
            tables.append(_interval_table(settings, scale, warfarin))
        figures.append(_warfarin_figure(warfarin, rules, unidentified))
    return Reproduction(
        slug="continuous-treatment",
        claims=tuple(claims),
        tables=tuple(tables),
        figures=tuple(figures),
        settings={
            "simulation": f"{scale.repetitions} samples a cell, {_NEW_ROWS} new rows, "
            f"{scale.max_iter} iterations a stage",
            "warfarin": f"skipped: {missing}"
            if warfarin is None
            else f"{len(warfarin.dose)} patients, {warfarin.version}",
        },
    )


def _fitted(
    scale: Scale, X: NDArray, treatment: NDArray, y: NDArray, l2: float = 0.0
) -> SemiparametricDoseResponse:
    """The method; that few rows or no optimum make it unstable is measured here, not warned of."""
    model = SemiparametricDoseResponse(max_iter=scale.max_iter, l2=l2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.fit(X, treatment, y)


@dataclass(frozen=True)
class _Truth:
    """A simulated problem: scores, link and one sample of it."""

    beta: NDArray
    gamma: NDArray
    X: NDArray
    treatment: NDArray
    y: NDArray
    probability: NDArray


def _probability(link: str, u: NDArray, v: NDArray) -> NDArray:
    if link == QUADRATIC:
        return expit(1 + 1.2 * u - (v - 0.3) ** 2)
    if link == ASYMMETRIC:
        bump = 2 * np.exp(-(((v - 0.5) / 0.6) ** 2) / 2)
        return expit(1.2 * u + bump - 1 - np.maximum(v - 0.5, 0))
    return expit(1.5 * u)


def _sample(link: str, n: int, p: int, generator: np.random.Generator) -> _Truth:
    """n rows whose treatment follows half the covariate-dependent optimum: confounded by x."""
    beta, gamma = np.zeros(p), np.zeros(p)
    beta[:3] = 1, -0.8, 0.5
    beta /= np.linalg.norm(beta)
    gamma[:4] = 0.6, 0, -0.5, 0.4
    X = generator.standard_normal((n, p))
    treatment = 0.5 * X @ gamma + generator.standard_normal(n)
    probability = _probability(link, X @ beta, treatment - X @ gamma)
    y = (generator.random(n) < probability).astype(float)
    return _Truth(beta, gamma, X, treatment, y, probability)


def _rmse(estimate: NDArray, truth: NDArray) -> float:
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


def _logistic_rmse(train: _Truth, new: _Truth, *, quadratic: bool) -> float:
    """Error of a logistic regression on [x, t], or on [x, t, t^2, x t]."""

    def design(truth: _Truth) -> NDArray:
        t = truth.treatment[:, None]
        return np.hstack((truth.X, t, t**2, truth.X * t) if quadratic else (truth.X, t))

    model = LogisticRegression(C=10, max_iter=1000).fit(design(train), train.y)
    return _rmse(model.predict_proba(design(new))[:, 1], new.probability)


Cell = tuple[str, int, int, float]  # link, rows, covariates, l2
Recovery = dict[Cell, list[dict[str, Any]]]


def _recovery(settings: Settings, scale: Scale) -> Recovery:
    """Errors of every repetition of every cell."""
    cells: list[Cell] = [
        (link, n, p, 0.0) for p in scale.covariates for link in LINKS for n in scale.sizes
    ]
    cells += [
        (link, _largest_claimed(scale), scale.covariates[0], l2)
        for link in LINKS
        for l2 in scale.penalties
    ]

    def measured(repeated: tuple[Cell, int], _: np.random.Generator) -> dict[str, Any]:
        (link, n, p, l2), repetition = repeated
        # Samples of one repetition share their seed across sizes, links and penalties.
        seed = settings.random_state + _FIRST_SEED + repetition
        generator = np.random.default_rng(seed)
        train = _sample(link, n, p, generator)
        new = _sample(link, _NEW_ROWS, p, generator)
        model = _fitted(scale, train.X, train.treatment, train.y, l2)
        estimate = model.predict_proba(new.X, new.treatment)[:, 1]
        return {
            "beta": model.coef_prognostic_,
            "gamma": model.coef_interaction_,
            "cosine": float(model.coef_prognostic_ @ train.beta),
            "gamma error": float(np.linalg.norm(model.coef_interaction_ - train.gamma)),
            "start error": float(np.linalg.norm(model.init_interaction_ - train.gamma)),
            "rmse": _rmse(estimate, new.probability),
            "linear": _logistic_rmse(train, new, quadratic=False),
            "quadratic": _logistic_rmse(train, new, quadratic=True),
        }

    found = sweep(
        measured,
        [(cell, repetition) for cell in cells for repetition in range(scale.repetitions)],
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="recovery",
        progress=settings.progress,
    )
    step = scale.repetitions
    return {cell: found[i * step : (i + 1) * step] for i, cell in enumerate(cells)}


def _largest_claimed(scale: Scale) -> int:
    return max(n for n in scale.sizes if n <= _CLAIMED[-1])


def _mean(recovery: Recovery, cell: Cell, name: str) -> float:
    return float(np.mean([row[name] for row in recovery[cell]]))


def _recovery_claims(scale: Scale, recovery: Recovery) -> list[Claim]:
    p = scale.covariates[0]
    sizes = [n for n in scale.sizes if n <= _CLAIMED[-1]]
    first, middle, last = sizes[0], sizes[len(sizes) // 2], sizes[-1]
    claims = []
    for link in LINKS:

        def mean(n: int, name: str, link: str = link) -> float:
            return _mean(recovery, (link, n, p, 0.0), name)

        errors = [mean(n, "rmse") for n in sizes]
        claims += [
            Claim.at_least(
                f"{link} link, n = {middle}: cosine of beta with the truth",
                mean(middle, "cosine"),
                0.95,
            ),
            Claim.at_least(
                f"{link} link, n = {last}: cosine of beta with the truth",
                mean(last, "cosine"),
                0.98,
            ),
            Claim.at_least(
                f"{link} link: gamma error at n = {first} over that at n = {last}",
                mean(first, "gamma error") / mean(last, "gamma error"),
                2,
            ),
            Claim.at_most(f"{link} link, n = {last}: RMSE of P on new rows", errors[-1], 0.12),
            Claim.at_most(
                f"{link} link, n = {last}: RMSE over that of the better logistic model",
                errors[-1] / min(mean(last, "linear"), mean(last, "quadratic")),
                1,
                strict=True,
            ),
            Claim.close(
                f"{link} link: log-log slope of RMSE in n, {first} to {last}",
                float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]),
                -0.5,
                absolute=0.15,
            ),
            Claim.at_most(
                f"{link} link, n = {last}: refined gamma error over that of the parametric start",
                mean(last, "gamma error") / mean(last, "start error"),
                1,
                strict=True,
            ),
        ]
    return claims


def _recovery_tables(scale: Scale, recovery: Recovery) -> list[Table]:
    names = ("cosine", "gamma error", "start error", "rmse", "linear", "quadratic")
    rows: list[tuple[str | float, ...]] = []
    for cell in recovery:
        link, n, p, l2 = cell
        rows.append((link, p, n, l2, *(_mean(recovery, cell, name) for name in names)))
    return [
        Table(
            title="Recovery of scores and probabilities",
            columns=(
                "link",
                "p",
                "n",
                "l2",
                "cosine of beta",
                "gamma error",
                "gamma error of the start",
                "RMSE of P",
                "RMSE, logistic in x and t",
                "RMSE, logistic in x, t, t² and x t",
            ),
            rows=tuple(rows),
            note=f"Means of {scale.repetitions} samples; errors of gamma are Euclidean, of P over "
            f"{_NEW_ROWS} new rows.",
        )
    ]


def _without_effect(settings: Settings, scale: Scale) -> dict[float, list[dict[str, float]]]:
    """Range of the average curve and size of gamma where the treatment does nothing."""
    n, p = scale.sizes[-1], scale.covariates[0]

    def measured(_: int, generator: np.random.Generator) -> dict[float, dict[str, float]]:
        sample = _sample(NO_EFFECT, n, p, generator)
        out = {}
        for l2 in (0.0, _PENALTY):
            model = _fitted(scale, sample.X, sample.treatment, sample.y, l2)
            v = model.interaction_score(sample.X, sample.treatment)
            u = np.quantile(model.prognostic_score(sample.X), np.arange(1, 10) / 10)
            low, high = np.quantile(v, (0.02, 0.98))
            curve = model.link_surface(u[:, None], np.linspace(low, high, 51)).mean(axis=0)
            out[l2] = {
                "range": float(np.ptp(curve)),
                "gamma": float(np.linalg.norm(model.coef_interaction_)),
            }
        return out

    found = sweep(
        measured,
        range(scale.null_repetitions),
        random_state=settings.random_state + 1,
        n_jobs=settings.n_jobs,
        description="no treatment effect",
        progress=settings.progress,
    )
    return {l2: [row[l2] for row in found] for l2 in (0.0, _PENALTY)}


def _null_table(scale: Scale, null: dict[float, list[dict[str, float]]]) -> Table:
    return Table(
        title=f"No treatment effect, n = {scale.sizes[-1]}",
        columns=("l2", "mean range of the average curve", "largest", "median norm of gamma"),
        rows=tuple(
            (
                l2,
                float(np.mean([row["range"] for row in rows])),
                float(np.max([row["range"] for row in rows])),
                float(np.median([row["gamma"] for row in rows])),
            )
            for l2, rows in null.items()
        ),
        note="Nothing identifies gamma here. Without a penalty it runs off, and the curve that "
        "should be flat follows noise.",
    )


def _coverage(settings: Settings, scale: Scale) -> dict[str, NDArray]:
    """Whether the intervals of gamma cover it: (samples, p) and their lengths."""
    p = scale.covariates[0]

    def measured(_: int, generator: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
        sample = _sample(QUADRATIC, scale.coverage_size, p, generator)
        model = _fitted(scale, sample.X, sample.treatment, sample.y)
        draws = model.bootstrap(
            scale.coverage_draws, random_state=int(generator.integers(2**31 - 1))
        )
        low, high = draws["coef_interaction_interval"].T
        inside = (low <= sample.gamma) & (sample.gamma <= high)
        return inside, high - low, draws["coef_interaction"].std(axis=0, ddof=1)

    found = sweep(
        measured,
        range(scale.coverage_samples),
        random_state=settings.random_state + 2,
        n_jobs=settings.n_jobs,
        description="coverage",
        progress=settings.progress,
    )
    covered, length, deviation = (np.array(values) for values in zip(*found, strict=True))
    return {"covered": covered, "length": length, "std_error": deviation}


def _coverage_table(covered: dict[str, NDArray]) -> Table:
    samples, p = covered["covered"].shape
    return Table(
        title="Bootstrap intervals of gamma, level 95 %",
        columns=("coefficient", "share that cover", "mean length", "mean standard error"),
        rows=tuple(
            (
                f"gamma_{j + 1}",
                float(covered["covered"][:, j].mean()),
                float(covered["length"][:, j].mean()),
                float(covered["std_error"][:, j].mean()),
            )
            for j in range(p)
        ),
        note=f"{samples} samples of the {QUADRATIC} link. Each draw repeats the whole fit.",
    )


def _fitted_example(settings: Settings, scale: Scale) -> tuple[_Truth, SemiparametricDoseResponse]:
    """One sample of the asymmetric link with its fit, for the figures."""
    generator = np.random.default_rng((settings.random_state, 3))
    sample = _sample(ASYMMETRIC, _largest_claimed(scale), scale.covariates[0], generator)
    return sample, _fitted(scale, sample.X, sample.treatment, sample.y)


def _simulation_figure(
    scale: Scale, recovery: Recovery, shown: tuple[_Truth, SemiparametricDoseResponse]
) -> Figure:
    sample, model = shown
    with panel("", "", title="Fitted surface and data") as (surface, axes):
        model.plot_surface(axes)
    with panel("true coefficient", "estimate", title="Coefficients by n") as (recovered, axes):
        sizes = [scale.sizes[0], scale.sizes[-1]]
        p = scale.covariates[0]
        limits = (min(sample.beta.min(), sample.gamma.min()) - 0.3, 1.1)
        axes.plot(limits, limits, color=MUTED, linestyle="--", linewidth=1)
        for n, shift in zip(sizes, (-0.015, 0.015), strict=True):
            rows = recovery[ASYMMETRIC, n, p, 0.0]
            true = np.tile(np.concatenate((sample.beta, sample.gamma)), len(rows))
            found = np.concatenate([np.concatenate((r["beta"], r["gamma"])) for r in rows])
            axes.plot(true + shift, found, "o", markersize=4, alpha=0.6, label=f"n = {n}")
        axes.set_ylim(limits[0] - 0.4, limits[1] + 0.4)
        axes.legend()
    patients = _quantile_rows(model.prognostic_score(sample.X))
    with panel("", "", title="Three rows, and the truth in grey") as (curves, axes):
        grid = np.linspace(-2.5, 3.0, 81)
        for row in sample.X[patients]:
            truth = _probability(ASYMMETRIC, row @ sample.beta, grid - row @ sample.gamma)
            axes.plot(grid, truth, color=MUTED, linewidth=1)
        labels = ("low score", "middle score", "high score")
        model.plot_dose_response(sample.X[patients], grid, labels=labels, ax=axes)
        axes.set_ylim(0, 1.15)
        axes.legend(ncols=3, loc="upper center", fontsize=8, columnspacing=1.0)
    return Figure.render(
        "A surface on two scores",
        f"The {ASYMMETRIC} link with {len(sample.y)} rows. Left: probability of the outcome over "
        "the two scores. Middle: coefficients of both scores against the truth, every sample. "
        "Right: dose response at the 10 %, 50 % and 90 % quantile of the prognostic score, dotted "
        "where the prior outweighs the data.",
        surface,
        recovered,
        curves,
    )


def _quantile_rows(score: NDArray) -> NDArray:
    """Rows at the 10 %, 50 % and 90 % quantile of a score."""
    order = np.argsort(score)
    return order[(np.array([0.1, 0.5, 0.9]) * (len(order) - 1)).astype(int)]


@dataclass(frozen=True)
class _Warfarin:
    """Patients: covariates without gaps, weekly dose, INR on it, and amiodarone."""

    X: NDArray
    dose: NDArray
    in_range: NDArray
    amiodarone: NDArray
    version: str

    @classmethod
    def read(cls) -> _Warfarin:
        data = warfarin_doses()
        frame = data.frame
        X = frame[list(_COVARIATES)].copy()
        X["weight"] = X["weight"].fillna(X["weight"].median())
        X["vkorc1_a"] = X["vkorc1_a"].fillna(X["vkorc1_a"].mean())
        return cls(
            X=X.fillna(0.0).to_numpy(),
            dose=frame["dose"].to_numpy(),
            in_range=frame["inr"].between(2, 3).to_numpy(dtype=float),
            amiodarone=frame["amiodarone"].fillna(0.0).to_numpy(),
            version=data.version,
        )

    def semi_synthetic(self, seed: int) -> tuple[NDArray, NDArray, NDArray]:
        """Order of the patients, administered root dose, and outcome."""
        generator = np.random.default_rng(seed)
        n = len(self.dose)
        order = generator.permutation(n)
        habit = _least_squares(self.X[:, :2], np.sqrt(self.dose))(self.X[:, :2])
        treatment = habit + 1.3 * generator.standard_normal(n)
        age = (self.X[:, 0] - self.X[:, 0].mean()) / self.X[:, 0].std()
        wrong = np.abs(treatment**2 - self.dose) > 0.25 * self.dose
        outcome = generator.random(n) < expit(2 - 0.8 * age - 4 * wrong)
        return order, treatment, outcome.astype(float)


def _least_squares(X: NDArray, target: NDArray) -> Any:
    """The fitted linear function with an intercept."""
    coefficients = np.linalg.lstsq(np.column_stack((np.ones(len(X)), X)), target, rcond=None)[0]
    return lambda new: np.column_stack((np.ones(len(new)), new)) @ coefficients


@dataclass(frozen=True)
class _Rule:
    """A rule on the test patients of one split."""

    name: str
    seed: int
    rows: int
    recommended: NDArray
    true: NDArray

    @property
    def near(self) -> float:
        return float(np.mean(np.abs(self.recommended - self.true) <= _NEAR * self.true))

    @property
    def mean_error(self) -> float:
        return float(np.mean(np.abs(self.recommended - self.true)))

    @property
    def correlation(self) -> float:
        """Of root doses; NaN for a constant rule."""
        if np.ptp(self.recommended) == 0:
            return float("nan")
        return float(np.corrcoef(np.sqrt(self.recommended), np.sqrt(self.true))[0, 1])


_METHOD, _FIXED = "two scores", "35 mg for everybody"
_LOGISTIC, _SUPERVISED = "quadratic logistic", "regression on the true doses"


def _quadratic_rule(X: NDArray, treatment: NDArray, y: NDArray, new: NDArray) -> NDArray:
    """Vertex of a logistic regression on standardised [x, t, t^2, x t], within the treatments."""
    mean, deviation = X.mean(axis=0), X.std(axis=0)
    Z, center, unit = (X - mean) / deviation, treatment.mean(), treatment.std()
    t = ((treatment - center) / unit)[:, None]
    model = LogisticRegression(C=10, max_iter=1000)
    coefficients = model.fit(np.hstack((Z, t, t**2, Z * t)), y).coef_[0]
    p = X.shape[1]
    linear, curvature, slopes = coefficients[p], coefficients[p + 1], coefficients[p + 2 :]
    vertex = -(linear + (new - mean) / deviation @ slopes) / (2 * curvature)
    return np.clip(center + unit * vertex, treatment.min(), treatment.max())


def _warfarin_rules(settings: Settings, scale: Scale, warfarin: _Warfarin) -> list[_Rule]:
    def measured(seed: int, _: np.random.Generator) -> list[_Rule]:
        order, treatment, y = warfarin.semi_synthetic(settings.random_state + seed)
        test = order[_FIRST_TEST_ROW:]
        X, true = warfarin.X, warfarin.dose[test]
        rules = []
        for rows in scale.warfarin_rows:
            train = order[:rows]
            model = _fitted(scale, X[train], treatment[train], y[train])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                root = np.maximum(model.optimal_treatment(X[test]), 0)
            rules.append(_Rule(_METHOD, seed, rows, root**2, true))
        root = np.maximum(_quadratic_rule(X[train], treatment[train], y[train], X[test]), 0)
        rules.append(_Rule(_LOGISTIC, seed, rows, root**2, true))
        dose = _least_squares(X[train], np.sqrt(warfarin.dose[train]))(X[test]) ** 2
        rules.append(_Rule(_SUPERVISED, seed, rows, dose, true))
        rules.append(_Rule(_FIXED, seed, rows, np.full(len(test), _FIXED_DOSE), true))
        return rules

    found = sweep(
        measured,
        scale.warfarin_seeds,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="warfarin",
        progress=settings.progress,
    )
    return [rule for rules in found for rule in rules]


def _warfarin_claims(scale: Scale, rules: list[_Rule]) -> list[Claim]:
    claims = []
    for seed in scale.warfarin_seeds:
        (method,) = [
            rule
            for rule in rules
            if (rule.name, rule.seed, rule.rows) == (_METHOD, seed, scale.warfarin_rows[-1])
        ]
        (fixed,) = [rule for rule in rules if (rule.name, rule.seed) == (_FIXED, seed)]
        claims += [
            Claim.at_least(
                f"warfarin, split {seed}: correlation of recommended and true root dose",
                method.correlation,
                0.5,
            ),
            Claim.at_least(
                f"warfarin, split {seed}: share within 20 % of the true dose", method.near, 0.37
            ),
            Claim.at_least(
                f"warfarin, split {seed}: that share less that of 35 mg for everybody",
                method.near - fixed.near,
                0,
                strict=True,
            ),
        ]
    return claims


def _rule_table(rules: list[_Rule]) -> Table:
    return Table(
        title="Warfarin, semi-synthetic: rules on patients not fitted",
        columns=(
            "rule",
            "split",
            "training patients",
            "correlation of root doses",
            "share within 20 %",
            "mean absolute error, mg a week",
        ),
        rows=tuple(
            (
                rule.name,
                rule.seed,
                rule.rows,
                None if np.isnan(rule.correlation) else rule.correlation,
                rule.near,
                rule.mean_error,
            )
            for rule in rules
        ),
        note="The recorded stable dose is taken as the patient's best one; the first two rules see "
        "a random dose and whether the outcome was good, the third the true doses of the training "
        "patients. The quadratic logistic rule is no worse here: a binary outcome of so few rows "
        "cannot tell the two apart. With fewer training patients the rule is unstable. No clinical "
        "recommendation.",
    )


@dataclass(frozen=True)
class _Unidentified:
    names: tuple[str, ...]
    gamma: NDArray
    regression: NDArray
    table: Table


def _recorded_doses(warfarin: _Warfarin, scale: Scale) -> _Unidentified:
    """gamma where every patient is at the stable dose and the outcome is an INR within 2 to 3."""
    X = np.column_stack((warfarin.X, warfarin.amiodarone))
    root = np.sqrt(warfarin.dose)
    train = np.random.default_rng(0).permutation(len(root))[:_TRAINING]
    model = _fitted(scale, X[train], root[train], warfarin.in_range[train])
    unit = X[train].std(axis=0) / root[train].std()
    fitted = _least_squares(X[train] / X[train].std(axis=0), root[train] / root[train].std())
    regression = fitted(np.eye(X.shape[1])) - fitted(np.zeros((1, X.shape[1])))
    residual = root[train] / root[train].std() - fitted(X[train] / X[train].std(axis=0))
    names = (*_COVARIATES, "amiodarone")
    gamma = model.coef_interaction_ * unit
    table = Table(
        title="What does not work: recorded doses as treatment, INR within 2 to 3 as outcome",
        columns=("covariate", "gamma", "regression of the dose"),
        rows=tuple(
            (name, float(g), float(r)) for name, g, r in zip(names, gamma, regression, strict=True)
        ),
        note=f"Standard deviations of root dose a standard deviation of the covariate, {_TRAINING} "
        "patients. Every patient is at a stable dose, so that nobody shows what another dose would "
        f"do: gamma is not identified, and is far from the regression (R² "
        f"{1 - residual.var():.2f}), which is known to be right.",
    )
    return _Unidentified(names, gamma, regression, table)


def _interval_table(settings: Settings, scale: Scale, warfarin: _Warfarin) -> Table:
    """Bootstrap intervals of the first split, beside the regression on the true doses."""
    order, treatment, y = warfarin.semi_synthetic(settings.random_state + scale.warfarin_seeds[0])
    train = order[: scale.warfarin_rows[-1]]
    X = warfarin.X
    model = _fitted(scale, X[train], treatment[train], y[train])
    draws = model.bootstrap(
        scale.warfarin_draws, n_jobs=settings.n_jobs, random_state=settings.random_state
    )
    fitted = _least_squares(X[train], np.sqrt(warfarin.dose[train]))
    regression = fitted(np.eye(len(_COVARIATES))) - fitted(np.zeros((1, len(_COVARIATES))))
    return Table(
        title="Warfarin, semi-synthetic: bootstrap intervals of gamma, level 95 %",
        columns=("covariate", "gamma", "lower", "upper", "regression on the true doses"),
        rows=tuple(
            (name, float(gamma), float(low), float(high), float(reference))
            for name, gamma, (low, high), reference in zip(
                _COVARIATES,
                model.coef_interaction_,
                draws["coef_interaction_interval"],
                regression,
                strict=True,
            )
        ),
        note=f"Root mg a week a unit of the covariate; {scale.warfarin_draws} draws.",
    )


def _warfarin_figure(
    warfarin: _Warfarin, rules: list[_Rule], unidentified: _Unidentified
) -> Figure:
    method = [rule for rule in rules if rule.name == _METHOD][-1]
    with panel(
        "recorded stable dose, mg a week", "recommended, mg a week", title="Patients not fitted"
    ) as (doses, axes):
        axes.plot(method.true, method.recommended, ".", markersize=3, alpha=0.35)
        span = np.array([5.0, 90.0])
        axes.plot(span, span, color=MUTED, linewidth=1)
        for share in (1 - _NEAR, 1 + _NEAR):
            axes.plot(span, share * span, color=MUTED, linestyle="--", linewidth=1)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
    with panel("sd of root dose a sd", "", title="Warning: stable doses identify nothing") as (
        warning,
        axes,
    ):
        places = np.arange(len(unidentified.names))
        axes.plot(unidentified.regression, places, "o", label="regression of the dose")
        axes.plot(unidentified.gamma, places, "x", label="gamma from INR in range")
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set_xscale("symlog", linthresh=1)
        axes.set_yticks(places, [name.replace("_", " ") for name in unidentified.names])
        axes.legend()
    return Figure.render(
        "Warfarin",
        f"Left: semi-synthetic outcomes, {method.rows} training patients, split {method.seed}; the "
        "dashed lines are 20 % from the recorded dose. Right: with the recorded dose as treatment "
        "every patient is at a stable dose, and gamma is nonsense; nothing here is a clinical "
        "recommendation.",
        doses,
        warning,
    )
