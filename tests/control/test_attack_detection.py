"""The detector over windows, online and on a record; the game and the attacks on it."""

import warnings

import numpy as np
import pytest
from joblib import parallel_config
from rankone.control.attack_detection import (
    AttackDetector,
    FixedGainObserver,
    KalmanObserver,
    OnlineAttackDetector,
    PursuitEvasionGame,
    QuadraticObserver,
    integrated_autocorrelation_time,
    ramp_bias,
    replay,
    step_bias,
    wild_bootstrap_mmd,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

BIAS = (1.0, -0.5, 0.0, 0.0)

START = 200


@pytest.fixture(scope="module")
def game():
    return PursuitEvasionGame()


@pytest.fixture(scope="module")
def attacked(game):
    return game.simulate(400, step_bias(START, BIAS), random_state=0)


@pytest.fixture(scope="module")
def estimates(game, attacked):
    x0 = attacked.states[0]
    return (
        FixedGainObserver(game.system).run(attacked.inputs, attacked.linear, x0),
        QuadraticObserver(game.system).run(attacked.inputs, attacked.quadratic, x0),
    )


@pytest.fixture(scope="module")
def detected(estimates):
    return AttackDetector(random_state=0).detect(*estimates)


# The detector.


def test_windows_end_where_they_say(detected):
    assert detected.window_end_.tolist() == list(range(80, 401, 10))
    for name in ("pvalues_", "statistics_", "alarms_"):
        assert getattr(detected, name).shape == detected.window_end_.shape
    assert detected.alarms_.dtype == bool


def test_statistics_are_those_of_their_windows(detected, estimates):
    for index in (0, 7, len(detected.window_end_) - 1):
        end = detected.window_end_[index]
        alone = wild_bootstrap_mmd(*(each[end - 80 : end] for each in estimates))
        assert detected.statistics_[index] == alone.statistic


def test_first_alarm_is_the_first_window_below_the_level(detected):
    assert np.array_equal(detected.alarms_, detected.pvalues_ <= 0.01)
    assert detected.first_alarm_ == detected.window_end_[detected.alarms_][0]


def test_step_is_detected_and_few_windows_alarm_without_it(game):
    before, delays = [], []
    for seed in range(6):
        run = game.simulate(400, step_bias(START, BIAS), random_state=seed)
        linear = FixedGainObserver(game.system).run(run.inputs, run.linear, run.states[0])
        secured = QuadraticObserver(game.system).run(run.inputs, run.quadratic, run.states[0])
        detector = AttackDetector(random_state=seed).detect(linear, secured)
        ends = detector.window_end_
        before.extend(detector.alarms_[ends <= START])
        delays.append(ends[detector.alarms_ & (ends > START)][0] - START)
    assert np.mean(before) <= 0.05
    assert np.median(delays) <= 100
    assert max(delays) < 200


def test_no_alarm_is_none():
    X, Y = np.random.default_rng(0).normal(size=(2, 100, 2))
    detector = AttackDetector(random_state=0).detect(X, Y)
    assert not detector.alarms_.any()
    assert detector.first_alarm_ is None


def test_seed_repeats_whatever_the_jobs(detected, estimates):
    with parallel_config(backend="threading"):
        again = clone(detected).set_params(n_jobs=2).detect(*estimates)
    assert np.array_equal(again.pvalues_, detected.pvalues_)


def test_dependence_beyond_the_block_warns():
    rng = np.random.default_rng(1)
    walk, other = np.cumsum(rng.normal(size=(2, 400, 1)), axis=1)
    detector = AttackDetector(random_state=0)
    with pytest.warns(UserWarning, match="dependence longer than the bootstrap block"):
        detector.detect(walk, other)
    assert detector.autocorrelation_time_ > detector.block


def test_an_attack_is_not_dependence(estimates):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        detector = AttackDetector(random_state=0).detect(*estimates)
    assert detector.autocorrelation_time_ < 5
    # The onset alone would count as dependence over hundreds of steps.
    assert integrated_autocorrelation_time(np.linalg.norm(np.subtract(*estimates), axis=1)) > 20


def test_autocorrelation_time_of_an_autoregression():
    rng = np.random.default_rng(2)
    series = rng.normal(size=40_000)
    for t in range(1, len(series)):
        series[t] += 0.8 * series[t - 1]
    # (1 + 0.8) / (1 - 0.8), known to a few per cent from so many values.
    assert np.isclose(integrated_autocorrelation_time(series), 9, rtol=0.2)
    assert integrated_autocorrelation_time(np.full(50, 3.0)) == 1


def test_plot_shows_every_window(detected):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _, given = pyplot.subplots()
    axes = detected.plot(attack_time=START, ax=given)
    assert axes is given
    assert np.array_equal(axes.lines[0].get_ydata(), detected.pvalues_)
    pyplot.close("all")
    with pytest.raises(NotFittedError, match="call detect first"):
        AttackDetector().plot()


# One measurement at a time.


def test_online_equals_the_record(game, attacked, estimates, detected):
    online = OnlineAttackDetector(game.system, detector=AttackDetector(random_state=0))
    for _ in range(2):
        online.reset(attacked.states[0])
        updates = [
            online.step(attacked.inputs[t - 1] if t else None, y, q)
            for t, (y, q) in enumerate(zip(attacked.linear, attacked.quadratic, strict=True))
        ]
        assert np.array_equal([u.x_linear for u in updates], estimates[0])
        assert np.array_equal([u.x_quadratic for u in updates], estimates[1])
        tested = [u for u in updates if u.pvalue is not None]
        assert [u.time + 1 for u in tested] == detected.window_end_.tolist()
        assert np.array_equal([u.pvalue for u in tested], detected.pvalues_)
        assert [u.alarm for u in tested] == detected.alarms_.tolist()
        assert online.first_alarm_ == detected.first_alarm_


def test_online_takes_other_observers(game):
    online = OnlineAttackDetector(
        game.system,
        linear=KalmanObserver(game.system),
        quadratic=QuadraticObserver(game.system, project=False),
        detector=AttackDetector(window=10, step=1),
    )
    run = game.simulate(12, random_state=0)
    online.reset(run.states[0], 0.01 * np.eye(4))
    updates = [online.step(np.zeros(2), run.linear[t], run.quadratic[t]) for t in range(12)]
    assert [u.pvalue is not None for u in updates] == [False] * 9 + [True] * 3


@pytest.mark.parametrize(
    "bad",
    [(np.zeros(2), np.zeros(4), -1.0), (np.zeros(2), np.zeros(3), 20.0), (None, [0.0] * 4, 1)],
)
def test_refused_measurement_moves_neither_observer(game, bad):
    online = OnlineAttackDetector(game.system)
    run = game.simulate(3, random_state=0)
    online.reset(run.states[0])
    online.step(None, run.linear[0], run.quadratic[0])
    states = online.linear.x_.copy(), online.quadratic.x_.copy()
    with pytest.raises(ValueError, match=r"no point attains|must have shape"):
        online.step(*bad)
    assert np.array_equal(states, (online.linear.x_, online.quadratic.x_))
    assert online.step(run.inputs[0], run.linear[1], run.quadratic[1]).time == 1


# The game.


def test_game_follows_its_plant(game):
    run = game.simulate(4000, random_state=1)
    system = game.system
    process = run.states[1:] - run.states[:-1] @ system.A.T - run.inputs[:-1] @ system.B.T
    assert np.allclose(process.std(axis=0), 0.001 * np.array([0.1, 0.1, 1, 1]), rtol=0.06)
    assert np.allclose(np.diag(system.W), 1e-6 * np.array([0.01, 0.01, 1, 1]), rtol=1e-12)
    assert np.allclose((run.linear - run.states).std(axis=0), 0.2, rtol=0.06)
    p, v = run.states[:, :2], run.states[:, 2:]
    assert np.allclose(run.quadratic, (p**2).sum(1) + 0.5 * (v**2).sum(1), rtol=1e-12)


def test_start_and_policies_are_as_stated(game):
    starts = np.array([game.simulate(1, random_state=s).states[0] for s in range(200)])
    assert np.all((np.abs(starts[:, :2]) >= 3) & (np.abs(starts[:, :2]) <= 5))
    assert {tuple(signs) for signs in np.sign(starts[:, :2])} == {
        (a, b) for a in (-1, 1) for b in (-1, 1)
    }
    assert np.allclose(starts[:, 2:].std(axis=0), 0.3, rtol=0.2)
    run = game.simulate(300, random_state=0)
    p, v = run.states[:, :2], run.states[:, 2:]
    pursuit = 0.5 * (p - 2 * p / np.linalg.norm(p, axis=1, keepdims=True)) + v
    sizes = np.linalg.norm(pursuit, axis=1, keepdims=True)
    evasion = run.inputs + pursuit * np.minimum(1, 2 / sizes)
    phase = np.arctan2(evasion[0, 1], evasion[0, 0])
    t = 0.1 * np.arange(300)
    expected = 0.6 * np.stack([np.cos(0.6 * t + phase), np.sin(0.5 * t + phase)], axis=1)
    assert np.allclose(evasion, expected, atol=1e-10)


def test_players_are_not_misled_by_the_attack(game):
    attacks = [None, step_bias(10, BIAS), ramp_bias(10, BIAS, 5), replay(10, 4)]
    runs = [game.simulate(30, attack, random_state=2) for attack in attacks]
    clean, step, ramp, replayed = (run.linear for run in runs)
    for run in runs[1:]:
        for name in ("states", "inputs", "quadratic"):
            assert np.array_equal(getattr(run, name), getattr(runs[0], name))
        assert np.array_equal(run.linear[:10], clean[:10])
    assert np.allclose(step[10:] - clean[10:], BIAS)
    assert np.allclose(ramp[12] - clean[12], 0.4 * np.array(BIAS))
    assert np.allclose(ramp[15:] - clean[15:], BIAS)
    assert np.allclose(replayed[10:], clean[6:26])


def test_payoff_noise_and_indefinite_payoffs():
    noisy = PursuitEvasionGame(quad_std=0.5, velocity_weight=-1.0)
    run = noisy.simulate(2000, random_state=3)
    assert np.isclose(np.std(run.quadratic - noisy.system.utility(run.states)), 0.5, rtol=0.08)
    assert noisy.system.quad_var == 0.25


# Bad input.

PAIR = np.zeros((100, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda g: AttackDetector().detect(PAIR, PAIR[:-1]), ValueError, "must have one shape"),
        (lambda g: AttackDetector().detect(PAIR[:50], PAIR[:50]), ValueError, "window=80 rows"),
        (
            lambda g: AttackDetector().detect(PAIR * np.nan, PAIR),
            ValueError,
            "X_linear must be finite",
        ),
        (lambda g: AttackDetector(window=9).detect(PAIR, PAIR), ValueError, "window must be at"),
        (lambda g: AttackDetector(step=0).detect(PAIR, PAIR), ValueError, "step must be at least"),
        (lambda g: AttackDetector(step=1.5).detect(PAIR, PAIR), TypeError, "step must be an"),
        (lambda g: AttackDetector(alpha=0).detect(PAIR, PAIR), ValueError, "alpha must be in"),
        (lambda g: AttackDetector(block=-1).detect(PAIR, PAIR), ValueError, "block must be"),
        (lambda g: AttackDetector(n_bootstrap=50).detect(PAIR, PAIR), ValueError, "alpha must be"),
        (lambda g: OnlineAttackDetector(g.system, linear=1), TypeError, "linear must be a Kalman"),
        (lambda g: OnlineAttackDetector(g.system).step(None, [0], 0), RuntimeError, "reset"),
        (lambda g: integrated_autocorrelation_time([1.0]), ValueError, "series must have at least"),
        (lambda g: PursuitEvasionGame(dt=0.0), ValueError, "dt must be positive"),
        (lambda g: PursuitEvasionGame(sensor_std=-1.0), ValueError, "sensor_std must be at least"),
        (lambda g: g.simulate(0), ValueError, "n_steps must be at least 1"),
        (lambda g: g.simulate(2.0), TypeError, "n_steps must be an integer"),
        (lambda g: g.simulate(3, step_bias(0, [1.0])), ValueError, r"must have shape \(4,\)"),
        (lambda g: step_bias(-1, BIAS), ValueError, "start must be at least 0"),
        (lambda g: ramp_bias(1.5, BIAS), TypeError, "start must be an integer"),
        (lambda g: ramp_bias(1, BIAS, 0), ValueError, "length must be positive"),
        (lambda g: replay(5, 6), ValueError, "delay must be between 1 and start=5, got 6"),
    ],
)
def test_bad_input_is_named(call, error, message, game):
    with pytest.raises(error, match=message):
        call(game)
