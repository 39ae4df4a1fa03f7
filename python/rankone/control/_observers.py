"""Observers of a linear plant: one that reads the linear output, one that reads the quadratic one.

Both are one loop: predict with the known input, then update with the measurement. At t = 0 nothing
is predicted: (x0, P0) is the prior of the first update. The quadratic observer never sees the
linear output, so that nothing an attacker adds there can reach it.

Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241): a Kalman
filter on the attackable channel, an observer like an extended Kalman filter with a projection on
the secured one. Floors, tolerances and the fixed-gain observer are this project's own design.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import LinAlgError, cho_factor, cho_solve, cholesky, eigh, solve_discrete_are

from rankone._repr import short_repr
from rankone.control._level_sets import LevelSets, array, linear_part, quadratic, symmetric

# Eigenvalues of a covariance down to minus this times the largest are rounding.
_SEMIDEFINITE = 1e-10

# Standard deviations of the measured utility within which the state is looked for.
_SIGMAS = 3.0

WEIGHTS = ("identity", "covariance")


def _covariance(value: ArrayLike | None, name: str, size: int) -> np.ndarray:
    if value is None:
        return np.zeros((size, size))
    out = symmetric(value, name, size)
    eigenvalues = eigh(out, eigvals_only=True)
    if eigenvalues[0] < -_SEMIDEFINITE * max(1.0, eigenvalues[-1]):
        raise ValueError(
            f"{name} must be positive semi-definite, got an eigenvalue of {eigenvalues[0]:.3g}"
        )
    return out


@dataclass(frozen=True, eq=False)
class LinearQuadraticSystem:
    """A linear plant with a linear output, which may be attacked, and a secured quadratic one.

    x_{t+1} = A x_t + B u_t + w_t; y_t = C x_t + v_t + a_t; q_t = x_t' Q x_t + c' x_t + n_t.

    Attributes:
        A: (n, n).
        B: (n, m).
        C: (p, n).
        Q: (n, n), symmetric, possibly indefinite.
        c: (n,); None for 0.
        W: (n, n), covariance of w; None for 0.
        R: (p, p), covariance of v; None for 0.
        quad_var: variance of n.

    Raises:
        ValueError: for shapes that do not fit, a Q that is not symmetric (to 1e-10), or variances
            that are not positive semi-definite.
        TypeError: for entries that are not real numbers.

    Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241).

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import LinearQuadraticSystem
        >>> system = LinearQuadraticSystem(A=np.eye(2), B=np.eye(2), C=np.eye(2), Q=np.eye(2))
        >>> system.utility([[3.0, 4.0]]).tolist()
        [25.0]
    """

    __repr__ = short_repr

    A: np.ndarray
    B: np.ndarray
    C: np.ndarray
    Q: np.ndarray
    c: np.ndarray | None = None
    W: np.ndarray | None = None
    R: np.ndarray | None = None
    quad_var: float = 0.0

    def __post_init__(self) -> None:
        A, B, C = (array(getattr(self, name), name, 2) for name in "ABC")
        n = len(A)
        if not n or A.shape != (n, n):
            raise ValueError(f"A must be square, got shape {A.shape}")
        if len(B) != n:
            raise ValueError(f"B must have shape ({n}, m), got {B.shape}")
        if C.shape[1] != n or not len(C):
            raise ValueError(f"C must have shape (p, {n}), got {C.shape}")
        quad_var = float(array(self.quad_var, "quad_var", 0))
        if quad_var < 0:
            raise ValueError(f"quad_var must be at least 0, got {quad_var}")
        checked = {
            "A": A,
            "B": B,
            "C": C,
            "Q": symmetric(self.Q, "Q", n),
            "c": linear_part(self.c, n),
            "W": _covariance(self.W, "W", n),
            "R": _covariance(self.R, "R", len(C)),
            "quad_var": quad_var,
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def utility(self, X: ArrayLike) -> np.ndarray:
        """x'Qx + c'x, without noise.

        Args:
            X: (T, n).

        Returns:
            (T,).

        Raises:
            ValueError: for another shape, or numbers that are not finite.
        """
        X = array(X, "X", 2)
        if X.shape[1] != len(self.A):
            raise ValueError(f"X must have shape (T, {len(self.A)}), got {X.shape}")
        return quadratic(X, self.Q, cast(np.ndarray, self.c))


class _Observer:
    """Predict, then update; a subclass says how to update.

    Attributes:
        x_: (n,), the last estimate.
        P_: (n, n), its covariance.
        covariances_: (T, n, n), after ``run``.
    """

    x_: np.ndarray
    P_: np.ndarray
    covariances_: np.ndarray

    def __init__(self, system: LinearQuadraticSystem) -> None:
        if not isinstance(system, LinearQuadraticSystem):
            raise TypeError(f"system must be a LinearQuadraticSystem, got {type(system).__name__}")
        self.system = system
        self._W = cast(np.ndarray, system.W)
        self._started: bool | None = None

    def reset(self, x0: ArrayLike, P0: ArrayLike | None = None) -> None:
        """Start again: the prior of the next measurement.

        Args:
            x0: (n,).
            P0: (n, n), its covariance; None for 0, an initial state known exactly.

        Raises:
            ValueError: for shapes that do not fit or a P0 that is not positive semi-definite.
        """
        n = len(self.system.A)
        x = array(x0, "x0", 1)
        if len(x) != n:
            raise ValueError(f"x0 must have shape ({n},), got {x.shape}")
        self.x_, self.P_ = x.copy(), _covariance(P0, "P0", n)
        self._started = False

    def step(self, u_prev: ArrayLike | None, measurement: ArrayLike) -> np.ndarray:
        """The estimate after one more measurement.

        Args:
            u_prev: (m,), the input since the last measurement. The first step after ``reset``
                predicts nothing and ignores it; give None there.
            measurement: (p,) of the linear output, or a number of the quadratic one.

        Returns:
            (n,), a copy of ``x_``.

        Raises:
            RuntimeError: before ``reset``.
            ValueError: for shapes that do not fit; the state stays as it was.
        """
        if self._started is None:
            raise RuntimeError("reset(x0, P0) must come before the first step")
        m = self.system.B.shape[1]
        u = None
        if self._started:
            if u_prev is None:
                raise ValueError(f"u_prev must have shape ({m},) after the first step, got None")
            u = array(u_prev, "u_prev", 1)
            if u.shape != (m,):
                raise ValueError(f"u_prev must have shape ({m},), got {u.shape}")
        return self._advance(u, self._measured(measurement, ())).copy()

    def run(
        self,
        inputs: ArrayLike,
        measurements: ArrayLike,
        x0: ArrayLike,
        P0: ArrayLike | None = None,
    ) -> np.ndarray:
        """All estimates of a record.

        Args:
            inputs: (T, m); ``inputs[t]`` moves x_t to x_{t+1}, the last is not used.
            measurements: (T, p) of the linear output, or (T,) of the quadratic one.
            x0: (n,), prior mean of the first state.
            P0: (n, n), its covariance; None for 0.

        Returns:
            (T, n), each after its own measurement.

        Raises:
            ValueError: for shapes that do not fit, or values that are not finite.
        """
        inputs = array(inputs, "inputs", 2)
        T, m = len(inputs), self.system.B.shape[1]
        if not T or inputs.shape[1] != m:
            raise ValueError(f"inputs must have shape (T, {m}), T > 0, got {inputs.shape}")
        measured = self._measured(measurements, (T,))
        self.reset(x0, P0)
        estimates = np.empty((T, len(self.x_)))
        covariances = np.empty((T, len(self.x_), len(self.x_)))
        for t in range(T):
            try:
                estimates[t] = self._advance(inputs[t - 1] if t else None, measured[t])
            except ValueError as error:
                raise ValueError(f"measurement {t}: {error}") from error
            covariances[t] = self.P_
        self.covariances_ = covariances
        return estimates

    def _advance(self, u: np.ndarray | None, measured: np.ndarray) -> np.ndarray:
        x, P = self.x_, self.P_
        if u is not None:
            A = self.system.A
            x = A @ x + self.system.B @ u
            P = A @ P @ A.T + self._W
        self.x_, self.P_ = self._update(x, P, measured)
        self._started = True
        return self.x_

    def _measured(self, value: ArrayLike, leading: tuple[int, ...]) -> np.ndarray:
        shape = leading + self._shape()
        name = "measurements" if leading else "measurement"
        out = array(value, name, len(shape))
        if out.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {out.shape}")
        return out

    def _shape(self) -> tuple[int, ...]:
        return (len(self.system.C),)

    def _update(
        self, x: np.ndarray, P: np.ndarray, measured: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        raise AssertionError("a subclass updates")


class _LinearObserver(_Observer):
    def _update(
        self, x: np.ndarray, P: np.ndarray, measured: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        C, R = self.system.C, cast(np.ndarray, self.system.R)
        gain = self._gain_at(P)
        left = np.eye(len(x)) - gain @ C
        P = left @ P @ left.T + gain @ R @ gain.T  # Joseph's form: right for any gain
        return x + gain @ (measured - C @ x), (P + P.T) / 2

    def _gain_at(self, P: np.ndarray) -> np.ndarray:
        raise AssertionError("a subclass has a gain")


class KalmanObserver(_LinearObserver):
    """Kalman filter on the linear output, which an attack corrupts.

    Args:
        system: the plant.

    Attributes:
        x_, P_, covariances_: last estimate (n,), its covariance, those of all times (T, n, n).

    Its errors are small but slow where the process noise is low; a test for equal distributions
    then rejects without an attack (see :class:`AttackDetector`).

    Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241).

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import KalmanObserver, LinearQuadraticSystem
        >>> one = np.eye(1)
        >>> system = LinearQuadraticSystem(A=one, B=one, C=one, Q=one, W=one, R=one)
        >>> KalmanObserver(system).run(np.zeros((2, 1)), [[2.0], [2.0]], [0.0], one).round(3)
        array([[1. ],
               [1.6]])
    """

    def steady_gain(self) -> np.ndarray:
        """(n, p), the gain that the filter tends to, for :class:`FixedGainObserver`.

        Raises:
            ValueError: if the Riccati equation has no stabilising solution.
        """
        system = self.system
        try:
            P = solve_discrete_are(system.A.T, system.C.T, self._W, system.R)
        except (LinAlgError, ValueError) as error:
            raise ValueError(
                "system has no steady gain: (A, C) must be detectable, W excite every mode that "
                "is not stable and R be positive definite"
            ) from error
        return self._gain_at(P)

    def _gain_at(self, P: np.ndarray) -> np.ndarray:
        C, R = self.system.C, cast(np.ndarray, self.system.R)
        try:
            factor = cho_factor(C @ P @ C.T + R)
        except LinAlgError as error:
            raise ValueError(
                "R must be positive definite where the predicted covariance is singular"
            ) from error
        return cho_solve(factor, C @ P).T


class FixedGainObserver(_LinearObserver):
    """Observer of the linear output with one gain for all times.

    With the default gain it forgets its errors within a few steps, so that they are nearly
    independent in time: noisier than a Kalman filter, but what the test of
    :class:`AttackDetector` needs.

    Args:
        system: the plant.
        gain: a number g for L = g C^+, or L itself (n, p).

    Attributes:
        gain_: (n, p), L.
        x_, P_, covariances_: last estimate (n,), its covariance, those of all times (T, n, n).

    This project's own design, for "Attack Detection in Dynamic Games with Quadratic Measurements"
    (arXiv 2510.00241).

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import FixedGainObserver, LinearQuadraticSystem
        >>> one = np.eye(1)
        >>> system = LinearQuadraticSystem(A=one, B=one, C=one, Q=one)
        >>> FixedGainObserver(system).run(np.zeros((2, 1)), [[2.0], [2.0]], [0.0]).ravel().tolist()
        [1.0, 1.5]
    """

    def __init__(self, system: LinearQuadraticSystem, gain: float | ArrayLike = 0.5) -> None:
        super().__init__(system)
        self.gain = gain
        if np.ndim(gain) == 0:
            self.gain_ = float(array(gain, "gain", 0)) * np.linalg.pinv(system.C)
        else:
            self.gain_ = array(gain, "gain", 2)
            if self.gain_.shape != system.C.T.shape:
                raise ValueError(
                    f"gain must be a number or have shape {system.C.T.shape}, "
                    f"got {self.gain_.shape}"
                )

    def _gain_at(self, P: np.ndarray) -> np.ndarray:
        return self.gain_


class QuadraticObserver(_Observer):
    """Observer of the secured quadratic output alone.

    An update like that of an extended Kalman filter, linearised at the prediction, and then the
    projection on the states that the measured utility allows. It needs an accurate x0 and low
    process noise: one number a step cannot find a lost state again.

    Args:
        system: the plant.
        tol: width of the set projected on where ``quad_var`` is 0; otherwise it is
            3 sqrt(quad_var).
        project: False leaves the projection out.
        weight: metric of the projection: "identity", or "covariance" for the inverse of the
            estimate's covariance, which must then be positive definite.
        innovation_floor: smallest variance of the measurement in the update.
        second_order: subtract the bias trace(Q P) of the innovation.

    Attributes:
        x_, P_, covariances_: last estimate (n,), its covariance, those of all times (T, n, n).
            The projection leaves the covariance as it is.

    Raises:
        ValueError: for parameters out of range; in a step, if no state attains the measured
            utility, as where noise took a squared range below 0 by more than the tolerance.

    Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241); the
    floor, the tolerance and the solver of the projection are this project's own.

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import LinearQuadraticSystem, QuadraticObserver
        >>> one = np.eye(2)
        >>> system = LinearQuadraticSystem(A=one, B=one, C=one, Q=one)
        >>> observer = QuadraticObserver(system)
        >>> observer.run(np.zeros((1, 2)), [4.0], [1.9, 0.0], 0.1 * one).round(3).tolist()
        [[2.0, 0.0]]
    """

    def __init__(
        self,
        system: LinearQuadraticSystem,
        tol: float = 1e-6,
        project: bool = True,
        weight: str = "identity",
        innovation_floor: float = 1e-4,
        second_order: bool = False,
    ) -> None:
        super().__init__(system)
        self.tol = float(array(tol, "tol", 0))
        if self.tol < 0:
            raise ValueError(f"tol must be at least 0, got {tol}")
        if weight not in WEIGHTS:
            raise ValueError(f"weight must be one of {WEIGHTS}, got {weight!r}")
        self.innovation_floor = float(array(innovation_floor, "innovation_floor", 0))
        if self.innovation_floor < 0:
            raise ValueError(f"innovation_floor must be at least 0, got {innovation_floor}")
        self._variance = max(system.quad_var, self.innovation_floor)
        if self._variance == 0:
            raise ValueError("innovation_floor must be positive where quad_var is 0, got 0")
        self.project, self.weight, self.second_order = project, weight, second_order
        self._tol = self.tol if system.quad_var == 0 else _SIGMAS * float(np.sqrt(system.quad_var))
        self._c = cast(np.ndarray, system.c)
        self._sets = LevelSets(system.Q, self._c)

    def _shape(self) -> tuple[int, ...]:
        return ()

    def _update(
        self, x: np.ndarray, P: np.ndarray, measured: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        Q, q = self.system.Q, float(measured)
        innovation = q - float(quadratic(x, Q, self._c))
        if self.second_order:
            innovation -= float((Q * P).sum())
        slope = 2 * Q @ x + self._c
        P_slope = P @ slope
        gain = P_slope / (slope @ P_slope + self._variance)
        x = x + gain * innovation
        P = P - np.outer(gain, P_slope)
        P = (P + P.T) / 2
        if self.project:
            sets = self._sets if self.weight == "identity" else self._weighted(P)
            x = sets.project(x, q, self._tol)
        return x, P

    def _weighted(self, P: np.ndarray) -> LevelSets:
        try:
            factor = cholesky(P, lower=True)
        except LinAlgError as error:
            raise ValueError(
                'weight="covariance" needs a positive definite covariance: give P0 and W of full '
                'rank, or weight="identity"'
            ) from error
        return LevelSets(self.system.Q, self._c, factor)
