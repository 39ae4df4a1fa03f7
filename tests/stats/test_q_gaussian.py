"""The q-Gaussian: a t whose scale is its escort covariance."""

import numpy as np
import pytest
from rankone.stats.q_gaussian import MultivariateQGaussian, nu_from_q, q_from_nu
from scipy import integrate, stats


def test_q_and_nu_are_inverse():
    assert q_from_nu(5, 3) == 1.25
    assert nu_from_q(1.25, 3) == pytest.approx(5)
    for nu in (0.3, 2.0, 50.0):
        assert nu_from_q(q_from_nu(nu, 4), 4) == pytest.approx(nu)


def test_density_is_the_multivariate_t():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 3))
    scale, loc = A @ A.T + np.eye(3), rng.standard_normal(3)
    law = MultivariateQGaussian(loc, scale, q=1.25)
    X = rng.standard_normal((4, 5, 3)) * 3
    np.testing.assert_allclose(
        law.logpdf(X), stats.multivariate_t(loc, scale, df=5).logpdf(X), rtol=1e-12
    )
    assert law.logpdf(X[0, 0]).shape == ()


@pytest.mark.parametrize("nu", [0.7, 3.0, 40.0])
def test_scale_is_the_escort_covariance_in_one_dimension(nu):
    law = MultivariateQGaussian(1.0, 2.5, nu=nu)
    power = lambda y: np.exp(law.q * law.logpdf(y))  # noqa: E731
    # The integrand has long tails: y = 1 + tan(s) covers the line.
    change = lambda f: integrate.quad(  # noqa: E731
        lambda s: f(1 + np.tan(s)) / np.cos(s) ** 2, -np.pi / 2, np.pi / 2, limit=400
    )[0]
    mass = change(power)
    variance = change(lambda y: (y - 1) ** 2 * power(y)) / mass
    assert variance == pytest.approx(2.5, rel=1e-5)
    assert law.escort_cov() == pytest.approx(2.5)
    assert change(lambda y: np.exp(law.logpdf(y))) == pytest.approx(1, rel=1e-6)


def test_entropy_is_largest_among_densities_with_that_escort_covariance():
    """S_q of a mixture rescaled to the same escort covariance lies below."""
    law = MultivariateQGaussian(0.0, 1.0, nu=4.0)
    grid = np.linspace(-400, 400, 400_001)
    step = grid[1] - grid[0]

    def entropy_and_spread(p):
        escort = p**law.q
        mass = escort.sum() * step
        return (1 - mass) / (law.q - 1), (grid**2 * escort).sum() * step / mass

    best, spread = entropy_and_spread(np.exp(law.logpdf(grid)))
    assert spread == pytest.approx(1, rel=1e-3)
    other = lambda s: 0.5 * (stats.norm.pdf(grid, 0, s) + stats.norm.pdf(grid, 0, 3 * s))  # noqa: E731
    scale = 1 / np.sqrt(entropy_and_spread(other(1.0))[1])
    value, spread = entropy_and_spread(other(scale))
    assert spread == pytest.approx(1, rel=1e-3)
    assert value < best


def test_draws_have_the_law_and_repeat():
    law = MultivariateQGaussian([1.0, -1.0], [[2.0, 0.5], [0.5, 1.0]], nu=6.0)
    X = law.rvs(5000, random_state=0)
    np.testing.assert_array_equal(X, law.rvs(5000, random_state=0))
    white = np.linalg.solve(np.linalg.cholesky(law.scale), (X - law.loc).T)
    distance = (white**2).sum(axis=0) / 2
    assert stats.kstest(distance, stats.f(2, 6).cdf).pvalue > 1e-3
    assert stats.kstest(white[0], stats.t(6).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([0.0], [[1.0]]), {}, "exactly one of nu and q"),
        (([0.0], [[1.0]]), {"nu": 1.0, "q": 1.1}, "exactly one of nu and q"),
        (([0.0], [[1.0]]), {"nu": 0.0}, "nu must be"),
        (([0.0], [[1.0]]), {"q": 3.0}, "q must lie strictly between 1 and 1 \\+ 2 / dim = 3"),
        (([0.0, 0.0], [[1.0]]), {"nu": 1.0}, r"scale must be finite with shape \(2, 2\)"),
        (([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), {"nu": 1.0}, "scale must be positive definite"),
        (([0.0, 0.0], [[1.0, 0.2], [0.0, 1.0]]), {"nu": 1.0}, "scale must be symmetric"),
        (([np.nan], [[1.0]]), {"nu": 1.0}, "loc must be one finite vector"),
    ],
)
def test_errors(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        MultivariateQGaussian(*arguments, **options)


def test_errors_of_the_functions():
    law = MultivariateQGaussian([0.0, 0.0], np.eye(2), nu=3.0)
    with pytest.raises(ValueError, match="x must have a last axis of 2"):
        law.logpdf([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="size must be an integer of at least 1"):
        law.rvs(0)
    with pytest.raises(ValueError, match="dim must be an integer of at least 1"):
        q_from_nu(1.0, 0)
    with pytest.raises(ValueError, match="nu must be above 0"):
        q_from_nu(0.0, 1)
    for q in (1.0, 1.5):
        with pytest.raises(ValueError, match="q must lie strictly between"):
            nu_from_q(q, 4)
