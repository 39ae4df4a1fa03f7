"""A pursuit-evasion game with a payoff that both players know, and attacks on its position sensor.

Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241) has a
pursuit-evasion example with heuristic policies; the policies and constants here, and the attacks,
are this project's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from rankone._repr import short_repr
from rankone.control._level_sets import array
from rankone.control._observers import LinearQuadraticSystem
from rankone.control._wild_bootstrap import RandomState, generator

# t and the clean measurements up to it, (t + 1, p), to what is added at t, (p,).
Attack = Callable[[int, np.ndarray], np.ndarray]

# The pursuer keeps this distance, with a proportional gain and a largest acceleration.
_STAND_OFF, _PURSUIT_GAIN, _LARGEST_PURSUIT = 2.0, 0.5, 2.0

# The evader's acceleration: its size, and its angular frequencies along the two axes.
_EVASION, _EVASION_RATES = 0.6, (0.6, 0.5)

# Each coordinate starts at a distance in this range, with a velocity of this deviation.
_START, _START_SPEED_STD = (3.0, 5.0), 0.3


@dataclass(frozen=True, eq=False)
class GameRun:
    """A simulated game.

    Attributes:
        states: (T, 4), evader minus pursuer: position, velocity.
        inputs: (T, 2), relative accelerations; ``inputs[t]`` moves the state of t to that of t + 1.
        linear: (T, 4), measured states, attacked.
        quadratic: (T,), measured payoffs, secured.
    """

    __repr__ = short_repr

    states: np.ndarray
    inputs: np.ndarray
    linear: np.ndarray
    quadratic: np.ndarray


@dataclass(frozen=True, eq=False)
class PursuitEvasionGame:
    """Pursuit and evasion in the plane, by the relative state of evader and pursuer.

    Both players see the true state. The evader circles; the pursuer closes in to a distance of 2.
    The payoff is the squared distance plus ``velocity_weight`` times the squared relative speed.

    Args:
        dt: time step.
        velocity_weight: of the squared relative speed in the payoff; may be negative.
        process_std: of the noise of the velocities, dt times it of the positions.
        sensor_std: of the noise of the measured states.
        quad_std: of the noise of the measured payoff.

    Raises:
        ValueError: for a ``dt`` that is not positive or a negative deviation.

    Source: "Attack Detection in Dynamic Games with Quadratic Measurements" (arXiv 2510.00241) for
    the setting; policies and constants are this project's own.

    Example:
        >>> from rankone.control.attack_detection import PursuitEvasionGame, step_bias
        >>> game = PursuitEvasionGame()
        >>> attack = step_bias(start=20, vector=[1.0, -0.5, 0.0, 0.0])
        >>> game.simulate(40, attack, random_state=0).linear.shape
        (40, 4)
    """

    dt: float = 0.1
    velocity_weight: float = 0.5
    process_std: float = 0.001
    sensor_std: float = 0.2
    quad_std: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dt", "velocity_weight", "process_std", "sensor_std", "quad_std"):
            value = float(array(getattr(self, name), name, 0))
            if name == "dt" and value <= 0:
                raise ValueError(f"dt must be positive, got {value}")
            if name.endswith("std") and value < 0:
                raise ValueError(f"{name} must be at least 0, got {value}")

    @cached_property
    def system(self) -> LinearQuadraticSystem:
        """The game as a plant."""
        one, zero = np.eye(2), np.zeros((2, 2))
        return LinearQuadraticSystem(
            A=np.block([[one, self.dt * one], [zero, one]]),
            B=np.vstack([self.dt**2 / 2 * one, self.dt * one]),
            C=np.eye(4),
            Q=np.diag([1.0, 1.0, self.velocity_weight, self.velocity_weight]),
            W=np.diag(self._process_stds() ** 2),
            R=self.sensor_std**2 * np.eye(4),
            quad_var=self.quad_std**2,
        )

    def _process_stds(self) -> np.ndarray:
        return self.process_std * np.array([self.dt, self.dt, 1.0, 1.0])

    def simulate(
        self, n_steps: int, attack: Attack | None = None, random_state: RandomState = None
    ) -> GameRun:
        """Play ``n_steps`` steps.

        Args:
            n_steps: T, at least 1.
            attack: called with t and the clean measurements up to it, (t + 1, 4); what it returns,
                (4,), is added to the measurement of t. The players are not misled: the same seed
                gives the same game with any attack.
            random_state: seed of the start and the noise.

        Returns:
            :class:`GameRun`.

        Raises:
            ValueError: for ``n_steps`` below 1, or an attack that returns another shape.
        """
        if isinstance(n_steps, bool) or not isinstance(n_steps, int | np.integer):
            raise TypeError(f"n_steps must be an integer, got {type(n_steps).__name__}")
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        rng = generator(random_state)
        phase = rng.uniform(0, 2 * np.pi)
        position = rng.uniform(*_START, size=2) * rng.choice([-1.0, 1.0], size=2)
        x = np.concatenate([position, rng.normal(0, _START_SPEED_STD, size=2)])
        process = rng.standard_normal((n_steps, 4)) * self._process_stds()
        sensor = rng.standard_normal((n_steps, 4)) * self.sensor_std
        payoff = rng.standard_normal(n_steps) * self.quad_std

        system = self.system
        states, inputs = np.empty((n_steps, 4)), np.empty((n_steps, 2))
        for t in range(n_steps):
            states[t] = x
            inputs[t] = self._evader(t, phase) - _pursuer(x)
            x = system.A @ x + system.B @ inputs[t] + process[t]
        clean = states + sensor
        linear = clean.copy()
        if attack is not None:
            for t in range(n_steps):
                addition = array(attack(t, clean[: t + 1]), "the attack's addition", 1)
                if addition.shape != (4,):
                    raise ValueError(
                        f"the attack's addition must have shape (4,), got {addition.shape}"
                    )
                linear[t] += addition
        return GameRun(states, inputs, linear, system.utility(states) + payoff)

    def _evader(self, t: int, phase: float) -> np.ndarray:
        first, second = (rate * t * self.dt + phase for rate in _EVASION_RATES)
        return _EVASION * np.array([math.cos(first), math.sin(second)])


def _pursuer(x: np.ndarray) -> np.ndarray:
    position, velocity = x[:2], x[2:]
    distance = math.hypot(*position)
    toward = position / distance if distance > 0 else np.zeros(2)
    acceleration = _PURSUIT_GAIN * (position - _STAND_OFF * toward) + velocity
    size = math.hypot(*acceleration)
    return acceleration * (min(size, _LARGEST_PURSUIT) / size) if size > 0 else acceleration


def _start(start: int) -> int:
    if isinstance(start, bool) or not isinstance(start, int | np.integer):
        raise TypeError(f"start must be an integer, got {type(start).__name__}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    return int(start)


def step_bias(start: int, vector: ArrayLike) -> Attack:
    """An attack that adds a constant bias.

    Args:
        start: first time step.
        vector: (p,), the bias.

    Returns:
        Function of the time step and the history, for :meth:`PursuitEvasionGame.simulate`.

    Raises:
        ValueError: for a negative start, or a vector that is not finite and 1-D.
        TypeError: for a start that is no integer.

    Example:
        >>> from rankone.control.attack_detection import step_bias
        >>> attack = step_bias(5, [1.0, 0.0])
        >>> [attack(t, None)[0] for t in (4, 5)] == [0.0, 1.0]
        True
    """
    start, vector = _start(start), array(vector, "vector", 1)
    return lambda t, history: vector * float(t >= start)


def ramp_bias(start: int, vector: ArrayLike, length: int = 50) -> Attack:
    """An attack that grows linearly from 0 to a constant bias.

    Args:
        start: first time step.
        vector: (p,), the bias in the end.
        length: steps until it is reached.

    Returns:
        Function of the time step and the history, for :meth:`PursuitEvasionGame.simulate`.

    Raises:
        ValueError: for a negative start, a vector that is not finite and 1-D, or a length not above
            0.

    Example:
        >>> from rankone.control.attack_detection import ramp_bias
        >>> attack = ramp_bias(5, [1.0, 0.0], length=10)
        >>> [attack(t, None)[0] for t in (5, 10, 15, 20)] == [0.0, 0.5, 1.0, 1.0]
        True
    """
    start, vector = _start(start), array(vector, "vector", 1)
    if not length > 0:
        raise ValueError(f"length must be positive, got {length}")
    return lambda t, history: vector * min(max((t - start) / length, 0.0), 1.0)


def replay(start: int, delay: int) -> Attack:
    """An attack that shows the clean measurement of ``delay`` steps ago, from ``start`` on.

    Args:
        start: at least ``delay``.
        delay: at least 1.

    Returns:
        Function of the time step and the history, for :meth:`PursuitEvasionGame.simulate`.

    Example:
        >>> import numpy as np
        >>> from rankone.control.attack_detection import replay
        >>> clean = np.arange(8.0)[:, None]
        >>> replay(5, delay=3)(7, clean).tolist()
        [-3.0]
    """
    start = _start(start)
    if not 1 <= delay <= start:
        raise ValueError(f"delay must be between 1 and start={start}, got {delay}")

    def addition(t: int, history: np.ndarray) -> np.ndarray:
        if t < start:
            return np.zeros_like(history[t])
        return history[t - delay] - history[t]

    return addition
