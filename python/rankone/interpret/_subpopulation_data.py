"""Data with a spurious correlation or a rare subpopulation, and the models to compare on them.

Two settings share one generator. Spurious correlation: the majority are the samples whose attribute
agrees with their label. Rare subpopulation: the attribute is independent of the label, and the
majority has attribute 1. The experiments are this library's own; the settings are those of
"Accuracy on the Curve" (arXiv 2305.02995), which trains image models.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import Bunch, check_random_state

TEST_FRACTION = 0.5  # as many minority as majority samples: both accuracies are equally precise
_DIGIT_IMAGES = 1797
_PIXEL_MAXIMUM = 16
_ROW = 8  # pixels of the first image row, which carries the attribute
_FIRST_HIGH_DIGIT = 5


def spurious_mixture(
    n_samples: int,
    majority_fraction: float,
    n_core: int = 20,
    n_spurious: int = 5,
    core_shift: float = 0.45,
    spurious_shift: float = 0.9,
    spurious: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Gaussian features of which some follow the label and some an attribute.

    ``x_core | y ~ N((2y - 1) core_shift, I)`` and ``x_spurious | s ~ N((2s - 1) spurious_shift,
    I)``, labels 0 and 1 with probability 1/2 each, samples independent.

    Args:
        n_samples: rows, at least 1.
        majority_fraction: probability of the majority, in [0, 1].
        n_core: features that follow the label, at least 1.
        n_spurious: features that follow the attribute, at least 0.
        core_shift: mean of the core features for label 1.
        spurious_shift: mean of the spurious features for attribute 1.
        spurious: True for the spurious correlation, where the majority is ``attribute == y``;
            False for the rare subpopulation, where it is ``attribute == 1``.
        random_state: seed or generator.

    Returns:
        Bunch of X (n_samples, n_core + n_spurious) float64, the core features first; y
        (n_samples,) and attribute (n_samples,) of 0 and 1; majority (n_samples,) bool.

    Raises:
        ValueError: for sizes below those, a fraction outside [0, 1] or a shift that is not finite.

    Source: own design, after the settings of arXiv 2305.02995.

    Example:
        >>> from rankone.interpret.subpopulation import spurious_mixture
        >>> data = spurious_mixture(1000, 0.9, random_state=0)
        >>> data.X.shape, bool(data.majority.mean() > 0.85)
        ((1000, 25), True)
    """
    check_fraction("majority_fraction", majority_fraction)
    check_count("n_samples", n_samples, 1)
    check_count("n_core", n_core, 1)
    check_count("n_spurious", n_spurious, 0)
    check_finite("core_shift", core_shift)
    check_finite("spurious_shift", spurious_shift)
    generator = check_random_state(random_state)
    y = generator.randint(2, size=n_samples)
    attribute, majority = _attributes(y, majority_fraction, spurious, generator)
    X = generator.standard_normal((n_samples, n_core + n_spurious))
    X[:, :n_core] += core_shift * (2 * y - 1)[:, None]
    X[:, n_core:] += spurious_shift * (2 * attribute - 1)[:, None]
    return Bunch(X=X, y=y, attribute=attribute, majority=majority)


def spurious_digits(
    majority_fraction: float,
    strength: float = 0.1,
    noise: float = 0.2,
    n_train: int = 1000,
    spurious: bool = True,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[Bunch, Bunch]:
    """scikit-learn's 8x8 digits with an attribute written into the first row of pixels.

    The label is whether the digit is 5 or more. ``strength * (2s - 1)`` is added to the eight
    pixels of the first row, after scaling to [0, 1], and then N(0, noise^2) to every pixel. The
    majority has probability ``majority_fraction`` in training and 1/2 in the test set.

    The bend shows for attributes that are readable with some error, as at the defaults. One that
    can be read off without error (strength 1, noise 0.1) gives a cloud that falls and then rises
    vertically, which no parabola describes.

    Args:
        majority_fraction: in [0, 1].
        strength: of the attribute, in units of the full range of a pixel.
        noise: standard deviation, at least 0.
        n_train: training images, from 1 to 1796 of the 1797; the others are the test set.
        spurious: as in :func:`spurious_mixture`.
        random_state: seed or generator of split, attribute and noise.

    Returns:
        (train, test), each a Bunch as of :func:`spurious_mixture` with X (n, 64), and ``digit``.

    Raises:
        ValueError: for a fraction, strength, noise or ``n_train`` outside those.

    Source: own design. Images: the digits of scikit-learn (UCI, CC BY 4.0).

    Example:
        >>> from rankone.interpret.subpopulation import spurious_digits
        >>> train, test = spurious_digits(0.9, random_state=0)
        >>> train.X.shape, test.X.shape
        ((1000, 64), (797, 64))
    """
    check_fraction("majority_fraction", majority_fraction)
    check_finite("strength", strength)
    check_finite("noise", noise)
    if noise < 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    check_count("n_train", n_train, 1)
    if n_train >= _DIGIT_IMAGES:
        raise ValueError(f"n_train must be at most {_DIGIT_IMAGES - 1}, got {n_train}")
    generator = check_random_state(random_state)
    images, digits = load_digits(return_X_y=True)
    order = generator.permutation(len(images))
    halves = []
    for rows, fraction in (
        (order[:n_train], majority_fraction),
        (order[n_train:], TEST_FRACTION),
    ):
        y = (digits[rows] >= _FIRST_HIGH_DIGIT).astype(np.int64)
        attribute, majority = _attributes(y, fraction, spurious, generator)
        X = images[rows] / _PIXEL_MAXIMUM
        X[:, :_ROW] += strength * (2 * attribute - 1)[:, None]
        X += noise * generator.standard_normal(X.shape)
        halves.append(Bunch(X=X, y=y, attribute=attribute, majority=majority, digit=digits[rows]))
    return halves[0], halves[1]


def _attributes(
    y: NDArray, fraction: float, spurious: bool, generator: np.random.RandomState
) -> tuple[NDArray, NDArray]:
    """Attribute of 0 and 1, and whether a sample is of the majority."""
    majority = generator.uniform(size=len(y)) < fraction
    attribute = np.where(majority, y, 1 - y) if spurious else majority.astype(y.dtype)
    return attribute, majority


def default_model_zoo(size: str = "quick", random_state: int | None = 0) -> list[tuple[str, Any]]:
    """Classifiers from weak to strong, of seven families.

    A curve shows only where models span a range: heavily regularised, hardly trained and shallow
    ones are meant to be there.

    Args:
        size: ``"quick"``, 81 models; or ``"full"``, finer grids of the same families, of which 500
            are networks of 5 widths, 5 learning rates, 5 batch sizes and 4 durations, the paper's
            design for its image models.
        random_state: of every model that draws anything.

    Returns:
        (name, estimator) pairs; names are unique and start with the family, such as
        ``"MLPClassifier 32, 8 epochs, rate 0.01"``.

    Raises:
        ValueError: for another size.

    Source: own design, after arXiv 2305.02995.

    Example:
        >>> from rankone.interpret.subpopulation import default_model_zoo
        >>> len(default_model_zoo())
        81
    """
    if size not in ("quick", "full"):
        raise ValueError(f"size must be 'quick' or 'full', got {size!r}")
    full = size == "full"
    depths = (1, 2, 3, 4, 6, 8, 12, None) if full else (1, 2, 4, 8, None)
    seed = random_state
    zoo: list[tuple[str, Any]] = [
        (
            f"LogisticRegression C={C:g}",
            LogisticRegression(C=C, max_iter=500, random_state=seed),
        )
        for C in (np.logspace(-5, 2, 15) if full else (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0))
    ]
    zoo += _full_networks(seed) if full else _quick_networks(seed)
    zoo += [
        (
            f"DecisionTreeClassifier depth {depth}",
            DecisionTreeClassifier(max_depth=depth, random_state=seed),
        )
        for depth in depths
    ]
    zoo += [
        (
            f"RandomForestClassifier {trees} trees, depth {depth}",
            RandomForestClassifier(trees, max_depth=depth, random_state=seed),
        )
        for trees, depth in product((5, 20, 100) if full else (5, 50), depths)
    ]
    zoo += [
        (f"KNeighborsClassifier k={k}", KNeighborsClassifier(k))
        for k in ((1, 3, 5, 10, 20, 50, 100, 200) if full else (1, 5, 20, 100))
    ]
    zoo += [
        (f"SVC C={C:g}", SVC(C=C, random_state=seed))
        for C in (np.logspace(-3, 2, 11) if full else (0.01, 0.1, 1.0, 10.0))
    ]
    zoo += [
        (
            f"HistGradientBoostingClassifier {rounds} rounds",
            HistGradientBoostingClassifier(max_iter=rounds, random_state=seed),
        )
        for rounds in ((1, 2, 5, 10, 20, 50, 100, 200) if full else (1, 5, 20, 100))
    ]
    return zoo


def _quick_networks(seed: int | None) -> list[tuple[str, Any]]:
    grid = product(((8,), (32,), (128,), (32, 32)), (1, 2, 4, 8, 16, 40), (1e-3, 1e-2))
    return [
        (
            f"MLPClassifier {'x'.join(map(str, hidden))}, {epochs} epochs, rate {rate:g}",
            MLPClassifier(hidden, max_iter=epochs, learning_rate_init=rate, random_state=seed),
        )
        for hidden, epochs, rate in grid
    ]


def _full_networks(seed: int | None) -> list[tuple[str, Any]]:
    grid = product(
        (8, 16, 32, 64, 128),
        (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        (32, 64, 128, 256, 512),
        (1, 4, 16, 64),
    )
    return [
        (
            f"MLPClassifier {width}, {epochs} epochs, rate {rate:g}, batch {batch}",
            MLPClassifier(
                (width,),
                max_iter=epochs,
                learning_rate_init=rate,
                batch_size=batch,
                random_state=seed,
            ),
        )
        for width, rate, batch, epochs in grid
    ]


def check_fraction(name: str, value: float) -> None:
    """A probability, or a ValueError."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be in [0, 1], got {value}")


def check_count(name: str, value: int, least: int) -> None:
    """An integer of at least ``least``, or an error."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_finite(name: str, value: float) -> None:
    """A finite number, or a ValueError."""
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
