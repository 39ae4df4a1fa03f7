"""Observers of the linear and the quadratic output: references, batch and step, limits, input."""

import numpy as np
import pytest
from rankone.control.attack_detection import (
    FixedGainObserver,
    KalmanObserver,
    LinearQuadraticSystem,
    PursuitEvasionGame,
    QuadraticObserver,
    project_quadratic,
    step_bias,
)

T = 60


@pytest.fixture(scope="module")
def system():
    rng = np.random.default_rng(0)
    A = 0.9 * np.linalg.qr(rng.normal(size=(3, 3)))[0]
    root = rng.normal(size=(3, 3))
    return LinearQuadraticSystem(
        A=A,
        B=rng.normal(size=(3, 2)),
        C=rng.normal(size=(2, 3)),
        Q=np.diag([1.0, -0.5, 2.0]),
        c=np.array([0.3, 0.0, -1.0]),
        W=0.1 * root @ root.T,
        R=np.diag([0.5, 0.2]),
    )


@pytest.fixture(scope="module")
def record(system):
    """inputs, linear, quadratic, states, x0, P0 of a simulation."""
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(T, 2))
    states = np.empty((T, 3))
    x0, P0 = np.array([1.0, -1.0, 0.5]), 0.2 * np.eye(3)
    x = rng.multivariate_normal(x0, P0)
    for t in range(T):
        states[t] = x
        x = system.A @ x + system.B @ inputs[t] + rng.multivariate_normal(np.zeros(3), system.W)
    linear = states @ system.C.T + rng.multivariate_normal(np.zeros(2), system.R, size=T)
    return inputs, linear, system.utility(states), states, x0, P0


def reference(system, inputs, outputs, C, R, x0, P0):
    kalman = pytest.importorskip("statsmodels.tsa.statespace.kalman_filter")
    model = kalman.KalmanFilter(k_endog=len(C), k_states=3)
    model.bind(outputs)
    model["design"], model["obs_cov"] = C, R
    model["transition"], model["selection"], model["state_cov"] = system.A, np.eye(3), system.W
    model.state_intercept = (inputs @ system.B.T).T
    model.initialize_known(x0, P0)
    found = model.filter()
    return found.filtered_state.T, np.moveaxis(found.filtered_state_cov, -1, 0)


def test_kalman_equals_statsmodels(system, record):
    inputs, linear, _, _, x0, P0 = record
    observer = KalmanObserver(system)
    estimates = observer.run(inputs, linear, x0, P0)
    expected, covariances = reference(system, inputs, linear, system.C, system.R, x0, P0)
    assert np.allclose(estimates, expected, rtol=0, atol=1e-8)
    assert np.allclose(observer.covariances_, covariances, rtol=0, atol=1e-8)


def test_without_curvature_the_quadratic_observer_is_a_kalman_filter(system, record):
    inputs, _, _, states, x0, P0 = record
    flat = LinearQuadraticSystem(
        system.A, system.B, system.C, Q=np.zeros((3, 3)), c=system.c, W=system.W
    )
    observer = QuadraticObserver(flat, project=False, innovation_floor=1e-3)
    q = flat.utility(states)
    estimates = observer.run(inputs, q, x0, P0)
    expected, covariances = reference(
        system, inputs, q[:, None], flat.c[None], np.array([[1e-3]]), x0, P0
    )
    assert np.allclose(estimates, expected, rtol=0, atol=1e-8)
    assert np.allclose(observer.covariances_, covariances, rtol=0, atol=1e-8)


def test_gain_one_of_the_full_state_returns_the_measurements():
    rng = np.random.default_rng(2)
    system = LinearQuadraticSystem(rng.normal(size=(3, 3)), np.ones((3, 1)), np.eye(3), np.eye(3))
    y = rng.normal(size=(20, 3))
    estimates = FixedGainObserver(system, gain=1.0).run(np.ones((20, 1)), y, np.zeros(3))
    assert np.allclose(estimates, y, rtol=0, atol=1e-12)


def test_scalar_gain_multiplies_the_pseudoinverse_and_a_matrix_is_taken_as_it_is(system):
    assert np.allclose(FixedGainObserver(system).gain_, 0.5 * np.linalg.pinv(system.C))
    L = np.arange(6.0).reshape(3, 2)
    assert np.array_equal(FixedGainObserver(system, gain=L).gain_, L)


def test_steady_gain_is_the_limit_of_the_filter(system, record):
    x0, P0 = record[4:]
    inputs, linear = (np.tile(values, (10, 1)) for values in record[:2])
    kalman = KalmanObserver(system)
    fixed = FixedGainObserver(system, gain=kalman.steady_gain())
    last = slice(-T, None)
    assert np.allclose(
        fixed.run(inputs, linear, x0, P0)[last], kalman.run(inputs, linear, x0, P0)[last], atol=1e-8
    )
    assert np.allclose(fixed.P_, kalman.P_, atol=1e-8)


def test_covariance_of_a_fixed_gain_is_that_of_its_errors():
    one = np.eye(1)
    system = LinearQuadraticSystem(0.9 * one, one, one, one, W=0.3 * one, R=one)
    rng = np.random.default_rng(3)
    n = 10_000
    states = np.zeros((n, 1))
    for t in range(1, n):
        states[t] = 0.9 * states[t - 1] + np.sqrt(0.3) * rng.normal()
    observer = FixedGainObserver(system)
    estimates = observer.run(np.zeros((n, 1)), states + rng.normal(size=(n, 1)), [0.0])
    # Mean of n squares whose correlation falls by 0.45^2 a step: its deviation is 0.017 of it.
    assert np.isclose(np.mean((estimates - states) ** 2), observer.P_[0, 0], rtol=0.07)


@pytest.mark.parametrize("kind", [KalmanObserver, FixedGainObserver, QuadraticObserver])
def test_steps_equal_the_run(kind, system, record):
    inputs, linear, quadratic, _, x0, P0 = record
    measured = quadratic if kind is QuadraticObserver else linear
    observer = kind(system)
    estimates = observer.run(inputs, measured, x0, P0)
    last = observer.covariances_[-1]
    observer.reset(x0, P0)
    steps = [observer.step(inputs[t - 1] if t else None, measured[t]) for t in range(T)]
    assert np.array_equal(np.array(steps), estimates)
    assert np.array_equal(observer.P_, last)
    assert np.array_equal(observer.x_, estimates[-1])


def test_nothing_is_predicted_at_the_first_step(system):
    observer = QuadraticObserver(system, project=False)
    x0 = np.array([1.0, 0.0, 0.0])
    observer.reset(x0)
    found = observer.step(np.ones(2), float(system.utility(x0[None])[0]))
    assert np.array_equal(found, x0)


def test_projected_estimates_attain_the_measured_utility(system, record):
    inputs, _, quadratic, _, x0, P0 = record
    estimates = QuadraticObserver(system).run(inputs, quadratic, x0, P0)
    assert np.abs(system.utility(estimates) - quadratic).max() <= 1e-6 + 1e-9


def test_noise_widens_the_set_so_that_it_holds_the_state():
    game = PursuitEvasionGame(quad_std=0.1)
    played = game.simulate(100, random_state=0)
    estimates = QuadraticObserver(game.system).run(
        played.inputs, played.quadratic, played.states[0]
    )
    gaps = np.abs(game.system.utility(estimates) - played.quadratic)
    assert gaps.max() <= 0.3 + 1e-9
    assert gaps.max() > 0.01


def test_weight_is_the_inverse_covariance(system):
    x0, P0 = np.array([1.0, -1.0, 0.5]), np.diag([0.5, 0.1, 0.3])
    plain = QuadraticObserver(system, project=False)
    plain.reset(x0, P0)
    z = plain.step(None, 6.0)
    for weight, M in (("covariance", np.linalg.inv(plain.P_)), ("identity", None)):
        observer = QuadraticObserver(system, weight=weight)
        observer.reset(x0, P0)
        expected = project_quadratic(z, system.Q, 6.0, system.c, tol=1e-6, weight=M)
        assert np.allclose(observer.step(None, 6.0), expected, atol=1e-6)
        assert np.array_equal(observer.P_, plain.P_)


def test_second_order_subtracts_the_bias_of_the_innovation(system):
    x0, P0 = np.array([1.0, -1.0, 0.5]), np.diag([0.5, 0.1, 0.3])
    q = float(system.utility(x0[None])[0]) + np.trace(system.Q @ P0)
    observer = QuadraticObserver(system, project=False, second_order=True)
    observer.reset(x0, P0)
    assert np.allclose(observer.step(None, q), x0, atol=1e-12)
    observer = QuadraticObserver(system, project=False)
    observer.reset(x0, P0)
    assert not np.allclose(observer.step(None, q), x0, atol=1e-3)


def test_an_attack_moves_the_linear_observer_alone():
    game = PursuitEvasionGame()
    attack = step_bias(100, [1.0, -0.5, 0.0, 0.0])
    clean, attacked = (game.simulate(200, a, random_state=4) for a in (None, attack))
    x0 = clean.states[0]
    safe = [
        QuadraticObserver(game.system).run(r.inputs, r.quadratic, x0) for r in (clean, attacked)
    ]
    assert np.array_equal(*safe)
    fixed = [FixedGainObserver(game.system).run(r.inputs, r.linear, x0) for r in (clean, attacked)]
    assert np.allclose((fixed[1] - fixed[0])[-1], [1.0, -0.5, 0.0, 0.0], atol=1e-3)
    assert np.array_equal(fixed[0][:100], fixed[1][:100])


def test_a_refused_measurement_leaves_the_state_as_it_was():
    one = np.eye(2)
    observer = QuadraticObserver(LinearQuadraticSystem(one, one, one, one))
    observer.reset([1.0, 0.0], one)
    first = observer.step(None, 1.0)
    with pytest.raises(ValueError, match="no point attains the measured utility"):
        observer.step([1.0, 1.0], -1.0)
    assert np.array_equal(observer.x_, first)
    # The same step again is a prediction by the same input.
    assert np.isclose(np.sum(observer.step([1.0, 1.0], 5.0) ** 2), 5.0, atol=2e-6)


# Bad input.


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"A": np.ones((2, 3))}, ValueError, "A must be square"),
        ({"B": np.ones((3, 1))}, ValueError, r"B must have shape \(2, m\), got \(3, 1\)"),
        ({"C": np.ones((1, 3))}, ValueError, r"C must have shape \(p, 2\), got \(1, 3\)"),
        ({"Q": [[0.0, 1e-6], [0.0, 0.0]]}, ValueError, "Q must be symmetric"),
        ({"Q": np.eye(3)}, ValueError, r"Q must have shape \(2, 2\)"),
        ({"c": np.ones(3)}, ValueError, r"c must have shape \(2,\)"),
        ({"W": np.diag([1.0, -0.1])}, ValueError, "W must be positive semi-definite"),
        ({"R": np.eye(3)}, ValueError, r"R must have shape \(2, 2\)"),
        ({"quad_var": -1.0}, ValueError, "quad_var must be at least 0"),
        ({"A": [["a", "b"], ["c", "d"]]}, TypeError, "A must be real numbers"),
    ],
)
def test_bad_systems_are_named(change, error, message):
    arguments = dict.fromkeys("ABCQ", np.eye(2)) | change
    with pytest.raises(error, match=message):
        LinearQuadraticSystem(**arguments)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: KalmanObserver("plant"), TypeError, "system must be a LinearQuadraticSystem"),
        (lambda s: FixedGainObserver(s, np.ones((2, 2))), ValueError, "gain must be a number or"),
        (lambda s: QuadraticObserver(s, tol=-1), ValueError, "tol must be at least 0"),
        (lambda s: QuadraticObserver(s, weight="P"), ValueError, "weight must be one of"),
        (lambda s: QuadraticObserver(s, innovation_floor=0), ValueError, "innovation_floor must"),
        (lambda s: KalmanObserver(s).step(None, [1.0, 1.0]), RuntimeError, "reset"),
        (
            lambda s: KalmanObserver(s).run(np.ones((4, 3)), np.ones((4, 2)), np.ones(3)),
            ValueError,
            r"inputs must have shape \(T, 2\), T > 0, got \(4, 3\)",
        ),
        (
            lambda s: KalmanObserver(s).run(np.ones((4, 2)), np.ones((3, 2)), np.ones(3)),
            ValueError,
            r"measurements must have shape \(4, 2\), got \(3, 2\)",
        ),
        (
            lambda s: QuadraticObserver(s).run(np.ones((4, 2)), np.ones((4, 1)), np.ones(3)),
            ValueError,
            "measurements must have 1 dimensions",
        ),
        (
            lambda s: KalmanObserver(s).run(np.ones((1, 2)), [[1.0, np.nan]], np.ones(3)),
            ValueError,
            "measurements must be finite",
        ),
        (lambda s: KalmanObserver(s).reset(np.ones(2)), ValueError, r"x0 must have shape \(3,\)"),
        (
            lambda s: KalmanObserver(s).reset(np.ones(3), -np.eye(3)),
            ValueError,
            "P0 must be positive semi-definite",
        ),
        (lambda s: s.utility(np.ones((2, 2))), ValueError, r"X must have shape \(T, 3\)"),
    ],
)
def test_bad_input_is_named(call, error, message, system):
    with pytest.raises(error, match=message):
        call(system)


def test_later_steps_need_the_input(system):
    observer = KalmanObserver(system)
    observer.reset(np.zeros(3), np.eye(3))
    observer.step(None, [1.0, 1.0])
    with pytest.raises(ValueError, match="u_prev must have shape"):
        observer.step(None, [1.0, 1.0])
    with pytest.raises(ValueError, match=r"u_prev must have shape \(2,\), got \(1,\)"):
        observer.step([1.0], [1.0, 1.0])


def test_singular_variances_are_explained():
    one = np.eye(2)
    system = LinearQuadraticSystem(2 * one, one, one, one)
    with pytest.raises(ValueError, match="R must be positive definite"):
        KalmanObserver(system).run(np.zeros((1, 2)), one[:1], [0.0, 0.0])
    with pytest.raises(ValueError, match="no steady gain"):
        KalmanObserver(system).steady_gain()
    with pytest.raises(ValueError, match="needs a positive definite covariance"):
        QuadraticObserver(system, weight="covariance").run(np.zeros((1, 2)), [1.0], [1.0, 0.0])


def test_a_run_names_the_measurement_that_no_state_attains():
    one = np.eye(2)
    observer = QuadraticObserver(LinearQuadraticSystem(one, one, one, one))
    with pytest.raises(ValueError, match="measurement 2: no point attains the measured utility"):
        observer.run(np.zeros((3, 2)), [1.0, 1.0, -1.0], [1.0, 0.0])
