"""Cumulants of Coulomb gases against exact laws, another formula, and samples."""

import math
import warnings

import numpy as np
import pytest
import torch
from rankone.stats.coulomb import (
    HarmonicPotential,
    PowerPotential,
    cumulants,
    droplet_radius,
    estimate_cumulants,
    exact_cumulants_determinantal,
    large_deviation_rate,
    linear_statistic,
    mass_density,
    sample_coulomb_gas,
    scaled_mean,
    validity_constant,
)
from scipy import stats
from scipy.integrate import quad
from scipy.special import poch

HARMONIC = HarmonicPotential()


def square(r):
    return r**2


def quartic_mixture(r):
    """U = r^2/2 + r^4/4, of radius 0.786 in two dimensions."""
    return r**2 / 2 + r**4 / 4


def leading(f, potential=HARMONIC, dim=2, beta=2.0, n=1, order=6, **options):
    return cumulants(f, potential, dim=dim, beta=beta, n_particles=n, max_order=order, **options)


class TestDroplet:
    @pytest.mark.parametrize("dim", [1, 2, 3, 5])
    @pytest.mark.parametrize("strength", [0.3, 1.0, 7.0])
    def test_harmonic_radius(self, dim, strength):
        assert droplet_radius(HarmonicPotential(strength), dim) == pytest.approx(
            strength ** (-1 / dim), rel=1e-13
        )

    @pytest.mark.parametrize("length", [0.01, 3.0, 1e4])
    def test_radius_scales_by_gauss_law(self, length):
        # U(r / l) in d dimensions: R^(d-1) U'(R / l) / l = 1, so R = l^(d/4) for U = r^2/2, d = 2.
        radius = droplet_radius(lambda r: (r / length) ** 2 / 2, 2)
        assert radius == pytest.approx(length, rel=1e-12)
        radius = droplet_radius(PowerPotential(4, strength=1 / length**4), 3)
        assert radius == pytest.approx(length ** (4 / 5), rel=1e-12)

    def test_mixture_of_powers(self):
        assert droplet_radius(quartic_mixture, 2) == pytest.approx(0.7861514, abs=5e-8)

    @pytest.mark.parametrize("dim", [1, 2, 4])
    @pytest.mark.parametrize("potential", [HARMONIC, PowerPotential(3), quartic_mixture])
    def test_mass_is_one(self, potential, dim):
        density = mass_density(potential, dim)
        mass, _ = quad(density, 0, droplet_radius(potential, dim), epsabs=1e-12)
        assert mass == pytest.approx(1, abs=1e-10)
        assert density(2 * droplet_radius(potential, dim)) == 0

    def test_a_potential_that_confines_nothing(self):
        with pytest.raises(ValueError, match="potential must confine the gas"):
            droplet_radius(lambda r: 0.5 * torch.atan(r), 1)


class TestLeadingOrder:
    @pytest.mark.parametrize("dim", [1, 2, 3, 4, 5])
    @pytest.mark.parametrize("beta", [0.5, 2.0])
    def test_square_in_any_dimension(self, dim, beta):
        n = 7
        found = leading(square, dim=dim, beta=beta, n=n)
        for q in range(2, 7):
            expected = dim / (dim + 2) * 2 ** (q - 1) * poch(2 / dim, q - 1)
            assert found[q - 1] == pytest.approx(
                expected / (beta ** (q - 1) * n ** (q - 2)), rel=1e-8
            )

    def test_first_cumulant_is_the_droplets_mean(self):
        density = mass_density(quartic_mixture, 3)
        mean, _ = quad(
            lambda r: math.cos(r) * density(r), 0, droplet_radius(quartic_mixture, 3), epsabs=1e-13
        )
        assert leading(torch.cos, quartic_mixture, dim=3, n=5)[0] == pytest.approx(5 * mean)

    @pytest.mark.parametrize(
        ("f", "expected"),
        [
            (lambda r: r**4, (1, 8, 112, 2304)),
            (lambda r: torch.exp(-(r**2)), (0.148499, -0.0497871, -0.0183156, 0.0202138)),
            (lambda r: torch.cos(2 * r**2), (1.585107, -6.014616, -7.232965, 554.1246)),
        ],
    )
    def test_values_in_the_plane(self, f, expected):
        np.testing.assert_allclose(leading(f, order=5)[1:], expected, rtol=5e-6)

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_third_cumulant_in_closed_form(self, dim):
        found = leading(torch.cosh, quartic_mixture, dim=dim, beta=1.5, n=4)[2]
        R = droplet_radius(quartic_mixture, dim)
        curvature = 1 + 3 * R**2 + (dim - 1) * R**-dim
        expected = R ** (dim - 1) * math.sinh(R) ** 3 / (1.5**2 * 4 * curvature)
        assert found == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize("dim", [1, 2, 3])
    def test_series_equals_the_closed_form_on_a_contour(self, dim):
        mpmath = pytest.importorskip("mpmath")
        with mpmath.workdps(30):
            mp = mpmath.mpf

            def slope(r):  # of f = r^2 + r^3
                return 2 * r + 3 * r**2

            def field(r):  # of U = r^2/2 + r^4/4
                return r + r**3

            edge = mpmath.findroot(
                lambda r: r ** (dim - 1) * field(r) - 1, mp(droplet_radius(quartic_mixture, dim))
            )

            def integrand(r, q):
                g = (field(r) - r ** (1 - dim)) / slope(r)
                return r ** (dim - 1) * slope(r) ** 2 * ((r - edge) / g) ** (q - 2)

            # Derivatives by Cauchy's formula; the mean over a circle converges exponentially.
            circle = [mpmath.expjpi(mp(2) * k / 128) / 10 for k in range(128)]
            expected = [
                float(
                    mpmath.factorial(q - 3)
                    * mpmath.fsum(integrand(edge + z, q) / z ** (q - 3) for z in circle).real
                    / 128
                )
                for q in range(3, 7)
            ]
        found = leading(lambda r: r**2 + r**3, quartic_mixture, dim=dim, beta=1.0)
        np.testing.assert_allclose(found[2:], expected, rtol=1e-10)

    def test_cumulants_beyond_the_second_see_the_edge_alone(self):
        changed = leading(lambda r: r**2 + (r**2 - 1) ** 6)
        plain = leading(square)
        np.testing.assert_allclose(changed[2:], plain[2:], rtol=1e-8)
        assert abs(changed[1] - plain[1]) > 0.01

    def test_a_slope_of_zero_at_the_edge_divides_nothing(self):
        found = leading(lambda r: (r**2 - 1) ** 2)
        assert found[1] > 0
        np.testing.assert_allclose(found[2:], 0, atol=1e-10)

    def test_scaling_of_f_of_beta_and_of_the_number_of_particles(self):
        base = leading(torch.cos, quartic_mixture, dim=3, beta=1.0, n=1)
        q = np.arange(1, 7)
        np.testing.assert_allclose(
            leading(lambda r: 3 * torch.cos(r), quartic_mixture, dim=3, beta=1.0), 3.0**q * base
        )
        np.testing.assert_allclose(
            leading(torch.cos, quartic_mixture, dim=3, beta=2.5)[1:],
            (2.5 ** (1.0 - q) * base)[1:],
        )
        np.testing.assert_allclose(
            leading(torch.cos, quartic_mixture, dim=3, beta=1.0, n=9), 9.0 ** (2 - q) * base
        )

    def test_a_constant_changes_the_mean_alone(self):
        shifted, plain = leading(lambda r: r**2 + 5, n=3), leading(square, n=3)
        assert shifted[0] == pytest.approx(plain[0] + 15)
        np.testing.assert_allclose(shifted[1:], plain[1:], rtol=1e-12)
        np.testing.assert_allclose(
            leading(lambda r: torch.full_like(r, 2.0), n=3), [6, 0, 0, 0, 0, 0]
        )

    def test_series_is_that_of_the_perturbed_droplet(self):
        # kappa_q beta^(q-1) N^(q-2) = (q-1)-th derivative of G; a polynomial through exact values.
        s = 0.02 * np.cos(np.pi * (np.arange(9) + 0.5) / 9)
        values = [scaled_mean(torch.cos, quartic_mixture, dim=2, s=point) for point in s]
        fit = np.polynomial.Polynomial.fit(s, values, 8).convert().coef
        found = leading(torch.cos, quartic_mixture, beta=1.0, order=4)
        np.testing.assert_allclose(found, [fit[0], fit[1], 2 * fit[2], 6 * fit[3]], rtol=1e-5)


class TestExact:
    def test_square_is_a_gamma_variable(self):
        for n in (1, 10, 300):
            found = exact_cumulants_determinantal(square, HARMONIC, n_particles=n, max_order=6)
            expected = [math.factorial(q - 1) * n * (n + 1) / 2 / n**q for q in range(1, 7)]
            np.testing.assert_allclose(found, expected, rtol=1e-8)

    @pytest.mark.parametrize(
        ("f", "potential", "n", "ratios"),
        [
            (lambda r: r**4, HARMONIC, 100, (1.054, 1.082, 1.115, 1.151)),
            (lambda r: torch.exp(-(r**2)), HARMONIC, 800, (0.999, 0.996, 1.003, 1.012)),
            (lambda r: torch.cos(2 * r**2), HARMONIC, 800, (0.9986, 0.9882, 1.0449, 0.9679)),
            (square, quartic_mixture, 400, (1.000, 0.998, 0.996, 0.992)),
        ],
    )
    def test_ratio_to_the_leading_order(self, f, potential, n, ratios):
        exact = exact_cumulants_determinantal(f, potential, n_particles=n, max_order=5)
        found = exact[1:] / leading(f, potential, n=n, order=5)[1:]
        np.testing.assert_allclose(found, ratios, atol=6e-4)

    def test_the_ratio_converges(self):
        def error(n):
            exact = exact_cumulants_determinantal(lambda r: r**4, HARMONIC, n_particles=n)
            return np.abs(exact / leading(lambda r: r**4, n=n, order=4) - 1)[1:]

        np.testing.assert_allclose(error(100) / error(400), 4, rtol=0.1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_particles": 0}, "n_particles must be an integer of at least 1"),
            ({"max_order": 7}, "max_order must lie between 1 and 6, got 7"),
            ({"n_quad": 0}, "n_quad must be at least 1"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            exact_cumulants_determinantal(square, HARMONIC, **{"n_particles": 5, **options})


class TestValidity:
    def test_a_density_that_vanishes_at_the_centre(self):
        potential = PowerPotential(4)
        assert validity_constant(square, potential, 2) == math.inf
        with pytest.warns(UserWarning, match="validity constant is inf"):
            found = leading(square, potential, n=400, order=5)
        exact = exact_cumulants_determinantal(square, potential, n_particles=400, max_order=5)
        np.testing.assert_allclose(exact[1:] / found[1:], [0.996, 0.966, 0.478, -13.6], rtol=5e-3)

    def test_sound_cases_are_not_flagged(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for dim in (1, 2, 3):
                leading(square, quartic_mixture, dim=dim)
                leading(lambda r: r**4, PowerPotential(4), dim=dim)

    def test_constant_of_a_cosine(self):
        # (r f')' / (2 r) for f = cos(r^2): |2 sin + 2 r^2 cos| with r^2 in [0, 1].
        t = np.linspace(0, 1, 100_001)
        expected = np.abs(2 * np.sin(t) + 2 * t * np.cos(t)).max()
        found = validity_constant(lambda r: torch.cos(r**2), HARMONIC, 2)
        assert found == pytest.approx(expected, rel=1e-6)

    def test_check_can_be_left_out(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            leading(square, PowerPotential(4), check=False)

    def test_a_droplet_that_is_no_ball(self):
        def rim(r):  # repelled from the centre
            return r**4 / 4 - r**2 / 4

        with pytest.raises(ValueError, match="is not a ball"):
            leading(square, rim)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
            ({"beta": 0.0}, "beta must be above 0, got 0.0"),
            ({"n": 0}, "n_particles must be an integer of at least 1, got 0"),
            ({"order": 0}, "max_order must be at least 1, got 0"),
        ],
    )
    def test_bad_input(self, options, message):
        with pytest.raises(ValueError, match=message):
            leading(square, **options)

    @pytest.mark.parametrize("arguments", [(0,), (2, -1.0)])
    def test_bad_potentials(self, arguments):
        with pytest.raises(ValueError, match="must be above 0, got"):
            PowerPotential(*arguments)
        with pytest.raises(ValueError, match="strength must be above 0, got 0"):
            HarmonicPotential(0)


class TestRate:
    def test_harmonic_square(self):
        ell = np.array([0.1, 0.4, 0.5, 0.7, 3.0, 20.0])
        found = large_deviation_rate(square, HARMONIC, dim=2, ell=ell)
        np.testing.assert_allclose(found, ell / 2 - 0.25 - np.log(2 * ell) / 4, atol=1e-9)

    def test_zero_and_curvature_at_the_mean(self):
        mean = scaled_mean(torch.cos, quartic_mixture, dim=3, s=0.0)
        variance = leading(torch.cos, quartic_mixture, dim=3, beta=1.0, order=2)[1]
        h = 1e-3
        below, at, above = large_deviation_rate(
            torch.cos, quartic_mixture, dim=3, ell=[mean - h, mean, mean + h]
        )
        assert at == 0
        assert min(below, above) > 0
        assert (below - 2 * at + above) / h**2 == pytest.approx(1 / variance, rel=1e-3)

    def test_a_value_beyond_reach(self):
        with pytest.raises(ValueError, match=r"ell must be reachable .* got -1"):
            large_deviation_rate(square, HARMONIC, dim=2, ell=-1.0)

    def test_an_infinite_validity_constant(self):
        with pytest.raises(ValueError, match="f must leave the droplet a ball"):
            large_deviation_rate(square, PowerPotential(4), dim=2, ell=1.0)


class TestSampling:
    def test_ginibre_moduli_have_the_law_of_gammas(self):
        n, draws = 12, 1500
        points = sample_coulomb_gas(
            n, dim=2, beta=2, potential=HARMONIC, n_samples=draws, random_state=0
        )
        assert points.shape == (draws, n, 2)
        scaled = n * np.square(points).sum(axis=-1)
        generator = np.random.default_rng(1)
        gammas = generator.gamma(np.arange(1, n + 1), size=(20_000, n))
        assert stats.kstest(scaled.sum(axis=1), stats.gamma(n * (n + 1) / 2).cdf).pvalue > 1e-3
        assert stats.ks_2samp(scaled.max(axis=1), gammas.max(axis=1)).pvalue > 1e-3

    @pytest.mark.parametrize("potential", [HarmonicPotential(2.0), quartic_mixture])
    def test_radii_have_the_exact_cumulants(self, potential):
        radii = sample_coulomb_gas(
            20, dim=2, beta=2, potential=potential, n_samples=20_000, method="radii", random_state=0
        )
        assert radii.shape == (20_000, 20)
        values = linear_statistic(radii, square)
        estimates, errors = estimate_cumulants(values, max_order=3)
        exact = exact_cumulants_determinantal(square, potential, n_particles=20, max_order=3)
        assert (np.abs(estimates - exact) < 4 * errors).all()

    @pytest.mark.parametrize(("dim", "beta"), [(1, 2.0), (2, 1.0), (3, 2.0)])
    def test_chains_reach_the_exact_law_of_the_virial(self, dim, beta):
        n = 6
        points, info = sample_coulomb_gas(
            n, dim=dim, beta=beta, potential=HARMONIC, n_samples=4000, method="mcmc",
            n_chains=500, burn_in=60, thin=3, random_state=0, return_info=True,
        )  # fmt: skip
        assert points.shape == (4000, n, dim)
        assert 0.2 < info["acceptance"] < 0.6
        assert 500 < info["ess"] <= 4000
        # E x . grad E = N d / beta: N sum r^2 - (pair terms), exact at every N.
        difference = points[:, :, None] - points[:, None]
        distance = np.linalg.norm(difference, axis=-1)[:, *np.triu_indices(n, 1)]
        virial = n * np.square(points).sum(axis=(1, 2)) - (distance ** (2 - dim)).sum(axis=1)
        blocks = virial.reshape(50, -1).mean(axis=1)
        error = blocks.std(ddof=1) / math.sqrt(50)
        assert blocks.mean() == pytest.approx(n * dim / beta, abs=4 * error)

    def test_square_in_the_plane_is_gamma_at_any_temperature(self):
        n, beta = 8, 1.0
        points = sample_coulomb_gas(
            n, dim=2, beta=beta, potential=HARMONIC, n_samples=3000, n_chains=1000, burn_in=60,
            thin=5, random_state=3,
        )  # fmt: skip
        shape, scale = n + beta * n * (n - 1) / 4, 2 / (beta * n)
        estimates, errors = estimate_cumulants(linear_statistic(points, square), max_order=3)
        exact = [math.factorial(q - 1) * shape * scale**q for q in (1, 2, 3)]
        assert (np.abs(estimates - exact) < 4 * errors).all()

    def test_auto_takes_the_exact_sampler(self):
        def method(potential, beta=2.0, dim=2):
            return sample_coulomb_gas(
                3, dim=dim, beta=beta, potential=potential, n_samples=2, n_chains=2, burn_in=1,
                return_info=True, random_state=0,
            )[1]["method"]  # fmt: skip

        assert method(HARMONIC) == "ginibre"
        assert method(PowerPotential(4)) == "radii"
        assert method(HARMONIC, beta=1.0) == method(HARMONIC, dim=3) == "mcmc"

    def test_the_step_is_frozen_after_burn_in_and_may_be_given(self):
        info = sample_coulomb_gas(
            4, dim=3, beta=1, potential=HARMONIC, n_samples=5, n_chains=2, burn_in=30,
            step_size=0.123, return_info=True, random_state=0,
        )[1]  # fmt: skip
        assert info["step_size"] == 0.123

    def test_one_random_state_repeats_every_draw(self):
        for options in ({"method": "ginibre"}, {"method": "radii"}, {"method": "mcmc"}):
            draw = [
                sample_coulomb_gas(
                    4, dim=2, beta=2, potential=HARMONIC, n_samples=7, n_chains=3, burn_in=5,
                    random_state=9, **options,
                )
                for _ in range(2)
            ]  # fmt: skip
            np.testing.assert_array_equal(*draw)
            assert len(draw[0]) == 7

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"method": "ginibre", "beta": 1.0}, "method 'ginibre' needs dim=2, beta=2"),
            ({"method": "ginibre", "potential": PowerPotential(4)}, "got dim=2, beta=2.*Power"),
            ({"method": "radii", "dim": 3}, "method 'radii' needs dim=2 and beta=2, got dim=3"),
            ({"method": "exact"}, "method must be auto, ginibre, radii or mcmc, got 'exact'"),
            ({"n_samples": 0}, "n_samples must be at least 1, got 0"),
            ({"thin": 0}, "thin must be at least 1"),
            ({"step_size": 0.0}, "step_size must be above 0"),
            ({"beta": -1.0}, "beta must be above 0"),
            ({"dim": 0}, "dim must be an integer"),
        ],
    )
    def test_bad_input(self, options, message):
        call = {"dim": 2, "beta": 2, "potential": HARMONIC, "n_samples": 2, **options}
        with pytest.raises(ValueError, match=message):
            sample_coulomb_gas(4, **call)


class TestEstimates:
    def test_blocks_of_correlated_chains_widen_the_error(self):
        chains = np.repeat(np.random.default_rng(0).standard_normal(500), 20)
        _, blocked = estimate_cumulants(chains, max_order=1)
        assert blocked[0] == pytest.approx(1 / math.sqrt(500), rel=0.3)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: estimate_cumulants(np.ones((2, 2))), r"values must have shape \(n,\)"),
            (lambda: estimate_cumulants(np.ones(1000), max_order=5), "between 1 and 4, got 5"),
            (lambda: estimate_cumulants(np.ones(100)), "n_blocks must lie between 2"),
            (lambda: linear_statistic(np.ones(3), square), "positions must have shape"),
        ],
    )
    def test_bad_input(self, call, message):
        with pytest.raises(ValueError, match=message):
            call()
