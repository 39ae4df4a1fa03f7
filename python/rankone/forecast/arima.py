"""ARIMAForecaster: statsmodels' ARIMA with its order chosen, as a forecaster of the family.

Walking forward filters the new values through the fitted state space model, exact and without a
refit. From the comparison of "Forecasting S&P 500 Using LSTM Models" (arXiv 2501.17366).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from rankone._optional import require
from rankone._progress import track
from rankone.forecast.series_forecaster import SeriesForecaster, check_series
from rankone.forecast.window_forecaster import check_share, check_start

Order = tuple[int, int, int]

CRITERIA = ("aic", "aicc", "bic", "hqic")
TRENDS = ("n", "c", "t", "ct")

# Significance of the unit root tests, and the most differences they may ask for.
_TEST_SIZE = 0.05
_MAX_DIFFERENCES = 2
# Rows that the two tests and a likelihood with a few parameters need at least.
_LEAST_ROWS = 20


class ARIMAForecaster(SeriesForecaster):
    """ARIMA(p, d, q) with a drift.

    Args:
        order: ``"auto"``, the order of the least criterion, or (p, d, q).
        max_p, max_q: of the automatic choice.
        d: differences of the automatic choice; None decides by unit root tests: another difference
            while KPSS rejects stationarity and ADF does not reject a unit root.
        trend: ``"n"``, ``"c"``, ``"t"`` or ``"ct"``, as in statsmodels, on the undifferenced
            series: with one difference ``"t"`` is a drift. Terms that differences remove are left
            out, and ``"t"`` without a difference gets its constant.
        criterion: ``"aic"``, ``"aicc"``, ``"bic"`` or ``"hqic"``.
        progress: show a bar on a terminal.

    Attributes:
        order_: (p, d, q).
        trend_: the trend that was fitted.
        aic_: Akaike's criterion of the fit.
        orders_: dict of the criterion by (p, d, q), of the orders that were tried and could be
            fitted.
        results_: results of statsmodels.
        n_train_: rows of the fit.

    Example:
        >>> import numpy as np
        >>> from rankone.forecast import ARIMAForecaster
        >>> y = np.cumsum(np.random.default_rng(0).normal(0.2, 1.0, 200))
        >>> forecaster = ARIMAForecaster(order=(0, 1, 0)).fit(y)
        >>> forecaster.predict(3).shape
        (3,)
    """

    def __init__(
        self,
        order: str | Order = "auto",
        max_p: int = 2,
        max_q: int = 2,
        d: int | None = None,
        trend: str = "t",
        criterion: str = "aic",
        *,
        progress: bool = True,
    ) -> None:
        self.order = order
        self.max_p = max_p
        self.max_q = max_q
        self.d = d
        self.trend = trend
        self.criterion = criterion
        self.progress = progress

    def fit(self, y: Any) -> ARIMAForecaster:
        """Fit by maximum likelihood, after choosing the order.

        Args:
            y: (n,).

        Raises:
            ValueError: for parameters out of range, and values that are not finite or too few.
            RuntimeError: where no order could be fitted.

        Warns:
            ConvergenceWarning: for an order that could not be fitted; it is left out of the choice.
        """
        self._check_parameters()
        series = check_series(y, rows=_LEAST_ROWS)
        orders: list[Order]
        if self.order == "auto":
            d = self._differences(series) if self.d is None else self.d
            orders = [(p, d, q) for p in range(self.max_p + 1) for q in range(self.max_q + 1)]
        else:
            p, d, q = (int(value) for value in self.order)
            orders = [(p, d, q)]
        fits: dict[Order, Any] = {}
        for order in track(orders, "fitting ARIMA", enabled=self.progress and len(orders) > 1):
            results = self._fit_order(series, order)
            if results is not None:
                fits[order] = results
        if not fits:
            raise RuntimeError(f"no ARIMA of the orders {orders} could be fitted to y")
        self.orders_ = {order: float(getattr(fit, self.criterion)) for order, fit in fits.items()}
        self.order_ = min(self.orders_, key=self.orders_.__getitem__)
        self.results_ = fits[self.order_]
        self.trend_ = self._trend(self.order_[1])
        self.aic_ = float(self.results_.aic)
        self.n_train_ = len(series)
        return self

    def predict(self, horizon: int = 1) -> np.ndarray:
        """The ``horizon`` values after the series of the fit, all from its end.

        Raises:
            ValueError: for a horizon below 1.
        """
        self._check_horizon(horizon)
        return np.asarray(self.results_.forecast(horizon), dtype=np.float64)

    def predict_interval(
        self, horizon: int = 1, *, level: float = 0.95
    ) -> tuple[np.ndarray, np.ndarray]:
        """Normal interval of the forecast, parameters taken as known.

        Args:
            horizon: values ahead.
            level: probability inside.

        Returns:
            (lower, upper), both (horizon,).
        """
        check_share("level", level)
        self._check_horizon(horizon)
        interval = np.asarray(self.results_.get_forecast(horizon).conf_int(alpha=1 - level))
        return interval[:, 0], interval[:, 1]

    def predict_walk_forward(self, y_full: Any, start: int) -> np.ndarray:
        """One-step forecasts with the parameters of the fit, each from the values before it.

        Args:
            y_full: (n,), from the first row of the fit on; a trend counts from there.
            start: first row that is forecast, at least 1.

        Returns:
            (n - start,).
        """
        check_is_fitted(self, "n_train_")
        series = check_series(y_full, "y_full")
        check_start(start, 1, len(series))
        filtered = self.results_.apply(series, refit=False)
        return np.asarray(filtered.predict(start, len(series) - 1), dtype=np.float64)

    def _fit_order(self, series: np.ndarray, order: Order) -> Any:
        arima = require("statsmodels.tsa.arima.model", extra="forecast")
        exceptions = require("statsmodels.tools.sm_exceptions", extra="forecast")
        try:
            with warnings.catch_warnings():
                # Convergence is asked for below; starting values that are not stationary are
                # replaced by zeros, and the optimiser goes on from there.
                warnings.simplefilter("ignore", exceptions.ConvergenceWarning)
                warnings.filterwarnings("ignore", "Non-(stationary|invertible) starting")
                results = arima.ARIMA(series, order=order, trend=self._trend(order[1])).fit()
            reason = None if results.mle_retvals["converged"] else "it did not converge"
        except (ValueError, np.linalg.LinAlgError, IndexError) as error:
            results, reason = None, str(error)
        if results is not None and not np.isfinite(results.llf):
            results, reason = None, "its likelihood is not finite"
        if reason is None:
            return results
        left_out = self.order == "auto" or results is None
        warnings.warn(
            f"ARIMA{order}: {reason}" + ("; the order is left out" if left_out else ""),
            ConvergenceWarning,
            stacklevel=3,
        )
        return None if left_out else results

    def _trend(self, d: int) -> str:
        """The trend that d differences leave, as statsmodels takes it."""
        terms = {"n": (), "c": (0,), "t": (0, 1) if d == 0 else (1,), "ct": (0, 1)}[self.trend]
        left = tuple(power for power in terms if power >= d)
        return {(): "n", (0,): "c", (1,): "t", (0, 1): "ct"}[left]

    @staticmethod
    def _differences(series: np.ndarray) -> int:
        stattools = require("statsmodels.tsa.stattools", extra="forecast")
        for d in range(_MAX_DIFFERENCES):
            if np.ptp(series) == 0:
                return d
            with warnings.catch_warnings():
                # The p-value of KPSS is interpolated in a table, and says so at its ends.
                warnings.simplefilter("ignore")
                stationary = stattools.kpss(series, regression="c", nlags="auto")[1] > _TEST_SIZE
                rooted = stattools.adfuller(series, regression="c", autolag="AIC")[1] > _TEST_SIZE
            if stationary or not rooted:
                return d
            series = np.diff(series)
        return _MAX_DIFFERENCES

    def _check_parameters(self) -> None:
        for name in ("max_p", "max_q"):
            _check_order(name, getattr(self, name))
        if self.d is not None:
            _check_order("d", self.d)
        if self.trend not in TRENDS:
            raise ValueError(f"trend must be one of {', '.join(TRENDS)}, got {self.trend!r}")
        if self.criterion not in CRITERIA:
            raise ValueError(
                f"criterion must be one of {', '.join(CRITERIA)}, got {self.criterion!r}"
            )
        if isinstance(self.order, str):
            if self.order != "auto":
                raise ValueError(f"order must be 'auto' or (p, d, q), got {self.order!r}")
        elif not isinstance(self.order, Sequence) or len(self.order) != 3:
            raise ValueError(f"order must be 'auto' or (p, d, q), got {self.order!r}")
        else:
            for value in self.order:
                _check_order("order", value)


def _check_order(name: str, value: Any) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must hold integers of at least 0, got {value!r}")
