"""Attack detection: an observer that can be spoofed against one that cannot, compared in windows.

A fast observer of the linear output and one of the secured quadratic output follow one plant. As
long as nobody interferes, their estimates have nearly one distribution; a kernel test whose null
distribution respects dependence in time compares them in sliding windows.

Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241): the two
observers, the projection, the wild bootstrap. The windows, the choice of the fixed-gain observer,
the check of the dependence and the detector of one measurement at a time are this project's own.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from rankone._namespace import public_names
from rankone._optional import require
from rankone.control._level_sets import array, level_set_reach, project_quadratic
from rankone.control._observers import (
    FixedGainObserver,
    KalmanObserver,
    LinearQuadraticSystem,
    QuadraticObserver,
)
from rankone.control._pursuit_evasion import (
    GameRun,
    PursuitEvasionGame,
    ramp_bias,
    replay,
    step_bias,
)
from rankone.control._wild_bootstrap import (
    MIN_SAMPLES,
    MMDResult,
    RandomState,
    check_alpha,
    check_bandwidth,
    check_bootstrap,
    generator,
    samples,
    wild_bootstrap_mmd,
    wild_multipliers,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "AttackDetector",
    "FixedGainObserver",
    "GameRun",
    "KalmanObserver",
    "LinearQuadraticSystem",
    "MMDResult",
    "OnlineAttackDetector",
    "OnlineUpdate",
    "PursuitEvasionGame",
    "QuadraticObserver",
    "integrated_autocorrelation_time",
    "level_set_reach",
    "project_quadratic",
    "ramp_bias",
    "replay",
    "step_bias",
    "wild_bootstrap_mmd",
    "wild_multipliers",
]


class AttackDetector(BaseEstimator):
    """Alarms where the estimates of two observers stop having one distribution.

    Windows of ``window`` steps, every ``step`` steps, are tested by :func:`wild_bootstrap_mmd` at
    level ``alpha``. Persistent errors of an observer make the test reject without an attack: in
    games of low noise 0.54 of the windows at level 0.05 with a Kalman filter, whose errors are
    small but slow. Use a :class:`FixedGainObserver` and level 0.01 (0.004 of the windows of 100
    games); at level 0.05 it too alarms in 0.11 of the windows without an attack. A bias of five
    deviations of the sensor was seen later than 100 steps, or not in 200, in a quarter of the
    games, and smaller ones are missed more often. Where ``autocorrelation_time_`` is a few steps,
    a shorter block sees more: with block 5 all of 24 games within 100 steps, at 0.019 false
    alarms. An isolated alarm may come by chance.

    Args:
        window: n, steps of one test.
        step: between the ends of two windows.
        alpha: level of each test.
        block: memory of the bootstrap, in steps.
        n_bootstrap: bootstrap statistics of a test.
        bandwidth: of the Gaussian kernel, or "median".
        random_state: seed.
        n_jobs: jobs over windows, as in joblib; the result does not depend on it.

    Attributes:
        window_end_: (N,) ends of the windows, exclusive: e covers [e - window, e).
        pvalues_, statistics_: (N,).
        alarms_: (N,), whether the p-value is at most ``alpha``.
        first_alarm_: ``window_end_`` of the first alarm, or None.
        autocorrelation_time_: integrated autocorrelation time of the distance between the
            estimates: the smaller one of the record's two halves, so that the onset of an attack,
            which lies in one of them, does not count as dependence.

    Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241) for
    the test between the observers; windows and defaults are this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import AttackDetector
        >>> rng = np.random.default_rng(0)
        >>> trusted = rng.normal(size=(300, 2))
        >>> spoofed = rng.normal(size=(300, 2)) + 2 * (np.arange(300) >= 150)[:, None]
        >>> detector = AttackDetector(random_state=0).detect(spoofed, trusted)
        >>> 150 < detector.first_alarm_ <= 200
        True
    """

    def __init__(
        self,
        window: int = 80,
        step: int = 10,
        alpha: float = 0.01,
        block: float = 20.0,
        n_bootstrap: int = 300,
        bandwidth: float | str = "median",
        random_state: RandomState = None,
        n_jobs: int | None = None,
    ) -> None:
        self.window = window
        self.step = step
        self.alpha = alpha
        self.block = block
        self.n_bootstrap = n_bootstrap
        self.bandwidth = bandwidth
        self.random_state = random_state
        self.n_jobs = n_jobs

    def detect(self, X_linear: ArrayLike, X_quadratic: ArrayLike) -> AttackDetector:
        """Test all windows of two trajectories.

        Args:
            X_linear: (T, n), estimates from the linear output, T at least ``window``.
            X_quadratic: (T, n), estimates from the quadratic output.

        Returns:
            self.

        Raises:
            ValueError: for shapes that do not fit, values that are not finite, parameters out of
                range.
            TypeError: for values that are not numbers.

        Warns:
            UserWarning: if ``autocorrelation_time_`` is above ``block``: p-values are too small.
        """
        self._check()
        X, Y = samples(X_linear, "X_linear"), samples(X_quadratic, "X_quadratic")
        if X.shape != Y.shape:
            raise ValueError(
                f"X_linear and X_quadratic must have one shape, got {X.shape} and {Y.shape}"
            )
        if len(X) < self.window:
            raise ValueError(f"X_linear must have at least window={self.window} rows, got {len(X)}")
        seed = self._seed()
        self.window_end_ = np.arange(self.window, len(X) + 1, self.step)
        tests = Parallel(n_jobs=self.n_jobs)(
            delayed(self._test)(X[end - self.window : end], Y[end - self.window : end], seed, index)
            for index, end in enumerate(self.window_end_)
        )
        self.pvalues_ = np.array([test.pvalue for test in tests])
        self.statistics_ = np.array([test.statistic for test in tests])
        self.alarms_ = self.pvalues_ <= self.alpha
        alarmed = np.flatnonzero(self.alarms_)
        self.first_alarm_ = int(self.window_end_[alarmed[0]]) if len(alarmed) else None
        distance = np.linalg.norm(X - Y, axis=1)
        half = len(distance) // 2
        self.autocorrelation_time_ = min(
            integrated_autocorrelation_time(distance[:half]),
            integrated_autocorrelation_time(distance[half:]),
        )
        if self.autocorrelation_time_ > self.block:
            warnings.warn(
                "dependence longer than the bootstrap block: the integrated autocorrelation time "
                f"{self.autocorrelation_time_:.3g} is above block={self.block:.3g}, so that "
                "p-values are too small; raise block and window, or use an observer that forgets "
                "its errors faster, such as FixedGainObserver",
                UserWarning,
                stacklevel=2,
            )
        return self

    def plot(self, *, attack_time: int | None = None, ax: Axes | None = None) -> Axes:
        """p-values against the ends of their windows, with the level.

        Args:
            attack_time: marked if given.
            ax: where to draw; None makes a figure.

        Returns:
            The axes.

        Raises:
            sklearn.exceptions.NotFittedError: before ``detect``.
        """
        if not hasattr(self, "pvalues_"):
            raise NotFittedError("plot needs p-values: call detect first")
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots()
        ax.semilogy(self.window_end_, self.pvalues_, "o-", label="p-value")
        ax.semilogy(self.window_end_[self.alarms_], self.pvalues_[self.alarms_], "s", label="alarm")
        ax.axhline(self.alpha, linestyle=":", color="0.5", label=f"level {self.alpha:g}")
        if attack_time is not None:
            ax.axvline(attack_time, linestyle="--", color="0.5", label="attack")
        ax.set_xlabel("end of the window")
        ax.set_ylabel("p-value")
        ax.legend()
        return ax

    def _check(self) -> None:
        for name, least in (("window", MIN_SAMPLES), ("step", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        check_alpha(self.alpha)
        check_bootstrap(self.n_bootstrap, self.block)
        check_bandwidth(self.bandwidth)
        if self.alpha * (1 + self.n_bootstrap) < 1:
            raise ValueError(
                f"alpha must be at least 1/(1 + n_bootstrap)={1 / (1 + self.n_bootstrap):.4g}, "
                f"the smallest p-value, got {self.alpha}"
            )

    def _seed(self) -> int:
        return int(generator(self.random_state).integers(2**32))

    def _test(self, X: np.ndarray, Y: np.ndarray, seed: int, index: int) -> MMDResult:
        """The test of window ``index``, which has a generator of its own."""
        return wild_bootstrap_mmd(
            X,
            Y,
            n_bootstrap=self.n_bootstrap,
            block=self.block,
            bandwidth=self.bandwidth,
            alpha=self.alpha,
            random_state=np.random.default_rng([seed, index]),
        )


@dataclass(frozen=True, eq=False)
class OnlineUpdate:
    """What one measurement told.

    Attributes:
        time: t, from 0.
        x_linear: (n,), estimate that an attack may have corrupted.
        x_quadratic: (n,), secured estimate.
        pvalue: of the window that ends here, or None between windows.
        alarm: whether that window alarms.
    """

    time: int
    x_linear: np.ndarray
    x_quadratic: np.ndarray
    pvalue: float | None
    alarm: bool


class OnlineAttackDetector:
    """Both observers and the windows' tests, one measurement at a time.

    It keeps the last ``window`` estimates and gives the numbers that the observers' ``run`` and
    ``AttackDetector.detect`` give on the whole record, with an integer ``random_state``. The
    dependence in time is not checked online: check it on a record without attack.

    Args:
        system: the plant.
        linear: observer of the linear output; None for ``FixedGainObserver(system)``.
        quadratic: observer of the quadratic output; None for ``QuadraticObserver(system)``.
        detector: windows, level and seed; None for ``AttackDetector()``.

    Attributes:
        first_alarm_: number of measurements at the first alarm, or None.

    Raises:
        TypeError: for a part of another type.
        ValueError: for parameters of the detector out of range.

    This project's own design, for "Attack Detection in Dynamic Games with Quadratic Measurements"
    (arXiv 2510.00241).

    Example:
        >>> from rankone.control.attack_detection import (
        ...     AttackDetector, OnlineAttackDetector, PursuitEvasionGame, step_bias,
        ... )
        >>> game = PursuitEvasionGame()
        >>> run = game.simulate(300, step_bias(150, [1.0, -0.5, 0.0, 0.0]), random_state=0)
        >>> online = OnlineAttackDetector(game.system, detector=AttackDetector(random_state=0))
        >>> online.reset(run.states[0])
        >>> for t in range(300):
        ...     u_prev = run.inputs[t - 1] if t else None
        ...     update = online.step(u_prev, run.linear[t], run.quadratic[t])
        >>> 150 < online.first_alarm_ <= 250
        True
    """

    def __init__(
        self,
        system: LinearQuadraticSystem,
        *,
        linear: KalmanObserver | FixedGainObserver | None = None,
        quadratic: QuadraticObserver | None = None,
        detector: AttackDetector | None = None,
    ) -> None:
        self.linear = FixedGainObserver(system) if linear is None else linear
        self.quadratic = QuadraticObserver(system) if quadratic is None else quadratic
        self.detector = AttackDetector() if detector is None else detector
        for name, kinds in (
            ("linear", (KalmanObserver, FixedGainObserver)),
            ("quadratic", (QuadraticObserver,)),
            ("detector", (AttackDetector,)),
        ):
            part = getattr(self, name)
            if not isinstance(part, kinds):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{name} must be a {wanted}, got {type(part).__name__}")
        self.detector._check()
        self._time: int | None = None

    def reset(self, x0: ArrayLike, P0: ArrayLike | None = None) -> None:
        """Start again with the prior (x0, P0) of both observers, forgetting all windows."""
        self.linear.reset(x0, P0)
        self.quadratic.reset(x0, P0)
        self._past: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=self.detector.window)
        self._seed = self.detector._seed()
        self._time = 0
        self.first_alarm_: int | None = None

    def step(self, u_prev: ArrayLike | None, linear: ArrayLike, quadratic: float) -> OnlineUpdate:
        """One more measurement of both outputs.

        Args:
            u_prev: (m,), the input since the last measurement; None at the first.
            linear: (p,), measured linear output.
            quadratic: measured quadratic output.

        Returns:
            :class:`OnlineUpdate`.

        Raises:
            RuntimeError: before ``reset``.
            ValueError: for shapes that do not fit or values that are not finite.
        """
        if self._time is None:
            raise RuntimeError("reset(x0, P0) must come before the first step")
        # A measurement refused by one observer must not move the other.
        array(quadratic, "quadratic", 0)
        before = self.linear.x_, self.linear.P_, self.linear._started
        x_linear = self.linear.step(u_prev, linear)
        try:
            x_quadratic = self.quadratic.step(u_prev, quadratic)
        except ValueError:
            self.linear.x_, self.linear.P_, self.linear._started = before
            raise
        self._past.append((x_linear, x_quadratic))
        time, self._time = self._time, self._time + 1
        index, between = divmod(self._time - self.detector.window, self.detector.step)
        pvalue, alarm = None, False
        if index >= 0 and between == 0:
            X, Y = (np.array(side) for side in zip(*self._past, strict=True))
            pvalue = self.detector._test(X, Y, self._seed, index).pvalue
            alarm = pvalue <= self.detector.alpha
            if alarm and self.first_alarm_ is None:
                self.first_alarm_ = self._time
        return OnlineUpdate(time, x_linear, x_quadratic, pvalue, alarm)


def integrated_autocorrelation_time(series: ArrayLike) -> float:
    """Steps that carry one independent value: 1 + 2 (sum of the autocorrelations).

    The sum ends before the first pair of neighbouring autocorrelations, from lag 0, whose sum is
    not positive (the initial positive sequence).

    Args:
        series: (T,), T at least 2.

    Returns:
        The time; 1 for a constant series.

    Raises:
        ValueError: for another shape or values that are not finite.

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import integrated_autocorrelation_time
        >>> noise = np.random.default_rng(0).normal(size=1000)
        >>> 0.7 < integrated_autocorrelation_time(noise) < 1.5
        True
    """
    series = array(series, "series", 1)
    if len(series) < 2:
        raise ValueError(f"series must have at least 2 values, got {len(series)}")
    if math.isclose(float(np.ptp(series)), 0.0, abs_tol=1e-12 * float(np.abs(series).max())):
        return 1.0
    acf = require("statsmodels.tsa.stattools", extra="stats").acf
    correlations = acf(series, nlags=len(series) - 1, fft=True)
    pairs = correlations[: len(series) // 2 * 2].reshape(-1, 2).sum(axis=1)
    ends = np.flatnonzero(pairs <= 0)
    return float(2 * pairs[: ends[0] if len(ends) else None].sum() - 1)


def __dir__() -> list[str]:
    return public_names(globals())
