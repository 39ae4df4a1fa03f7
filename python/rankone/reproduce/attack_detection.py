"""Attack detection in dynamic games with quadratic measurements (arXiv 2510.00241).

A pursuit-evasion game whose position sensor is spoofed and whose payoff is secured: errors of both
observers, alarms with and without an attack, what the projection brings, the level of the wild
bootstrap under dependence, and the process noise at which the secured observer loses its track.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist, squareform

from rankone._sweep import sweep
from rankone.control.attack_detection import (
    AttackDetector,
    FixedGainObserver,
    KalmanObserver,
    PursuitEvasionGame,
    QuadraticObserver,
    ramp_bias,
    replay,
    step_bias,
    wild_bootstrap_mmd,
)
from rankone.reproduce import SERIES, Claim, Figure, Reproduction, Settings, Table, panel

BIAS = (1.0, -0.5, 0.0, 0.0)

ALPHA = 0.01

# Detection later than this counts as a failure of the claim.
LATEST = 100

# The replay shows measurements of this many steps ago: five seconds of the game.
DELAY = 50

# The process and sensor noise where the projection and the limit are measured.
CLEAR_SENSOR, PROJECTION_NOISE, PROJECTION_START, LIMIT_NOISE = 0.05, 0.005, 0.05, 0.05

# Of the study of the level: coefficient of the AR(1) series, and the level.
COEFFICIENT, LEVEL = 0.8, 0.05


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        n_steps, attack_start: of a game.
        seeds: games with, and as many without, an attack.
        further_seeds: games of every row of the further tables.
        biases: factors of the bias (1, -0.5, 0, 0).
        kinds: further attacks, at full bias.
        process_stds: of the table of process noise.
        windows, blocks: of the table of the detector's parameters.
        repetitions, length: series of the study of the level.
        n_bootstrap: of every test.
    """

    n_steps: int = 400
    attack_start: int = 200
    seeds: int = 8
    further_seeds: int = 4
    biases: tuple[float, ...] = (0.3, 0.6)
    kinds: tuple[str, ...] = ("ramp", "replay")
    process_stds: tuple[float, ...] = (0.001, 0.01)
    windows: tuple[int, ...] = (60, 120)
    blocks: tuple[float, ...] = (5.0,)
    repetitions: int = 120
    length: int = 200
    n_bootstrap: int = 300


QUICK = Scale()
FULL = Scale(
    seeds=200,
    further_seeds=200,
    biases=(0.1, 0.2, 0.3, 0.5, 0.8, 1.0),
    process_stds=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05),
    windows=(60, 80, 120, 160),
    blocks=(5.0, 10.0, 20.0, 40.0),
    repetitions=1000,
)


@dataclass(frozen=True)
class Setup:
    """One game: its noise, what is known of its start, the attack, the observer, the windows."""

    attack: str | None = "step"
    bias: float = 1.0
    process_std: float = 0.001
    sensor_std: float = 0.2
    start_std: float = 0.005
    observer: str = "fixed gain"
    alpha: float = ALPHA
    window: int = 80
    block: float = 20.0


PLAIN = Setup()
QUIET = Setup(attack=None)


def run(settings: Settings) -> Reproduction:
    """Games with and without an attack, and the level of the test."""
    scale = settings.scale(quick=QUICK, full=FULL)
    main = _games(settings, scale, [PLAIN, QUIET], scale.seeds, "games")
    corners = [
        Setup(None, 0.0, PROJECTION_NOISE, CLEAR_SENSOR, PROJECTION_START),
        Setup("step", 1.0, LIMIT_NOISE, CLEAR_SENSOR),
    ]
    projection, limit = _games(settings, scale, corners, scale.seeds, "noisier games").values()
    attacks = [dataclasses.replace(PLAIN, bias=bias) for bias in scale.biases]
    attacks += [dataclasses.replace(PLAIN, attack=kind) for kind in scale.kinds]
    detectors: list[dict] = [{"window": n} for n in scale.windows]
    detectors += [{"block": b} for b in scale.blocks]
    detectors += [{"alpha": 0.05}, {"observer": "Kalman"}]
    tuned = [
        dataclasses.replace(setup, **change) for change in detectors for setup in (PLAIN, QUIET)
    ]
    noises = [dataclasses.replace(PLAIN, process_std=std) for std in scale.process_stds]
    further = _games(
        settings, scale, attacks + tuned + noises, scale.further_seeds, "further games"
    )
    levels = _levels(settings, scale)
    return Reproduction(
        slug="attack-detection",
        claims=(
            *_observer_claims(main[PLAIN], projection),
            *_alarm_claims(main, scale),
            *_level_claims(levels),
            _limit_claim(limit),
        ),
        tables=(
            _error_table(main, projection, limit, scale),
            _attack_table(main | further, [PLAIN, *attacks], scale),
            _detector_table(further, detectors, scale),
            _noise_table(further, noises, scale),
            _level_table(levels, scale),
        ),
        figures=(_figure(settings, scale),),
        settings={
            "game": f"T={scale.n_steps}, attack from {scale.attack_start}, bias "
            f"{BIAS} added to the measured state, start known to 0.005",
            "detector": f"windows of 80 every 10 steps, block 20, {scale.n_bootstrap} bootstrap "
            f"statistics, level {ALPHA}",
            "policies and constants": "this project's own; the paper's are not published",
        },
    )


def _games(
    settings: Settings, scale: Scale, setups: list[Setup], seeds: int, description: str
) -> dict[Setup, list[dict]]:
    unique = list(dict.fromkeys(setups))
    results = sweep(
        lambda setup, rng: _play(setup, scale, rng)[0],
        [setup for setup in unique for _ in range(seeds)],
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description=description,
        progress=settings.progress,
    )
    return {
        setup: results[place * seeds : (place + 1) * seeds] for place, setup in enumerate(unique)
    }


def _play(setup: Setup, scale: Scale, rng: np.random.Generator) -> tuple[dict, dict]:
    """Numbers of one game, and its trajectories."""
    game = PursuitEvasionGame(process_std=setup.process_std, sensor_std=setup.sensor_std)
    vector = setup.bias * np.array(BIAS)
    attack = {
        None: None,
        "step": step_bias(scale.attack_start, vector),
        "ramp": ramp_bias(scale.attack_start, vector),
        "replay": replay(scale.attack_start, min(DELAY, scale.attack_start)),
    }[setup.attack]
    played = game.simulate(scale.n_steps, attack, random_state=rng)
    system, inputs = game.system, played.inputs
    x0 = played.states[0] + rng.normal(0, setup.start_std, size=4)
    P0 = setup.start_std**2 * np.eye(4)
    linear = {"fixed gain": FixedGainObserver, "Kalman": KalmanObserver}[setup.observer]
    estimates = {
        "linear": linear(system).run(inputs, played.linear, x0, P0),
        "quadratic": QuadraticObserver(system).run(inputs, played.quadratic, x0, P0),
        "unprojected": QuadraticObserver(system, project=False).run(
            inputs, played.quadratic, x0, P0
        ),
        # A gain of 0 only predicts.
        "open loop": FixedGainObserver(system, gain=0.0).run(inputs, played.linear, x0, P0),
    }
    detector = AttackDetector(
        window=setup.window,
        alpha=setup.alpha,
        block=setup.block,
        n_bootstrap=scale.n_bootstrap,
        random_state=rng,
    )
    with warnings.catch_warnings():
        # The tables count its cause, the autocorrelation time.
        warnings.filterwarnings("ignore", "dependence longer", UserWarning)
        detector.detect(estimates["linear"], estimates["quadratic"])
    found: dict = {"autocorrelation time": detector.autocorrelation_time_}
    when = {"pre": slice(None, scale.attack_start), "post": slice(scale.attack_start, None)}
    for name, values in estimates.items():
        errors = (values - played.states) ** 2
        for part, steps in when.items():
            found[name, part] = float(errors[steps].sum(axis=1).mean())
            found[name, part, "position"] = float(errors[steps, :2].sum(axis=1).mean())
    ends, alarms = detector.window_end_, detector.alarms_
    after = ends[alarms & (ends > scale.attack_start)]
    found["delay"] = float(after[0] - scale.attack_start) if len(after) else math.inf
    found["alarm rate"] = float(alarms.mean())
    found["alarm rate before"] = float(alarms[ends <= scale.attack_start].mean())
    return found, {"game": played, "detector": detector, **estimates}


def _mean(results: list[dict], *key: str) -> float:
    return float(np.mean([result[key if len(key) > 1 else key[0]] for result in results]))


def _detected(results: list[dict], within: float = math.inf) -> float:
    delays = [result["delay"] for result in results]
    return float(np.mean([math.isfinite(delay) and delay <= within for delay in delays]))


def _median_delay(results: list[dict]) -> float:
    return float(np.median([result["delay"] for result in results]))


def _levels(settings: Settings, scale: Scale) -> dict[str, float]:
    """Rejections of two independent series of one law, at level 0.05."""
    cells = [c for c in (COEFFICIENT, 0.0) for _ in range(scale.repetitions)]
    results = sweep(
        lambda coefficient, rng: _rejections(coefficient, scale, rng),
        cells,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="levels",
        progress=settings.progress,
    )
    rates = np.reshape(results, (2, scale.repetitions, 3)).mean(axis=1)
    return {
        f"{series}, {test}": float(rate)
        for series, row in zip(("dependent", "independent"), rates, strict=True)
        for test, rate in zip(("wild l=20", "wild l=1", "permutation"), row, strict=True)
    }


def _rejections(coefficient: float, scale: Scale, rng: np.random.Generator) -> list[bool]:
    noise = rng.standard_normal((scale.length, 2))
    noise[1:] *= math.sqrt(1 - coefficient**2)
    series = noise.copy()
    for t in range(1, scale.length):
        series[t] += coefficient * series[t - 1]
    X, Y = series[:, :1], series[:, 1:]
    wild = [
        wild_bootstrap_mmd(X, Y, scale.n_bootstrap, block, alpha=LEVEL, random_state=rng).reject
        for block in (20.0, 1.0)
    ]
    return [*wild, _permutation_pvalue(X, Y, scale.n_bootstrap, rng) <= LEVEL]


def _permutation_pvalue(
    X: np.ndarray, Y: np.ndarray, permutations: int, rng: np.random.Generator
) -> float:
    """The same statistic with its null distribution from permutations of the pooled sample."""
    squared = pdist(np.vstack([X, Y]), "sqeuclidean")
    kernel = squareform(np.exp(-squared / np.median(squared)))
    np.fill_diagonal(kernel, 1.0)
    signs = np.repeat([[1.0], [-1.0]], len(X), axis=0)
    labels = np.hstack([signs, rng.permuted(np.tile(signs, permutations), axis=0)])
    statistics = np.einsum("ib,ib->b", labels, kernel @ labels)
    return float((1 + np.sum(statistics[1:] >= statistics[0])) / (1 + permutations))


def _observer_claims(attacked: list[dict], projection: list[dict]) -> list[Claim]:
    post = [result["quadratic", "post"] for result in attacked]
    linear = _mean(attacked, "linear", "post")
    return [
        Claim.at_least(
            "linear observer corrupted: mean squared error after over before the attack",
            linear / _mean(attacked, "linear", "pre"),
            10,
        ),
        Claim.at_most(
            "quadratic observer unaffected: median over games of its mean squared error after the "
            "attack",
            float(np.median(post)),
            0.005,
        ),
        Claim.at_most(
            "that error over the linear observer's", float(np.median(post)) / linear, 0.01
        ),
        Claim.at_most(
            f"projection helps (process noise {PROJECTION_NOISE}, start known to "
            f"{PROJECTION_START}, sensor noise {CLEAR_SENSOR}): mean squared error over that "
            "without projection",
            _mean(projection, "quadratic", "pre") / _mean(projection, "unprojected", "pre"),
            1,
            note="With an accurate start and little process noise it does not: "
            f"{_mean(attacked, 'quadratic', 'pre'):.3g} with and "
            f"{_mean(attacked, 'unprojected', 'pre'):.3g} without it in the attacked games."
            if _mean(attacked, "quadratic", "pre") > _mean(attacked, "unprojected", "pre")
            else "",
        ),
    ]


def _alarm_claims(main: dict[Setup, list[dict]], scale: Scale) -> list[Claim]:
    attacked, quiet = main[PLAIN], main[QUIET]
    late = scale.seeds - round(_detected(attacked, LATEST) * scale.seeds)
    return [
        Claim.at_most(
            f"step attack, level {ALPHA}: largest delay of an alarm, steps",
            max(result["delay"] for result in attacked),
            LATEST,
            expected=f"all games within {LATEST} steps",
            note=f"{late} of {scale.seeds} games later than {LATEST} steps or never; median delay "
            f"{_median_delay(attacked):.0f}. Shorter blocks and windows detect sooner, with more "
            "false alarms: see the parameters of the detector.",
        ),
        Claim.at_most(
            f"false alarms without attack, level {ALPHA}: rate of windows",
            _mean(quiet, "alarm rate"),
            0.05,
        ),
    ]


def _level_claims(levels: dict[str, float]) -> list[Claim]:
    series = f"two independent AR(1) series, coefficient {COEFFICIENT}, level {LEVEL}"
    return [
        Claim.at_most(f"{series}: rejections, wild l=20", levels["dependent, wild l=20"], 0.25),
        Claim.at_least(f"{series}: rejections, permutation", levels["dependent, permutation"], 0.4),
        Claim.at_least(f"{series}: rejections, wild l=1", levels["dependent, wild l=1"], 0.35),
        Claim.at_most(
            f"independent samples, level {LEVEL}: rejections, wild l=20",
            levels["independent, wild l=20"],
            0.1,
        ),
    ]


def _limit_claim(limit: list[dict]) -> Claim:
    quadratic = _mean(limit, "quadratic", "pre", "position")
    return Claim.at_least(
        f"limit (process noise {LIMIT_NOISE}): position error of the quadratic observer before "
        "the attack over that of open-loop tracking",
        quadratic / _mean(limit, "open loop", "pre", "position"),
        1,
        expected="no better than open loop",
        note=f"Open loop {_mean(limit, 'open loop', 'pre', 'position'):.3g}. Mean squared error of "
        f"the quadratic observer's state {_mean(limit, 'quadratic', 'pre'):.3g} "
        f"before and {_mean(limit, 'quadratic', 'post'):.3g} after the attack; of the linear "
        f"observer before it {_mean(limit, 'linear', 'pre'):.3g}.",
    )


def _error_table(
    main: dict[Setup, list[dict]], projection: list[dict], limit: list[dict], scale: Scale
) -> Table:
    named = {
        "attacked": main[PLAIN],
        "no attack": main[QUIET],
        f"no attack, process {PROJECTION_NOISE}, start {PROJECTION_START}": projection,
        f"attacked, process {LIMIT_NOISE}": limit,
    }
    observers = ("linear", "quadratic", "unprojected", "open loop")
    return Table(
        title="Mean squared error of the state, before / after the time of the attack",
        columns=("games", *(f"{o}, {part}" for o in observers for part in ("before", "after"))),
        rows=tuple(
            (name, *(_mean(results, o, part) for o in observers for part in ("pre", "post")))
            for name, results in named.items()
        ),
        note=f"Means of {scale.seeds} games; unprojected and open loop are the quadratic observer "
        "without its projection and without any measurement.",
    )


def _attack_table(results: dict[Setup, list[dict]], setups: list[Setup], scale: Scale) -> Table:
    return Table(
        title=f"Detection of attacks, level {ALPHA}",
        columns=(
            "attack", "bias", f"detected within {LATEST}", "detected", "median delay",
            "alarms before it",
        ),
        rows=tuple(
            (
                str(setup.attack),
                None if setup.attack == "replay" else setup.bias,
                _detected(results[setup], LATEST),
                _detected(results[setup]),
                _median_delay(results[setup]),
                _mean(results[setup], "alarm rate before"),
            )
            for setup in dict.fromkeys(setups)
        ),
        note=f"{scale.further_seeds} games a row ({scale.seeds} for the step of bias 1); bias "
        f"times {BIAS}, sensor noise {PLAIN.sensor_std}. A game is detected if any window after "
        "the attack alarms; a window alarms by chance too.",
    )  # fmt: skip


def _detector_table(results: dict[Setup, list[dict]], changes: list[dict], scale: Scale) -> Table:
    rows = []
    for change in changes:
        attacked = results[dataclasses.replace(PLAIN, **change)]
        quiet = results[dataclasses.replace(QUIET, **change)]
        times = [result["autocorrelation time"] for result in quiet]
        rows.append(
            (
                ", ".join(f"{name} {value}" for name, value in change.items()),
                _mean(quiet, "alarm rate"),
                _detected(attacked, LATEST),
                _median_delay(attacked),
                float(np.median(times)),
            )
        )
    return Table(
        title="Parameters of the detector",
        columns=(
            "changed", "false alarms", f"detected within {LATEST}", "median delay",
            "autocorrelation time",
        ),
        rows=tuple(rows),
        note=f"{scale.further_seeds} games with and as many without an attack a row; the step "
        "attack of bias 1. A Kalman filter's errors are slow, and windows alarm without attack.",
    )  # fmt: skip


def _noise_table(results: dict[Setup, list[dict]], setups: list[Setup], scale: Scale) -> Table:
    return Table(
        title="Process noise",
        columns=(
            "process noise", "quadratic error before", "after", "alarms before", "median delay",
        ),
        rows=tuple(
            (
                setup.process_std,
                _mean(results[setup], "quadratic", "pre"),
                _mean(results[setup], "quadratic", "post"),
                _mean(results[setup], "alarm rate before"),
                _median_delay(results[setup]),
            )
            for setup in setups
        ),
        note=f"{scale.further_seeds} attacked games a row. Where the secured observer loses its "
        "track, alarms before the attack are its own errors.",
    )  # fmt: skip


def _level_table(levels: dict[str, float], scale: Scale) -> Table:
    tests = ("wild l=20", "wild l=1", "permutation")
    return Table(
        title=f"Rejections of two independent series of one law, level {LEVEL}",
        columns=("series", *tests),
        rows=tuple(
            (name, *(levels[f"{key}, {test}"] for test in tests))
            for name, key in (
                (f"AR(1), coefficient {COEFFICIENT}", "dependent"),
                ("independent samples", "independent"),
            )
        ),
        note=f"{scale.repetitions} pairs of scalar series of length {scale.length}.",
    )


def _figure(settings: Settings, scale: Scale) -> Figure:
    _, shown = _play(PLAIN, scale, np.random.default_rng(settings.random_state))
    states, start = shown["game"].states, scale.attack_start
    observers = {"linear": "linear observer", "quadratic": "quadratic observer"}
    time = np.arange(scale.n_steps)
    with panel("step", "distance") as (distance, axes):
        for name, color in zip(observers, SERIES[1:], strict=False):
            estimate = np.linalg.norm(shown[name][:, :2], axis=1)
            axes.plot(time, estimate, color=color, linewidth=1.4, label=observers[name])
        axes.plot(time, np.linalg.norm(states[:, :2], axis=1), ":", color=SERIES[0], label="true")
        axes.axvline(start, linestyle="--", linewidth=1, color=SERIES[5], label="attack")
        axes.legend(loc="upper right")
    with panel("step", "squared error") as (errors, axes):
        for name, color in zip(observers, SERIES[1:], strict=False):
            squared = ((shown[name] - states) ** 2).sum(axis=1)
            axes.semilogy(time, squared, color=color, linewidth=1.2, label=observers[name])
        axes.axvline(start, linestyle="--", linewidth=1, color=SERIES[5])
        axes.legend(loc="lower right")
    with panel("end of the window, step", "p-value") as (pvalues, axes):
        shown["detector"].plot(attack_time=start, ax=axes)
        axes.set_xlabel("end of the window, step")
    return Figure.render(
        "One attacked game",
        f"Distance of the players, true and estimated; squared errors of the state; p-value of "
        f"every window of {PLAIN.window} steps, with the level and the start of the attack.",
        distance,
        errors,
        pvalues,
    )
