"""Approximate invariance: models and interventions, gaps, estimators, and what is guaranteed."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from rankone.causal.approximate_invariance import (
    ApproximateInvariantRegressor,
    InterventionFamily,
    LinearSEM,
    invariance_gap,
    pac_environments,
    pac_violation_bound,
    stack_moments,
    vc_dimension,
)
from scipy.stats import binom
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

CRITERIA = ("excess_risk", "gradient")


def model(seed=0, p=6):
    """0 and 1 -> 2, the target; 3 and 4 its children; the rest with two earlier parents."""
    rng = np.random.default_rng(seed)
    n = p + 1
    B = np.zeros((n, n))
    edges = [(2, 0), (2, 1), (3, 2), (3, 0), (4, 2), (4, 1)]
    edges += [(i, j) for i in range(5, n) for j in rng.choice(i, 2, replace=False)]
    for i, j in edges:
        B[i, j] = rng.uniform(0.5, 1) * rng.choice([-1, 1])
    return LinearSEM(B, rng.uniform(0.5, 1.5, n), target=2)


def family(sem):
    return InterventionFamily(sem, [0, 3, 4])


# Models.


def test_chain_has_its_moments_by_hand():
    # x0 -> y -> x2 with effects a and b.
    a, b, s0, sy, s2 = 0.7, -1.2, 1.5, 0.4, 0.9
    chain = LinearSEM([[0, 0, 0], [a, 0, 0], [0, b, 0]], [s0, sy, s2], target=1)
    C, c, v = chain.moments()
    vy = a * a * s0 + sy
    assert np.allclose(C, [[s0, a * b * s0], [a * b * s0, b * b * vy + s2]])
    assert np.allclose(c, [a * s0, b * vy])
    assert math.isclose(v, vy)
    assert chain.parents(1) == (0,)
    assert chain.parents(0) == ()


def test_samples_have_the_moments():
    sem = model()
    X, y = sem.sample(200_000, random_state=0)
    C, c, v = sem.moments()
    tolerance = 6 * np.sqrt(np.outer(np.diag(C), np.diag(C)) * 2 / 200_000)
    assert np.all(np.abs(X.T @ X / len(X) - C) <= tolerance)
    assert np.allclose(X.T @ y / len(X), c, atol=tolerance.max())
    assert math.isclose(y @ y / len(y), v, rel_tol=0.02)


def test_intervening_on_nothing_changes_nothing():
    sem = model()
    for one, other in zip(sem.moments(), sem.intervene().moments(), strict=True):
        assert np.array_equal(one, other)


def test_hard_interventions_keep_the_parents():
    sem = model()
    cut = sem.intervene(weights={3: np.zeros(7)}, noise_variance={3: 2.0})
    assert cut.parents(3) == sem.parents(3) == (0, 2)
    assert np.isclose(cut.covariance()[3, 3], 2.0)
    assert np.isclose(cut.covariance()[3, 2], 0.0)
    # And can be undone.
    back = cut.intervene(weights={3: sem.B[3]}, noise_variance={3: sem.noise_variance[3]})
    assert np.allclose(back.covariance(), sem.covariance())


def test_families_draw_within_their_laws():
    sem = model()
    drawn = InterventionFamily(sem, [3], (-0.5, 0.25), (1.0, 2.0)).sample(200, random_state=0)
    weights = np.array([each.B[3, [0, 2]] for each in drawn])
    variances = np.array([each.noise_variance[3] for each in drawn])
    assert -0.5 <= weights.min() < -0.45
    assert 0.2 < weights.max() <= 0.25
    assert 1.0 <= variances.min() < 1.05
    assert 1.95 < variances.max() <= 2.0
    untouched = [i for i in range(7) if i != 3]
    assert all(np.array_equal(each.B[untouched], sem.B[untouched]) for each in drawn)
    again = InterventionFamily(sem, [3], (-0.5, 0.25), (1.0, 2.0)).sample(200, random_state=0)
    assert np.array_equal(again[7].B, drawn[7].B)


# The gap.


@pytest.mark.parametrize("criterion", CRITERIA)
def test_parents_are_invariant_under_any_intervention_elsewhere(criterion):
    sem = model(1)
    C, c, _ = stack_moments(InterventionFamily(sem, [0, 1, 3, 4, 5, 6]).sample(50, random_state=0))
    parents = np.eye(6)[[0, 1]]
    assert invariance_gap(C, c, parents, sem.B[2, [0, 1]], criterion).max() < 1e-10
    assert np.array_equal(invariance_gap(C, c, np.zeros((0, 6)), [], criterion), np.zeros(50))


def test_gap_is_the_risk_above_the_best():
    sem = model(2)
    C, c, v = stack_moments(family(sem).sample(10, random_state=0))
    rng = np.random.default_rng(0)
    Phi, w = rng.normal(size=(2, 6)), rng.normal(size=2)
    for e in range(10):
        G, g = Phi @ C[e] @ Phi.T, Phi @ c[e]
        risk = v[e] - 2 * w @ g + w @ G @ w
        best = v[e] - g @ np.linalg.inv(G) @ g
        assert np.isclose(invariance_gap(C, c, Phi, w)[e], risk - best)
        assert np.isclose(invariance_gap(C, c, Phi, w, "gradient")[e], np.abs(G @ w - g).max())


def test_excess_risk_does_not_see_the_parametrisation_and_the_gradient_does():
    sem = model(2)
    C, c, _ = stack_moments(family(sem).sample(5, random_state=0))
    rng = np.random.default_rng(1)
    Phi, w, T = rng.normal(size=(2, 6)), rng.normal(size=2), rng.normal(size=(2, 2))
    moved = T @ Phi, np.linalg.solve(T.T, w)
    assert np.allclose(invariance_gap(C, c, Phi, w), invariance_gap(C, c, *moved))
    shrunk = invariance_gap(C, c, 0.01 * Phi, 100 * w, "gradient")
    assert np.allclose(shrunk, 0.01 * invariance_gap(C, c, Phi, w, "gradient"))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_mixed_observations_have_the_gap_of_what_is_mixed(criterion):
    sem = model(3)
    C, c, _ = stack_moments(family(sem).sample(6, random_state=0))
    rng = np.random.default_rng(2)
    S, Phi, w = rng.normal(size=(9, 6)), rng.normal(size=(2, 9)), rng.normal(size=2)
    observed = invariance_gap(S @ C @ S.T, c @ S.T, Phi, w, criterion)
    assert np.allclose(observed, invariance_gap(C, c, Phi @ S, w, criterion))


def test_all_features_are_invariant_until_a_child_is_intervened_on():
    sem = model(4)
    C0, c0, _ = sem.moments()
    everything = np.linalg.solve(C0, c0)
    strangers = [i for i in range(7) if i != 2 and 2 not in sem.parents(i)]
    assert {0, 1} <= set(strangers)
    spared = stack_moments(InterventionFamily(sem, strangers).sample(20, random_state=0))
    assert invariance_gap(*spared[:2], np.eye(6), everything).max() < 1e-10
    child = stack_moments(InterventionFamily(sem, [3]).sample(20, random_state=0))
    assert invariance_gap(*child[:2], np.eye(6), everything).max() > 1e-3


# Estimators.


def by_enumeration(C, c, v, base, epsilon, criterion, largest=3):
    best = (v.mean(), ())
    for size in range(1, largest + 1):
        for subset in itertools.combinations(range(C.shape[1]), size):
            Phi = np.eye(C.shape[1])[list(subset)]
            w = np.linalg.solve(Phi @ base[0] @ Phi.T, Phi @ base[1])
            if invariance_gap(C, c, Phi, w, criterion).max() <= epsilon:
                coef = Phi.T @ w
                risk = np.mean(v - 2 * c @ coef + np.einsum("i,eij,j->e", coef, C, coef))
                if risk < best[0]:
                    best = (risk, subset)
    return best


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("reference", ["observational", "pooled"])
def test_subset_is_the_best_of_all_feasible_ones(criterion, reference):
    for seed in range(4):
        sem = model(seed)
        C, c, v = stack_moments(family(sem).sample(3, random_state=seed))
        found = ApproximateInvariantRegressor(
            reference=reference, criterion=criterion, epsilon=0.05
        ).fit_moments(C, c, v, reference_moments=sem.moments())
        base = sem.moments()[:2] if reference == "observational" else (C.mean(0), c.mean(0))
        risk, subset = by_enumeration(C, c, v, base, 0.05, criterion)
        assert found.subset_ == subset
        assert math.isclose(found.risk_, risk, rel_tol=1e-10)
        assert found.n_hypotheses_ == 42
        assert found.gaps_.max() <= 0.05
        assert np.allclose(found.coef_, found.representation_.T @ found.coef_representation_)


def test_many_environments_leave_the_parents_and_no_violation():
    sem = model(5)
    C, c, v = stack_moments(family(sem).sample(16, random_state=0))
    found = ApproximateInvariantRegressor().fit_moments(C, c, v, reference_moments=sem.moments())
    assert set(found.subset_) >= {0, 1}
    unseen = stack_moments(family(sem).sample(200, random_state=1))
    assert found.violation_rate(*unseen[:2]) <= 0.02
    loose = ApproximateInvariantRegressor(epsilon=1e9, max_subset_size=6)
    everything = loose.fit_moments(C, c, v, reference_moments=sem.moments())
    assert everything.violation_rate(*unseen[:2]) == 0
    gaps = invariance_gap(*unseen[:2], np.eye(6), everything.coef_)
    assert np.mean(gaps > 0.02) > 0.5


def test_violations_fall_with_the_number_of_environments():
    rates = []
    for n in (1, 8):
        found = []
        for seed in range(6):
            sem = model(seed)
            trained = stack_moments(family(sem).sample(n, random_state=seed))
            unseen = stack_moments(family(sem).sample(50, random_state=100 + seed))
            fitted = ApproximateInvariantRegressor(reference="pooled").fit_moments(*trained)
            found.append(fitted.violation_rate(*unseen[:2]))
        rates.append(np.mean(found))
    assert rates[0] >= 0.6
    assert rates[1] <= 0.05


def test_no_feature_is_always_feasible():
    sem = model(6)
    C, c, v = stack_moments(family(sem).sample(4, random_state=0))
    found = ApproximateInvariantRegressor(epsilon=0.0, max_subset_size=1)
    found.fit_moments(C, c, v, reference_moments=sem.moments())
    assert found.subset_ == ()
    assert np.array_equal(found.coef_, np.zeros(6))
    assert math.isclose(found.risk_, v.mean())


def test_linear_representation_is_orthonormal_invariant_and_need_not_be_causal():
    sem = model(4)
    rng = np.random.default_rng(3)
    S = np.linalg.qr(rng.normal(size=(12, 6)))[0] * rng.uniform(0.7, 1.3, 6)
    C, c, v = stack_moments(family(sem).sample(8, random_state=0))
    fitted = ApproximateInvariantRegressor("linear", n_starts=1, random_state=0)
    fitted.fit_moments(S @ C @ S.T, c @ S.T, v)
    Phi = fitted.representation_
    assert Phi.shape == (2, 12)
    assert np.allclose(Phi @ Phi.T, np.eye(2), atol=1e-10)
    assert fitted.gaps_.max() <= 0.01
    # The weights are least squares on the average moments.
    G, g = Phi @ (S @ C.mean(0) @ S.T) @ Phi.T, Phi @ (S @ c.mean(0))
    assert np.allclose(fitted.coef_representation_, np.linalg.solve(G, g))
    unseen = stack_moments(family(sem).sample(100, random_state=1))
    assert fitted.violation_rate(S @ unseen[0] @ S.T, unseen[1] @ S.T) <= 0.05
    parents = np.zeros(6)
    parents[:2] = sem.B[2, [0, 1]]
    assert fitted.risk_ < sem.noise_variance[2]
    assert np.linalg.norm(S.T @ fitted.coef_ - parents) > 0.3 * np.linalg.norm(parents)


def rows(sem, sems, n, seed=0):
    rng = np.random.RandomState(seed)
    parts = [each.sample(n, rng) for each in (sem, *sems)]
    labels = np.repeat(["plain", *(f"env {i}" for i in range(len(sems)))], n)
    return np.vstack([X for X, _ in parts]), np.concatenate([y for _, y in parts]), labels


@pytest.mark.parametrize("criterion", CRITERIA)
def test_finite_samples_leave_both_parents_and_no_child(criterion):
    sem = model(7)
    X, y, labels = rows(sem, family(sem).sample(10, random_state=0), 3000)
    fitted = ApproximateInvariantRegressor(epsilon=0.005, criterion=criterion)
    fitted.fit(X + 5, y - 3, labels, observational="plain")
    assert {0, 1} <= set(fitted.subset_)
    assert not {2, 3} & set(fitted.subset_)  # nodes 3 and 4, without the target between them
    assert fitted.n_environments_ == 10
    training = labels != "plain"
    residual = (y - 3 - fitted.predict(X + 5))[training]
    assert abs(residual.mean()) < 1e-10
    # Without an allowance for sampling nothing true would pass.
    gaps = fitted.gaps_
    exact = ApproximateInvariantRegressor(epsilon=1e-9, criterion=criterion)
    assert gaps.max() > 1e-9
    assert {0, 1} <= set(exact.fit(X, y, labels, observational="plain").subset_)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_moments_with_their_numbers_of_rows_allow_for_sampling(criterion):
    sem = model(7)
    sems = family(sem).sample(6, random_state=0)
    X, y, labels = rows(sem, sems, 2000)
    moments = []
    for name in np.unique(labels[labels != "plain"]):
        own = labels == name
        A, b = X[own] - X[own].mean(0), y[own] - y[own].mean()
        moments.append((A.T @ A / len(b), A.T @ b / len(b), b @ b / len(b)))
    C, c, v = (np.stack(each) for each in zip(*moments, strict=True))
    options = {"criterion": criterion, "epsilon": 0.0, "max_subset_size": 2}
    with_rows = ApproximateInvariantRegressor(**options).fit_moments(
        C, c, v, reference_moments=sem.moments(), n_samples=np.full(6, 2000)
    )
    without = ApproximateInvariantRegressor(**options).fit_moments(
        C, c, v, reference_moments=sem.moments()
    )
    assert with_rows.subset_ == (0, 1)
    assert without.subset_ == ()


def test_frames_are_taken_and_repeat():
    sem = model(8)
    X, y, labels = rows(sem, family(sem).sample(4, random_state=0), 300)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    one = ApproximateInvariantRegressor().fit(frame, pd.Series(y), labels, observational="plain")
    two = ApproximateInvariantRegressor().fit(X, y, labels, observational="plain")
    assert one.subset_ == two.subset_
    assert np.array_equal(one.predict(frame), two.predict(X))
    assert list(one.feature_names_in_) == list("abcdef")
    assert clone(two).get_params() == two.get_params()


# Guarantees.


def test_certificate_bounds_the_rate_of_unseen_interventions():
    for seed in range(6):
        sem = model(seed)
        C, c, v = stack_moments(family(sem).sample(12, random_state=seed))
        fitted = ApproximateInvariantRegressor().fit_moments(
            C, c, v, reference_moments=sem.moments()
        )
        bound = fitted.certificate(delta=0.05)
        assert math.isclose(bound, 1 - (0.05 / 42) ** (1 / 12))
        unseen = stack_moments(family(sem).sample(100, random_state=50 + seed))
        assert fitted.violation_rate(*unseen[:2]) <= bound


def test_reference_is_no_training_environment():
    sem = model(9)
    X, y, labels = rows(sem, family(sem).sample(3, random_state=0), 100)
    fitted = ApproximateInvariantRegressor(epsilon=0.2)
    fitted.fit(X, y, labels, observational="plain")
    assert fitted.n_environments_ == len(fitted.gaps_) == 3
    violations = int(np.sum(fitted.gaps_ > 0.2))
    expected = pac_violation_bound(3, 0.05, n_violations=violations, n_hypotheses=42)
    assert fitted.certificate() == expected


def test_bounds_have_their_closed_forms():
    assert pac_environments(0.1, 0.05, n_hypotheses=42) == 64
    assert pac_environments(0.1, 0.05, n_hypotheses=299) == 83
    assert math.isclose(pac_violation_bound(30, 0.05, n_hypotheses=1), 1 - 0.05 ** (1 / 30))
    V = vc_dimension(2, 10, n_sites=1, in_degree=1)
    assert round(V) == 172
    assert pac_environments(0.1, 0.05, vc_dim=V) == 96672


def test_binomial_probability_at_the_bound_is_delta():
    for n, violations in ((20, 0), (20, 3), (100, 10)):
        bound = pac_violation_bound(n, 0.05, n_violations=violations, n_hypotheses=42)
        assert math.isclose(binom.cdf(violations, n, bound), 0.05 / 42, rel_tol=1e-8)
    assert pac_violation_bound(5, 0.05, n_violations=5, n_hypotheses=2) == 1.0


@pytest.mark.parametrize("kind", [{"n_hypotheses": 42}, {"vc_dim": 172.0}])
@pytest.mark.parametrize("zeta", [0.3, 0.1, 0.01])
def test_bound_inverts_the_number_of_environments(kind, zeta):
    n = pac_environments(zeta, 0.05, **kind)
    assert pac_violation_bound(n, 0.05, **kind) <= zeta
    assert pac_violation_bound(n - 1, 0.05, **kind) > zeta * (1 - 1e-9)


def test_dimension_with_sites_does_not_grow_with_the_features():
    small, large = (vc_dimension(2, p, n_sites=1, in_degree=1) for p in (10, 10**6))
    assert small == large
    assert vc_dimension(2, 10**6) > 1e4 * small
    assert math.isclose(vc_dimension(3, 10**6), 5.2e7, rel_tol=0.02)
    P = 2 * 10 + 2
    assert math.isclose(
        vc_dimension(2, 10, criterion="excess_risk"), 2 * P * math.log2(8 * math.e * 8)
    )
    assert pac_violation_bound(50, 0.05, vc_dim=172) == 1.0


SEM = model(0)
MOMENTS = stack_moments(family(SEM).sample(3, random_state=0))
FITTED = ApproximateInvariantRegressor("linear", n_starts=1, random_state=0).fit_moments(*MOMENTS)
X, Y, LABELS = rows(SEM, family(SEM).sample(2, random_state=0), 20)


def fit(**options):
    return ApproximateInvariantRegressor(**options).fit_moments(
        *MOMENTS, reference_moments=SEM.moments()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearSEM([[0, 1], [1, 0]], [1, 1], 0), "no cycle"),
        (lambda: LinearSEM(np.zeros((2, 3)), [1, 1], 0), "B must have shape"),
        (lambda: LinearSEM(np.zeros((2, 2)), [1], 0), "noise_variance must have shape"),
        (lambda: LinearSEM(np.zeros((2, 2)), [1, 0], 0), "noise_variance must be positive"),
        (lambda: LinearSEM(np.zeros((2, 2)), [1, 1], 2), "target must"),
        (lambda: SEM.intervene({2: np.zeros(7)}), "target, node 2"),
        (lambda: SEM.intervene(noise_variance={2: 1.0}), "target, node 2"),
        (lambda: SEM.intervene({3: np.ones(7)}), "on its parents"),
        (lambda: SEM.intervene({3: np.ones(3)}), "must have shape"),
        (lambda: SEM.intervene(noise_variance={3: -1.0}), "noise_variance must be positive"),
        (lambda: SEM.sample(0), "n must"),
        (lambda: SEM.parents(9), "node must"),
        (lambda: InterventionFamily(SEM, [2]), "target"),
        (lambda: InterventionFamily(SEM, []), "sites must"),
        (lambda: InterventionFamily(SEM, [3, 3]), "sites must"),
        (lambda: InterventionFamily(SEM, [3], (1, -1)), "weight_range must"),
        (lambda: InterventionFamily(SEM, [3], variance_range=(0, 1)), "variance_range must"),
        (lambda: family(SEM).sample(0), "n must"),
        (lambda: stack_moments([]), "at least one model"),
        (lambda: invariance_gap(MOMENTS[0], MOMENTS[1][:2], np.eye(6), np.ones(6)), "cov_xy"),
        (lambda: invariance_gap(*MOMENTS[:2], np.eye(5), np.ones(5)), "representation must"),
        (lambda: invariance_gap(*MOMENTS[:2], np.eye(6), np.ones(5)), "coef must"),
        (lambda: invariance_gap(*MOMENTS[:2], np.eye(6), np.ones(6), "risk"), "criterion must"),
        (lambda: fit(epsilon=-0.1), "epsilon must"),
        (lambda: fit(method="nonlinear"), "method must"),
        (lambda: fit(reference="none"), "reference must"),
        (lambda: fit(criterion="dummy"), "criterion must"),
        (lambda: fit(sample_confidence=1.0), "sample_confidence must"),
        (lambda: fit(max_subset_size=-1), "max_subset_size must"),
        (lambda: fit(method="linear", n_components=6), "n_components must"),
        (lambda: fit(method="linear", penalty=0.0), "penalty must"),
        (lambda: fit(method="linear", n_starts=0), "n_starts must"),
        (lambda: ApproximateInvariantRegressor().fit_moments(*MOMENTS), "reference environment"),
        (lambda: ApproximateInvariantRegressor().fit(X, Y, LABELS), "reference environment"),
        (lambda: ApproximateInvariantRegressor().fit(X, Y, LABELS, "other"), "observational must"),
        (
            lambda: ApproximateInvariantRegressor().fit(X, Y, np.full(60, "a"), "a"),
            "training environment",
        ),
        (
            lambda: ApproximateInvariantRegressor().fit(X, Y, np.arange(60), 0),
            "at least two rows",
        ),
        (lambda: FITTED.certificate(), "pac_violation_bound"),
        (lambda: FITTED.predict(np.ones((2, 5))), "6 features, got 5"),
        (lambda: pac_environments(0.0, 0.05, n_hypotheses=1), "zeta must"),
        (lambda: pac_environments(0.1, 0.0, n_hypotheses=1), "delta must"),
        (lambda: pac_environments(0.1, 0.05), "exactly one of"),
        (lambda: pac_environments(0.1, 0.05, n_hypotheses=2, vc_dim=3), "exactly one of"),
        (lambda: pac_violation_bound(0, 0.05, n_hypotheses=2), "n_env must"),
        (lambda: pac_violation_bound(5, 0.05, n_violations=6, n_hypotheses=2), "n_violations"),
        (lambda: pac_violation_bound(5, 0.05, n_violations=1, vc_dim=3), "n_violations must be 0"),
        (lambda: vc_dimension(0, 3), "n_components must"),
        (lambda: vc_dimension(1, 3, n_sites=2), "given together"),
        (
            lambda: vc_dimension(1, 3, n_sites=1, in_degree=1, criterion="excess_risk"),
            "n_sites must be None",
        ),
    ],
)
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_too_many_subsets_are_counted():
    wide = LinearSEM(np.zeros((201, 201)), np.ones(201), target=0)
    C, c, v = stack_moments([wide])
    with pytest.raises(ValueError, match="1333501 subsets"):
        ApproximateInvariantRegressor(reference="pooled").fit_moments(C, c, v)


def test_use_before_fit_says_so():
    with pytest.raises(NotFittedError):
        ApproximateInvariantRegressor().predict(X)
    with pytest.raises(NotFittedError):
        ApproximateInvariantRegressor().certificate()
