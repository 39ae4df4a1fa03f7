"""Regression models of a batting measure, and their comparison in time.

Two tasks that must not be mixed: "explain" uses features of the same innings and says how the
measure is composed; "forecast" uses what is known when the batter walks in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PolynomialFeatures,
    StandardScaler,
)
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from rankone._sweep import sweep
from rankone.stats._batting_form import (
    POST_INNINGS,
    TimeOrderedSplit,
    add_form_features,
    form_columns,
)
from rankone.stats._effective_runs import TARGETS, effective_runs, impact_share
from rankone.stats._frames import require_columns
from rankone.stats._phrases import UNKNOWN

MODELS = ("linear", "polynomial", "svr", "tree", "forest")
MODES = ("explain", "forecast")
_SAME_MATCH = frozenset(("pitch", "weather"))  # from a summary, which is written afterwards
_EXPLAIN_NUMERIC = (
    *("runs", "balls", "strike_rate", "fours", "sixes", "control_rate", "position", "dismissed"),
)
_EXPLAIN_CATEGORICAL = ("opponent", "venue", "innings", "pitch", "weather")
_FORECAST_CATEGORICAL = ("opponent", "venue", "innings")
_MIN_BATTER_INNINGS = 30  # fewer leave folds of a handful of rows


def _as_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype("float64")


def _as_labels(frame: pd.DataFrame) -> pd.DataFrame:
    """Every category as a str, "unknown" where it is missing."""
    return frame.astype(object).where(frame.notna(), UNKNOWN).map(str)


class BatterImpactRegressor(RegressorMixin, BaseEstimator):
    """A regression of a batting measure on an innings table.

    Imputation (median, with indicators), scaling and encoding are fitted on the training rows
    alone, inside one pipeline.

    Args:
        model: "linear" (least squares), "polynomial" (degree 2 of the scaled numeric columns,
            scaled again, ridge with alpha 1), "svr" (RBF kernel, scaled target), "tree" (at least
            5 samples a leaf) or "forest" (300 trees, at least 2 samples a leaf).
        mode: "explain": features of the same innings, which say how the measure is composed and
            predict nothing; "forecast": only what is known when the batter walks in.
        numeric_features, categorical_features: column names; None means, in explain mode, runs,
            balls, strike_rate, fours, sixes, control_rate, position, dismissed and opponent, venue,
            innings, pitch, weather; in forecast mode position, the form features of the table and
            opponent, venue, innings.
        allow_post_innings: let a forecast use the columns of ``POST_INNINGS``.
        pre_match_conditions: let a forecast use pitch and weather, where they come from reports
            before the match; a match summary is written afterwards.
        model_params: parameters of the model's last estimator, in place of the above.
        random_state: of the tree and the forest.
        n_jobs: of the forest.

    Attributes:
        pipeline_: the fitted scikit-learn pipeline.
        numeric_features_, categorical_features_: the columns used.
        feature_names_in_, n_features_in_: the same, in one list.

    Raises:
        ValueError: by ``fit``: an unknown model or mode; missing columns; features that a forecast
            cannot know; a target that is not finite.

    Source:
        "Impact of a Batter in ODI Cricket Implementing Regression Models from Match Commentary"
        (2023) names the five models; their settings and the two tasks are this library's.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats.batting import BatterImpactRegressor
        >>> past = pd.DataFrame({"runs_last5": [10.0, 20.0, 30.0, 40.0]})
        >>> model = BatterImpactRegressor(
        ...     numeric_features=["runs_last5"], categorical_features=[])
        >>> model.fit(past, [12.0, 22.0, 32.0, 42.0]).predict(past).round(6).tolist()
        [12.0, 22.0, 32.0, 42.0]
    """

    def __init__(
        self,
        model: str = "linear",
        *,
        mode: str = "forecast",
        numeric_features: Sequence[str] | None = None,
        categorical_features: Sequence[str] | None = None,
        allow_post_innings: bool = False,
        pre_match_conditions: bool = False,
        model_params: Mapping[str, Any] | None = None,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.model = model
        self.mode = mode
        self.numeric_features = numeric_features
        self.categorical_features = categorical_features
        self.allow_post_innings = allow_post_innings
        self.pre_match_conditions = pre_match_conditions
        self.model_params = model_params
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: pd.DataFrame, y: ArrayLike) -> BatterImpactRegressor:
        """Fit the pipeline.

        Args:
            X: (n, columns) innings table.
            y: (n,) target.
        """
        numeric, categorical = self._features(X)
        target = np.asarray(y, dtype=np.float64)
        if target.shape != (len(X),):
            raise ValueError(f"y must have shape ({len(X)},), got {target.shape}")
        if not np.isfinite(target).all():
            raise ValueError("y must be finite, got NaN or infinity")
        self.numeric_features_ = numeric
        self.categorical_features_ = categorical
        self.feature_names_in_ = np.array([*numeric, *categorical], dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        pipeline = self._pipeline(numeric, categorical)
        self.pipeline_ = pipeline.fit(X[list(self.feature_names_in_)], target)
        return self

    def predict(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Predictions, (n,) float64.

        Args:
            X: (n, columns) innings table; a category not seen in training counts as none.
        """
        check_is_fitted(self)
        require_columns(X, self.feature_names_in_, "X")
        return np.asarray(self.pipeline_.predict(X[list(self.feature_names_in_)])).reshape(-1)

    def _features(self, X: pd.DataFrame) -> tuple[list[str], list[str]]:
        if self.model not in MODELS:
            raise ValueError(f"model must be one of {MODELS}, got {self.model!r}")
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {self.mode!r}")
        require_columns(X, (), "X")
        explain = self.mode == "explain"
        if self.numeric_features is not None:
            numeric = _names("numeric_features", self.numeric_features)
        elif explain:
            numeric = list(_EXPLAIN_NUMERIC)
        else:
            form = form_columns(X)
            if not form:
                raise ValueError(
                    "X must have form features in forecast mode: add_form_features appends them"
                )
            numeric = ["position", *form]
        if self.categorical_features is not None:
            categorical = _names("categorical_features", self.categorical_features)
        else:
            categorical = list(_EXPLAIN_CATEGORICAL if explain else _FORECAST_CATEGORICAL)
        features = [*numeric, *categorical]
        if not features:
            raise ValueError("numeric_features and categorical_features must name a column")
        if len(set(features)) < len(features):
            raise ValueError(f"features must be named once, got {features}")
        if not explain:
            self._check_known_before(features)
        require_columns(X, features, "X")
        return numeric, categorical

    def _check_known_before(self, features: list[str]) -> None:
        after = [name for name in features if name in POST_INNINGS]
        if after and not self.allow_post_innings:
            raise ValueError(
                f"a forecast must not use what the innings decides, got {', '.join(after)}: "
                "leave them out, or set allow_post_innings=True"
            )
        summary = [name for name in features if name in _SAME_MATCH]
        if summary and not self.pre_match_conditions:
            raise ValueError(
                f"a forecast must not use a summary written afterwards, got {', '.join(summary)}: "
                "leave them out, or set pre_match_conditions=True for reports before the match"
            )

    def _pipeline(self, numeric: list[str], categorical: list[str]) -> Pipeline:
        encode_numbers = make_pipeline(
            FunctionTransformer(_as_numbers, feature_names_out="one-to-one"), self._numbers()
        )
        encode = make_pipeline(
            FunctionTransformer(_as_labels, feature_names_out="one-to-one"),
            OneHotEncoder(handle_unknown="ignore", min_frequency=5),
        )
        columns = [("numeric", encode_numbers, numeric)] if numeric else []
        if categorical:
            columns.append(("categorical", encode, categorical))
        return Pipeline(
            [
                ("features", ColumnTransformer(columns, sparse_threshold=0)),
                ("model", self._model()),
            ]
        )

    def _numbers(self) -> Any:
        """Impute and scale; in the polynomial model expand the columns, never the indicators."""
        if self.model != "polynomial":
            impute = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
            return make_pipeline(impute, StandardScaler())
        expand = make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
            PolynomialFeatures(2, include_bias=False),
        )
        # Products with the indicator of a rare gap are outliers that ridge cannot tame.
        indicate = MissingIndicator(error_on_new=False)
        return make_pipeline(make_union(expand, indicate), StandardScaler())

    def _model(self) -> Any:
        seed = check_random_state(self.random_state) if self.random_state is not None else None
        models: dict[str, Any] = {
            "linear": LinearRegression,
            "polynomial": lambda: Ridge(alpha=1.0),
            "svr": lambda: SVR(kernel="rbf"),
            "tree": lambda: DecisionTreeRegressor(min_samples_leaf=5, random_state=seed),
            "forest": lambda: RandomForestRegressor(
                300, min_samples_leaf=2, random_state=seed, n_jobs=self.n_jobs
            ),
        }
        model = models[self.model]().set_params(**(self.model_params or {}))
        if self.model == "svr":
            return TransformedTargetRegressor(model, transformer=StandardScaler())
        return model


def _names(argument: str, names: Any) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValueError(f"{argument} must be a sequence of column names, got {names!r}")
    return list(names)


def compare_models(
    table: pd.DataFrame,
    *,
    target: str = "effective_runs",
    mode: str = "forecast",
    models: Sequence[str] = MODELS,
    cv: Any = None,
    min_innings: int = 5,
    batter: str | None = None,
    n_jobs: int | None = None,
    random_state: Any = None,
) -> pd.DataFrame:
    """Models side by side on folds in time, with the baselines a score must be read against.

    Args:
        table: rows of :func:`build_innings_table`; form features and the target are computed where
            they are missing.
        target: "effective_runs" or "impact_share".
        mode: "explain" or "forecast".
        models: names of models.
        cv: a splitter of rows; None is ``TimeOrderedSplit(5)``.
        min_innings: rows with fewer earlier innings of the batter are left out.
        batter: compare on this batter's innings alone; at least 30 are needed.
        n_jobs: jobs over models and folds; results do not depend on it.
        random_state: seed of trees and forests.

    Returns:
        A frame with model, fold, n_train, n_test, r2, mae and rmse. The model "mean" predicts the
        training mean; "runs_only", in explain mode, is least squares on runs: a score near its own
        is arithmetic, not skill.

    Raises:
        ValueError: for an unknown model, mode or target, a NaN target, too few dates, a batter
            with fewer than 30 innings, and missing columns.

    Example:
        >>> from rankone.stats.batting import (
        ...     TimeOrderedSplit, build_innings_table, compare_models, load_cricsheet, simulate_odi)
        >>> data = load_cricsheet(simulate_odi(12, 2, overs=5, random_state=0).cricsheet)
        >>> table = build_innings_table(data.deliveries, data.matches)
        >>> scores = compare_models(
        ...     table, mode="explain", models=["linear"], cv=TimeOrderedSplit(2), min_innings=0)
        >>> scores["model"].unique().tolist()
        ['linear', 'mean', 'runs_only']
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
    if target not in TARGETS:
        raise ValueError(f"target must be one of {TARGETS}, got {target!r}")
    chosen = _names("models", models)
    for name in chosen:
        if name not in MODELS:
            raise ValueError(f"models must be among {MODELS}, got {name!r}")
    if isinstance(min_innings, bool) or not isinstance(min_innings, int | np.integer):
        raise ValueError(f"min_innings must be an integer, got {min_innings!r}")
    require_columns(table, ("date", "batter", "match_id", "innings"), "table")
    rows = _prepared(table, target)
    if batter is not None:
        rows = rows[rows["batter"] == batter]
        if len(rows) < _MIN_BATTER_INNINGS:
            raise ValueError(
                f"batter must have at least {_MIN_BATTER_INNINGS} innings, "
                f"got {len(rows)} of {batter!r}"
            )
    rows = rows[rows["innings_before"] >= min_innings]
    rows = rows.sort_values("date", kind="stable").reset_index(drop=True)
    if not len(rows):
        raise ValueError(f"table must have rows with {min_innings} earlier innings, got none")
    y = rows[target].to_numpy(dtype=np.float64)
    if not np.isfinite(y).all():
        raise ValueError(f"the target {target} must be finite, got NaN or infinity")
    folds = list((TimeOrderedSplit(5) if cv is None else cv).split(rows, y))
    everything = [*chosen, "mean", *(["runs_only"] if mode == "explain" else [])]
    cells = [(name, fold) for name in everything for fold in range(len(folds))]

    def score(cell: tuple[str, int], generator: np.random.Generator) -> dict[str, Any]:
        name, fold = cell
        train, test = folds[fold]
        model, X = _model_and_rows(name, mode, rows, int(generator.integers(2**31)))
        model.fit(X.iloc[train], y[train])
        predicted = model.predict(X.iloc[test])
        return {
            "model": name,
            "fold": fold,
            "n_train": len(train),
            "n_test": len(test),
            # One row has no spread to explain.
            "r2": r2_score(y[test], predicted) if len(test) > 1 else np.nan,
            "mae": mean_absolute_error(y[test], predicted),
            "rmse": root_mean_squared_error(y[test], predicted),
        }

    seed = int(check_random_state(random_state).randint(2**31 - 1))
    return pd.DataFrame(sweep(score, cells, random_state=seed, n_jobs=n_jobs))


def _prepared(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """The table with its target and form features."""
    rows = table
    if "effective_runs" not in rows.columns:
        rows = rows.assign(effective_runs=effective_runs(rows))
    if target not in rows.columns:
        rows = rows.assign(impact_share=impact_share(rows, rows["effective_runs"]))
    if "innings_before" not in rows.columns or len(form_columns(rows)) < 2:
        rows = add_form_features(rows)
    return rows


def _model_and_rows(name: str, mode: str, rows: pd.DataFrame, seed: int) -> tuple[Any, Any]:
    if name == "mean":
        return DummyRegressor(), rows[["innings_before"]]
    if name == "runs_only":
        return LinearRegression(), rows[["runs"]].astype("float64")
    return BatterImpactRegressor(name, mode=mode, random_state=seed), rows
