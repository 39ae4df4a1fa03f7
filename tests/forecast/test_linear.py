"""LinearForecaster: least squares against scikit-learn, the published protocol, files, resume."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from rankone.forecast import LinearForecaster
from rankone.forecast import least_squares as least_squares_module
from rankone.forecast.least_squares import window_least_squares
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge

# Normal equations of a few hundred windows in float64.
EXACT = {"rtol": 1e-8, "atol": 1e-8}


def noisy(rows=260, variates=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, variates)).cumsum(0) + np.array([10.0, -4.0, 100.0])[:variates]


def stacked(series, lookback, horizon, relative=False):
    """All windows, a row a window and channel."""
    windows = sliding_window_view(series, lookback + horizon, axis=0)
    windows = windows.reshape(-1, lookback + horizon)
    if relative:
        windows = windows - windows[:, lookback - 1 : lookback]
    return windows[:, :lookback], windows[:, lookback:]


def standardised(series):
    return (series - series.mean(0)) / series.std(0)


def fitted(X, **options):
    defaults = {"lookback": 12, "horizon": 5, "solver": "lstsq", "progress": False}
    return LinearForecaster(**{**defaults, **options}).fit(X)


class TestLeastSquares:
    @pytest.mark.parametrize("alpha", [0.0, 3.7])
    @pytest.mark.parametrize("variant", ["linear", "nlinear"])
    def test_is_scikit_learns_on_the_stacked_windows(self, variant, alpha):
        X = noisy()
        forecaster = fitted(X, variant=variant, alpha=alpha)
        inputs, targets = stacked(standardised(X), 12, 5, variant == "nlinear")
        reference = (Ridge(alpha=alpha) if alpha else LinearRegression()).fit(inputs, targets)
        weight = reference.coef_.copy()
        if variant == "nlinear":
            weight[:, -1] = 1 - weight[:, :-1].sum(1)
        np.testing.assert_allclose(forecaster.coef_, weight, **EXACT)
        np.testing.assert_allclose(forecaster.intercept_, reference.intercept_, **EXACT)

    def test_blocks_do_not_change_the_solution(self, monkeypatch):
        X = noisy(600)
        whole = window_least_squares(X, 12, 5, individual=True)
        monkeypatch.setattr(least_squares_module, "_BLOCK_NUMBERS", 1000)
        monkeypatch.setattr(least_squares_module, "_GRAM_NUMBERS", 300)
        for blocked, expected in zip(
            window_least_squares(X, 12, 5, individual=True), whole, strict=True
        ):
            np.testing.assert_allclose(blocked, expected, **EXACT)

    def test_individual_is_a_fit_for_every_variate(self):
        X = noisy()
        together = fitted(X, individual=True, variant="linear", alpha=0.5)
        assert together.coef_.shape == (3, 5, 12)
        for variate in range(3):
            alone = fitted(X[:, [variate]], variant="linear", alpha=0.5)
            np.testing.assert_allclose(together.coef_[variate], alone.coef_, **EXACT)
            np.testing.assert_allclose(
                together.predict()[:, variate], alone.predict()[:, 0], rtol=1e-8
            )

    def test_large_offsets_cost_no_digits(self):
        """Centring before the products: X + 1e6 unscaled has the same weights."""
        X = noisy(variates=1)
        plain = fitted(X, variant="linear", scale=False)
        far = fitted(X + 1e6, variant="linear", scale=False)
        np.testing.assert_allclose(far.coef_, plain.coef_, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("lookback", [2, 24])
    def test_a_sinusoid_is_forecast_exactly(self, lookback):
        t = np.arange(500.0)
        X = np.sin(2 * np.pi * t / 17.3 + 0.4)[:, None]
        forecaster = fitted(X[:400], lookback=lookback, horizon=100, variant="linear")
        assert np.square(forecaster.predict() - X[400:]).mean() < 1e-12

    def test_a_line_is_forecast_exactly_by_nlinear(self):
        X = (3.0 + 0.25 * np.arange(300.0))[:, None]
        forecaster = fitted(X[:200], lookback=24, horizon=100)
        np.testing.assert_allclose(forecaster.predict(), X[200:], rtol=1e-10)

    @pytest.mark.parametrize("variant", ["linear", "nlinear"])
    def test_a_constant_is_continued(self, variant):
        forecaster = fitted(np.full((60, 1), 7.3), variant=variant)
        np.testing.assert_allclose(forecaster.predict(), 7.3, rtol=1e-12)

    def test_dlinear_says_that_it_is_linear(self):
        X = noisy()
        with pytest.warns(UserWarning, match="the solution of 'linear'"):
            dlinear = fitted(X, lookback=20, variant="dlinear", alpha=1.0)
        linear = fitted(X, lookback=20, variant="linear", alpha=1.0)
        np.testing.assert_allclose(dlinear.coef_, linear.coef_, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(dlinear.predict(), linear.predict(), rtol=1e-10)
        model = dlinear.model_
        assert torch.equal(model.weight, model.trend_weight)

    def test_uses_every_row_and_no_epochs(self):
        X = noisy()
        other = fitted(X, val_fraction=0.5)
        np.testing.assert_array_equal(other.coef_, fitted(X, val_fraction=0.0).coef_)
        np.testing.assert_allclose(other.scaler_mean_, X.mean(0))
        assert other.history_.train_loss == []
        assert other.history_.stopped_by == "closed form"

    def test_one_value_lookbacks(self):
        repeat = fitted(noisy(), lookback=1)
        np.testing.assert_array_equal(repeat.coef_, np.ones((5, 1)))

    def test_the_global_random_state_is_left_alone(self):
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        fitted(noisy())
        assert torch.equal(torch.rand(1), expected)


class TestProtocol:
    def test_adam_never_beats_least_squares_on_the_training_windows(self):
        X = noisy(400)
        options = {"variant": "linear", "lookback": 12, "horizon": 5}
        exact = fitted(X, **options).score(X)
        for lr, seed in ((1e-3, 0), (1e-2, 1), (5e-2, 2)):
            adam = fitted(
                X,
                solver="adam",
                lr=lr,
                val_fraction=0.0,
                max_epochs=6,
                random_state=seed,
                **options,
            )
            assert adam.score(X) <= exact

    def test_adam_comes_near_least_squares(self):
        X = noisy(600, 1)
        exact = fitted(X, variant="nlinear").score(X)
        adam = fitted(X, solver="adam", lr=5e-3, max_epochs=10, val_fraction=0.0, random_state=0)
        assert exact * 1.1 < adam.score(X) <= exact < 0

    def test_individual_maps_learn_each_its_own_series(self):
        """By Adam: two channels with opposite laws, which no shared map forecasts."""
        rng = np.random.default_rng(0)
        X = np.zeros((600, 2))
        for t in range(1, 600):
            X[t] = np.array([0.9, -0.9]) * X[t - 1] + rng.normal(size=2)
        options = {"lookback": 4, "horizon": 1, "solver": "adam", "lr": 1e-1, "random_state": 0}
        options |= {"variant": "linear", "val_fraction": 0.0, "batch_size": 16}
        shared, own = (fitted(X, individual=flag, **options).score(X) for flag in (False, True))
        alone = np.mean([fitted(X[:, [c]], **options).score(X[:, [c]]) for c in (0, 1)])
        assert own == pytest.approx(alone, rel=0.05)
        assert shared < 1.5 * own

    def test_parameters_are_those_of_the_published_runs(self):
        parameters = LinearForecaster().get_params()
        expected = {"lookback": 336, "horizon": 96, "variant": "nlinear", "individual": False}
        expected |= {"kernel_size": 25, "solver": "adam", "alpha": 0.0, "lr": 1e-3}
        expected |= {"batch_size": 32, "max_epochs": 10, "patience": 3, "scale": True}
        expected |= {"val_fraction": 0.125, "device": None, "random_state": None}
        assert expected.items() <= parameters.items()

    @pytest.mark.parametrize("variant", ["linear", "nlinear", "dlinear"])
    def test_coefficients_reproduce_the_forecast(self, variant):
        X = noisy()
        forecaster = fitted(
            X, lookback=20, variant=variant, solver="adam", max_epochs=2, random_state=0
        )
        last = (X[-20:] - forecaster.scaler_mean_) / forecaster.scaler_scale_
        forecast = forecaster.coef_ @ last + forecaster.intercept_[:, None]
        restored = forecast * forecaster.scaler_scale_ + forecaster.scaler_mean_
        # float32 weights.
        np.testing.assert_allclose(forecaster.predict(), restored, rtol=1e-5, atol=1e-4)

    def test_the_future_enters_neither_scaler_nor_weights(self):
        X = noisy()
        changed = X.copy()
        changed[-32:] *= 50.0  # the validation rows, an eighth of 260
        for solver, rows in (("adam", 228), ("lstsq", 260)):
            options = {"solver": solver, "random_state": 0, "max_epochs": 1}
            first = fitted(X[:rows], val_fraction=0.0, **options)
            np.testing.assert_allclose(first.scaler_mean_, X[:rows].mean(0))
            np.testing.assert_allclose(first.scaler_scale_, X[:rows].std(0))
        held_out = [
            fitted(series, solver="adam", random_state=0, max_epochs=1) for series in (X, changed)
        ]
        np.testing.assert_array_equal(held_out[0].coef_, held_out[1].coef_)
        np.testing.assert_array_equal(held_out[0].scaler_mean_, held_out[1].scaler_mean_)


class TestFamily:
    def test_frames_go_in_and_original_units_come_out(self):
        X = noisy()
        frame = pd.DataFrame(X, columns=["a", "b", "c"])
        forecaster = fitted(frame)
        np.testing.assert_allclose(forecaster.predict(frame), fitted(X).predict(), rtol=1e-9)
        scaled = fitted(X * np.array([1.0, 1e3, 1e-3]) + 5.0).predict()
        expected = fitted(X).predict() * np.array([1.0, 1e3, 1e-3]) + 5.0
        np.testing.assert_allclose(scaled, expected, rtol=1e-6)
        with pytest.raises(ValueError, match="feature names"):
            forecaster.predict(frame[["c", "b", "a"]])

    def test_walks_forward_without_the_future(self):
        X = noisy()
        forecaster = fitted(X[:200])
        steps = forecaster.predict_walk_forward(X, start=200)
        assert steps.shape == (60, 3)
        np.testing.assert_allclose(steps[7], forecaster.predict(X[:207])[0], rtol=1e-10)
        changed = X.copy()
        changed[230:] += 1e3
        np.testing.assert_array_equal(
            forecaster.predict_walk_forward(changed, start=200)[:31], steps[:31]
        )
        with pytest.raises(ValueError, match="start must be an integer of at least 12"):
            forecaster.predict_walk_forward(X, start=11)

    def test_lookbacks_are_forecast_each_by_its_last_rows(self):
        X = noisy()
        forecaster = fitted(X)
        lookbacks = np.stack([X[:30], X[30:60]])
        np.testing.assert_allclose(
            forecaster.predict_lookbacks(lookbacks),
            np.stack([forecaster.predict(X[:30]), forecaster.predict(X[:60])]),
            rtol=1e-12,
        )
        with pytest.raises(ValueError, match=r"at least lookback=12, 3\), got \(2, 11, 3\)"):
            forecaster.predict_lookbacks(lookbacks[:, :11])

    @pytest.mark.parametrize("solver", ["lstsq", "adam"])
    def test_files_bring_a_forecaster_back(self, tmp_path, solver):
        frame = pd.DataFrame(noisy(), columns=["a", "b", "c"])
        options = {"solver": solver, "random_state": 3, "max_epochs": 1, "individual": True}
        forecaster = fitted(frame, **options)
        forecaster.save(tmp_path / "f.safetensors")
        again = LinearForecaster.load(tmp_path / "f.safetensors")
        np.testing.assert_array_equal(again.predict(), forecaster.predict())
        np.testing.assert_array_equal(again.coef_, forecaster.coef_)
        assert again.get_params() == forecaster.get_params()
        assert list(again.feature_names_in_) == ["a", "b", "c"]

    def test_files_of_another_forecaster_are_refused(self, tmp_path):
        from rankone.forecast import ChimeraForecaster
        from safetensors.numpy import save_file

        forecaster = fitted(noisy())
        forecaster.save(tmp_path / "f")
        with pytest.raises(ValueError, match="a file of ChimeraForecaster, got one of Linear"):
            ChimeraForecaster.load(tmp_path / "f")
        save_file({"x": np.zeros(2)}, tmp_path / "g")
        with pytest.raises(ValueError, match="does not hold a rankone forecaster"):
            LinearForecaster.load(tmp_path / "g")
        with pytest.raises(ValueError, match="random_state must be an integer or None"):
            fitted(noisy(), random_state=np.random.RandomState(0)).save(tmp_path / "h")

    def test_weights_are_drawn(self):
        axes = fitted(noisy(), individual=True).plot_weights(channel=1)
        assert axes.get_xlabel() == "lag"
        assert axes.get_images()[0].get_array().shape == (5, 12)

    def test_clones_are_unfitted_and_equal(self):
        forecaster = fitted(noisy(), alpha=2.0)
        assert clone(forecaster).get_params() == forecaster.get_params()
        assert not hasattr(clone(forecaster), "coef_")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"solver": "sgd"}, "solver must be one of adam, lstsq, got 'sgd'"),
            ({"alpha": "1"}, "alpha must be finite and at least 0, got '1'"),
            ({"lr": "fast"}, "lr must be positive and finite, got 'fast'"),
            ({"alpha": -1.0}, "alpha must be finite and at least 0"),
            ({"variant": "x"}, "variant must be one of"),
            ({"lookback": 0}, "lookback must be an integer of at least 1"),
            ({"lookback": 256}, "training rows of X must have at least"),
        ],
    )
    def test_mistakes_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            fitted(noisy(), **options)

    def test_bad_series_are_refused(self):
        X = noisy()
        X[4, 1] = np.inf
        with pytest.raises(ValueError, match="infinity"):
            fitted(X)
        with pytest.raises(ValueError, match="2D array"):
            fitted(np.zeros(100))


class TestResume:
    def options(self, **more):
        options = {"solver": "adam", "random_state": 5, "max_epochs": 5, "patience": None}
        return options | {"lr": 1e-2} | more

    def test_an_interrupted_fit_goes_on_as_though_it_had_not_been(self, tmp_path):
        X = noisy()
        whole = fitted(X, **self.options())
        fitted(X, **self.options(max_epochs=2, checkpoint=tmp_path / "c"))
        resumed = fitted(X, **self.options(checkpoint=tmp_path / "c"))
        np.testing.assert_array_equal(resumed.coef_, whole.coef_)
        assert resumed.history_.train_loss == whole.history_.train_loss
        assert resumed.history_.best_epoch == whole.history_.best_epoch

    def test_a_finished_fit_is_read_back(self, tmp_path):
        X = noisy()
        first = fitted(X, **self.options(checkpoint=tmp_path / "c"))
        second = fitted(X, **self.options(checkpoint=tmp_path / "c"))
        np.testing.assert_array_equal(first.coef_, second.coef_)
        assert second.history_.train_loss == first.history_.train_loss

    def test_patience_counts_across_sessions(self, tmp_path):
        # White noise has nothing to learn but itself.
        X = np.random.default_rng(0).normal(size=(140, 1))
        options = self.options(patience=1, lr=2e-2, max_epochs=9, lookback=30, batch_size=8)
        whole = fitted(X, **options)
        assert whole.history_.stopped_by == "patience"
        fitted(X, **(options | {"max_epochs": 1, "checkpoint": tmp_path / "c"}))
        resumed = fitted(X, **(options | {"checkpoint": tmp_path / "c"}))
        assert resumed.history_.train_loss == whole.history_.train_loss
        np.testing.assert_array_equal(resumed.coef_, whole.coef_)

    def test_a_checkpoint_of_another_fit_is_refused(self, tmp_path):
        X = noisy()
        fitted(X, **self.options(max_epochs=1, checkpoint=tmp_path / "c"))
        with pytest.raises(ValueError, match="other data or parameters"):
            fitted(X + 1e-3 * X**2, **self.options(checkpoint=tmp_path / "c"))
        with pytest.raises(ValueError, match="other data or parameters"):
            fitted(X, **self.options(lr=1e-3, checkpoint=tmp_path / "c"))
        with pytest.raises(FileNotFoundError, match="no directory for the checkpoint"):
            fitted(X, **self.options(checkpoint=tmp_path / "none" / "c"))


def test_nothing_warns_in_an_ordinary_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(noisy())
        fitted(noisy(), solver="adam", max_epochs=1, random_state=0)
