"""Form features, leakage, splits in time and models."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from rankone.stats.batting import (
    POST_INNINGS,
    BatterImpactRegressor,
    TimeOrderedSplit,
    add_form_features,
    build_innings_table,
    check_leakage,
    compare_models,
    effective_runs,
    impact_share,
    load_cricsheet,
    simulate_odi,
)
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR

MODELS = ("linear", "polynomial", "svr", "tree", "forest")
# Sums of up to a thousand float64 terms of size 100, and one division.
ROUNDING = 1e-9


@pytest.fixture(scope="module")
def table():
    odi = simulate_odi(30, 3, overs=20, random_state=0)
    data = load_cricsheet(odi.cricsheet)
    table = build_innings_table(
        data.deliveries,
        data.matches,
        control=odi.truth["control"].to_numpy(),
        conditions=odi.conditions,
    )
    er = effective_runs(table)
    return table.assign(effective_runs=er, impact_share=impact_share(table, er))


@pytest.fixture(scope="module")
def form(table):
    return add_form_features(table)


def new_columns(form, table):
    return [name for name in form.columns if name not in table.columns]


def same_day_table():
    """Two innings of one batter on one day, then a NaN, then others."""
    days = ["2020-01-01", "2020-01-01", "2020-01-05", "2020-01-09", "2020-01-10"]
    return pd.DataFrame(
        {
            "match_id": list("abcde"),
            "innings": 1,
            "date": pd.to_datetime(days),
            "batter": "A",
            "opponent": ["X", "X", "Y", "X", "Y"],
            "venue": ["G", None, "G", "G", None],
            "runs": [10, 20, 30, 40, 50],
            "balls": [10, 20, 30, 40, 50],
            "effective_runs": [1.0, 2.0, 3.0, 4.0, 5.0],
            "strike_rate": [100.0, 50.0, np.nan, 80.0, 90.0],
            "control_rate": np.nan,
        }
    )


def test_form_by_hand():
    form = add_form_features(same_day_table(), windows=(1, 2))
    nan = np.nan

    def column(name):
        return form[name].to_numpy()

    np.testing.assert_allclose(column("runs_last1"), [nan, nan, 15, 30, 40])
    np.testing.assert_allclose(column("runs_last2"), [nan, nan, 15, 20, 35])
    # The window counts the date whose strike rate is missing.
    np.testing.assert_allclose(column("strike_rate_last1"), [nan, nan, 75, nan, 80])
    np.testing.assert_allclose(column("strike_rate_last2"), [nan, nan, 75, 75, 80])
    np.testing.assert_allclose(column("runs_career"), [nan, nan, 15, 20, 25])
    np.testing.assert_allclose(column("balls_career"), [nan, nan, 15, 20, 25])
    assert column("innings_before").tolist() == [0, 0, 2, 3, 4]
    np.testing.assert_allclose(column("days_since_last"), [nan, nan, 4, 4, 1])
    np.testing.assert_allclose(column("opponent_conceded"), [nan, nan, nan, 15, 30])
    np.testing.assert_allclose(column("venue_runs"), [nan, nan, 10, 20, nan])
    assert form["control_rate_career"].isna().all()


def test_form_equals_brute_force(table, form):
    for position in range(0, len(table), 17):
        row = table.iloc[position]
        past = table[(table["batter"] == row["batter"]) & (table["date"] < row["date"])]
        got = form.iloc[position]
        assert got["innings_before"] == len(past)
        for size in (5, 10):
            dates = np.unique(past["date"])[-size:]
            window = past[past["date"].isin(dates)]
            for name in ("runs", "effective_runs", "strike_rate", "control_rate"):
                np.testing.assert_allclose(
                    got[f"{name}_last{size}"], window[name].mean(), rtol=ROUNDING
                )
        for name in ("runs", "effective_runs", "control_rate", "balls"):
            np.testing.assert_allclose(got[f"{name}_career"], past[name].mean(), rtol=ROUNDING)
        before = table[table["date"] < row["date"]]
        for name, key in (("opponent_conceded", "opponent"), ("venue_runs", "venue")):
            np.testing.assert_allclose(
                got[name], before.loc[before[key] == row[key], "runs"].mean(), rtol=ROUNDING
            )


def test_form_of_the_past_ignores_the_future(table, form):
    days = np.unique(table["date"])
    early = (table["date"] <= days[len(days) // 2]).to_numpy()
    columns = new_columns(form, table)
    cut = add_form_features(table[early])
    pd.testing.assert_frame_equal(cut[columns], form.loc[early, columns], check_exact=True)
    altered = table.copy()
    altered.loc[~early, ["runs", "effective_runs", "strike_rate"]] = 1e6
    changed = add_form_features(altered)
    pd.testing.assert_frame_equal(
        changed.loc[early, columns], form.loc[early, columns], check_exact=True
    )


def test_form_does_not_depend_on_the_order_of_rows(table, form):
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = add_form_features(table.iloc[order])
    assert shuffled.index.tolist() == table.index[order].tolist()
    pd.testing.assert_frame_equal(shuffled.loc[form.index], form, check_exact=True)


def test_form_stands_in_for_missing_effective_runs(table, form):
    without = add_form_features(table.drop(columns=["effective_runs", "impact_share"]))
    assert "effective_runs" not in without.columns
    np.testing.assert_allclose(without["effective_runs_last5"], form["effective_runs_last5"])


def test_no_form_feature_leaks(table):
    found = check_leakage(table, random_state=0)
    assert len(found) == 16
    assert (found["max_change"] == 0).all()
    assert not found["leaks"].any()


def same_day(table):
    return table.assign(today=table["runs"] * 2.0)


def tomorrow(table):
    return table.assign(next_runs=table.groupby("batter")["runs"].shift(-1))


def rolling_with_today(table):
    means = table.groupby("batter")["control_rate"].rolling(5, min_periods=1).mean()
    return table.assign(rolled=means.droplevel(0))


def lost(table):
    return table.assign(label=np.where(table["won"], "yes", "no"))


@pytest.mark.parametrize("function", [same_day, tomorrow, rolling_with_today, lost])
def test_features_that_know_the_outcome_are_flagged(table, function):
    found = check_leakage(table, feature_function=function, random_state=0)
    assert found["leaks"].tolist() == [True]
    assert found["max_change"][0] > 0


def test_the_leak_check_leaves_its_table_alone(table):
    before = table.copy()
    check_leakage(table, random_state=0)
    pd.testing.assert_frame_equal(table, before)


def test_bad_input_of_form_and_leakage(table):
    with pytest.raises(ValueError, match="columns batter, runs"):
        add_form_features(table.drop(columns=["batter", "runs"]))
    for windows in ((0,), (2.5,), "5", 5):
        with pytest.raises(ValueError, match="windows must"):
            add_form_features(table, windows=windows)
    with pytest.raises(ValueError, match="a date in every row"):
        add_form_features(table.assign(date=pd.NaT))
    with pytest.raises(ValueError, match="at least two dates, got 1"):
        check_leakage(table[table["date"] == table["date"].min()])
    with pytest.raises(ValueError, match="add at least one column"):
        check_leakage(table, feature_function=lambda table: table)
    with pytest.raises(ValueError, match=r"is in table already; .* drop them from table first"):
        check_leakage(add_form_features(table))
    with pytest.raises(ValueError, match="index of its table"):
        check_leakage(table, feature_function=lambda table: table.iloc[1:])
    with pytest.raises(ValueError, match="n_probes"):
        check_leakage(table, n_probes=0)
    with pytest.raises(ValueError, match="numeric post-innings columns"):
        check_leakage(table[["date", "batter"]])


def test_folds_are_ordered_and_share_no_date_or_match(table):
    order = np.random.default_rng(1).permutation(len(table))
    rows = table.iloc[order]
    splits = list(TimeOrderedSplit(4).split(rows))
    assert len(splits) == 4
    for train, test in splits:
        assert rows["date"].iloc[train].max() < rows["date"].iloc[test].min()
        assert not set(rows["match_id"].iloc[train]) & set(rows["match_id"].iloc[test])
    tested = np.concatenate([test for _, test in splits])
    assert len(tested) == len(np.unique(tested))


def test_a_match_over_several_days_is_on_one_side():
    days = pd.date_range("2020-01-01", periods=6)
    rows = pd.DataFrame({"date": days, "match_id": ["a", "a", "b", "b", "b", "c"]})
    for train, test in TimeOrderedSplit(2).split(rows):
        assert not set(rows["match_id"].iloc[train]) & set(rows["match_id"].iloc[test])


def test_embargo_keeps_a_gap():
    rows = pd.DataFrame({"date": pd.date_range("2020-01-01", periods=12)})
    for train, test in TimeOrderedSplit(2, embargo_days=3).split(rows):
        gap = rows["date"].iloc[test].min() - rows["date"].iloc[train].max()
        assert gap == pd.Timedelta(days=4)
    with pytest.raises(ValueError, match="embargo_days = 30 leaves no training rows"):
        list(TimeOrderedSplit(2, embargo_days=30).split(rows))


def test_bad_splits(table):
    with pytest.raises(ValueError, match="5 folds, got 3 dates"):
        list(TimeOrderedSplit(5).split(pd.DataFrame({"date": pd.date_range("2020", periods=3)})))
    with pytest.raises(ValueError, match="columns date"):
        list(TimeOrderedSplit(2).split(table[["runs"]]))
    with pytest.raises(ValueError, match="n_splits must be"):
        TimeOrderedSplit(1)
    with pytest.raises(ValueError, match="embargo_days must be"):
        TimeOrderedSplit(2, embargo_days=-1)


def test_linear_without_categories_is_least_squares(form):
    rows = form[form["innings_before"] >= 3]
    columns = ["position", "runs_career", "innings_before"]
    y = rows["effective_runs"].to_numpy()
    model = BatterImpactRegressor(numeric_features=columns, categorical_features=[]).fit(rows, y)
    design = np.column_stack([np.ones(len(rows)), rows[columns]])
    expected = design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(model.predict(rows), expected, rtol=1e-9)


def test_svr_scales_its_target(form):
    rows = form[form["innings_before"] >= 3]
    y = rows["effective_runs"].to_numpy() * 1000
    columns = ["position", "runs_career"]
    model = BatterImpactRegressor("svr", numeric_features=columns, categorical_features=[])
    scaled = (y - y.mean()) / y.std()
    X = StandardScaler().fit_transform(rows[columns])
    expected = SVR().fit(X, scaled).predict(X) * y.std() + y.mean()
    np.testing.assert_allclose(model.fit(rows, y).predict(rows), expected, rtol=1e-6)


def test_polynomial_expands_numbers_and_never_dummies(form):
    model = BatterImpactRegressor(
        "polynomial",
        numeric_features=["position", "runs_career"],
        categorical_features=["innings"],
    ).fit(form, form["effective_runs"])
    # Two numbers, their three products, one indicator of the gaps, two innings.
    assert model.pipeline_["model"].coef_.shape == (5 + 1 + 2,)
    assert model.pipeline_["model"].alpha == 1.0


def test_defaults_of_the_models(form):
    fitted = {name: BatterImpactRegressor(name)._model() for name in MODELS}
    assert fitted["tree"].min_samples_leaf == 5
    assert (fitted["forest"].n_estimators, fitted["forest"].min_samples_leaf) == (300, 2)
    assert fitted["svr"].regressor.kernel == "rbf"
    small = BatterImpactRegressor("svr", model_params={"C": 7.0})._model()
    assert small.regressor.C == 7.0


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("mode", ["explain", "forecast"])
def test_models_predict_finite_numbers_also_on_new_categories(form, name, mode):
    params = {"n_estimators": 10} if name == "forest" else None
    model = BatterImpactRegressor(name, mode=mode, model_params=params, random_state=0)
    first, rest = form.iloc[:120], form.iloc[120:].assign(venue="A new ground", opponent=None)
    predicted = model.fit(first, first["effective_runs"]).predict(rest)
    assert predicted.shape == (len(rest),)
    assert np.isfinite(predicted).all()
    again = clone(model).fit(first, first["effective_runs"]).predict(rest)
    np.testing.assert_array_equal(predicted, again)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(rest), predicted)


def test_preprocessing_is_fitted_on_training_rows_alone(form):
    first, rest = form.iloc[:120], form.iloc[120:].copy()
    model = BatterImpactRegressor().fit(first, first["effective_runs"])
    before = model.predict(rest.iloc[:5])
    rest.loc[rest.index[5:], "runs_career"] = 1e6
    np.testing.assert_allclose(model.predict(rest)[:5], before, rtol=ROUNDING)


def test_explain_beats_forecast_and_runs_alone_explain_almost_all(form):
    rows = form[form["innings_before"] >= 5].reset_index(drop=True)
    options = {"models": ["linear"], "cv": TimeOrderedSplit(3), "random_state": 0}
    explain = compare_models(rows, mode="explain", **options).groupby("model")["r2"].mean()
    forecast = compare_models(rows, mode="forecast", **options).groupby("model")["r2"].mean()
    assert explain["linear"] > 0.9
    assert explain["runs_only"] > 0.9
    assert forecast["linear"] < 0.3
    assert "runs_only" not in forecast.index
    assert forecast["mean"] <= 0


def test_a_forecast_must_not_use_the_innings(form):
    y = form["effective_runs"]
    for column in sorted(POST_INNINGS & set(form.columns) - {"dismissal"}):
        with pytest.raises(ValueError, match=f"got {column}:"):
            BatterImpactRegressor(numeric_features=["position", column]).fit(form, y)
    with pytest.raises(ValueError, match=r"got pitch, weather: .*pre_match_conditions"):
        BatterImpactRegressor(categorical_features=["pitch", "weather"]).fit(form, y)
    BatterImpactRegressor(numeric_features=["runs_last5"]).fit(form, y)
    BatterImpactRegressor(numeric_features=["runs"], allow_post_innings=True).fit(form, y)
    BatterImpactRegressor(categorical_features=["pitch"], pre_match_conditions=True).fit(form, y)


def test_grid_search_and_cross_validation_in_time(form):
    rows = form[form["innings_before"] >= 3].reset_index(drop=True)
    y = rows["effective_runs"]
    search = GridSearchCV(
        BatterImpactRegressor(mode="explain"), {"model": ["linear", "tree"]}, cv=TimeOrderedSplit(2)
    ).fit(rows, y)
    assert search.best_params_["model"] in ("linear", "tree")
    scores = cross_val_score(BatterImpactRegressor(), rows, y, cv=TimeOrderedSplit(3))
    assert np.isfinite(scores).all()


def test_bad_input_of_the_regressor(table, form):
    y = form["effective_runs"].to_numpy()
    for options, words in (
        ({"model": "lasso"}, "model must be one of"),
        ({"mode": "predict"}, "mode must be one of"),
        ({"numeric_features": "position"}, "numeric_features must be a sequence"),
        ({"numeric_features": ["position", "position"]}, "named once"),
        ({"numeric_features": ["height"]}, "columns height"),
        ({"numeric_features": [], "categorical_features": []}, "must name a column"),
    ):
        with pytest.raises(ValueError, match=words):
            BatterImpactRegressor(**options).fit(form, y)
    with pytest.raises(ValueError, match="add_form_features"):
        BatterImpactRegressor().fit(table, y)
    with pytest.raises(ValueError, match="y must be finite"):
        BatterImpactRegressor().fit(form, np.where(np.arange(len(y)) == 3, np.nan, y))
    with pytest.raises(ValueError, match="y must have shape"):
        BatterImpactRegressor().fit(form, y[1:])
    with pytest.raises(ValueError, match="infinity"):
        BatterImpactRegressor().fit(form.assign(runs_career=np.inf), y)
    with pytest.raises(TypeError, match="X must be a pandas DataFrame, got a ndarray"):
        BatterImpactRegressor().fit(np.zeros((3, 2)), [1, 2, 3])
    with pytest.raises(NotFittedError):
        BatterImpactRegressor().predict(form)
    with pytest.raises(ValueError, match="columns venue"):
        BatterImpactRegressor().fit(form, y).predict(form.drop(columns="venue"))


def test_comparison_does_not_depend_on_jobs(table):
    options = {"models": ["linear", "tree"], "cv": TimeOrderedSplit(2), "random_state": 3}
    one = compare_models(table, n_jobs=1, **options)
    with joblib.parallel_config(backend="threading"):  # starts faster than processes
        two = compare_models(table, n_jobs=2, **options)
    pd.testing.assert_frame_equal(one, two)
    assert one.columns.tolist() == ["model", "fold", "n_train", "n_test", "r2", "mae", "rmse"]


def test_comparison_equals_its_parts(table, form):
    rows = form[form["innings_before"] >= 5].sort_values("date", kind="stable")
    rows = rows.reset_index(drop=True)
    y = rows["impact_share"].to_numpy()
    scores = compare_models(
        table, target="impact_share", models=["linear"], cv=TimeOrderedSplit(2), random_state=0
    )
    for fold, (train, test) in enumerate(TimeOrderedSplit(2).split(rows)):
        model = BatterImpactRegressor().fit(rows.iloc[train], y[train])
        error = y[test] - model.predict(rows.iloc[test])
        entry = scores[(scores["model"] == "linear") & (scores["fold"] == fold)].iloc[0]
        assert entry["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert entry["mae"] == pytest.approx(np.abs(error).mean())
        assert entry["r2"] == pytest.approx(1 - np.mean(error**2) / y[test].var())
        mean = scores[(scores["model"] == "mean") & (scores["fold"] == fold)].iloc[0]
        assert mean["mae"] == pytest.approx(np.abs(y[test] - y[train].mean()).mean())


def test_one_batter_at_a_time(table):
    short = table[table["batter"] == "A Player1"].index[25:]
    with pytest.raises(ValueError, match="at least 30 innings, got 0 of 'nobody'"):
        compare_models(table, batter="nobody")
    with pytest.raises(ValueError, match="at least 30 innings, got"):
        compare_models(table.drop(short), batter="A Player1")
    many = pd.concat(
        [
            table,
            table.assign(
                date=table["date"] + pd.Timedelta(days=900),
                match_id="b" + table["match_id"].astype(str),
            ),
        ],
        ignore_index=True,
    )
    scores = compare_models(
        many,
        batter="A Player1",
        mode="explain",
        models=["linear"],
        cv=TimeOrderedSplit(3),
        random_state=0,
    )
    innings = int((many["batter"] == "A Player1").sum())
    assert scores["n_train"].max() + scores["n_test"].max() <= innings - 5 + 1


def test_bad_input_of_the_comparison(table):
    for options, words in (
        ({"mode": "guess"}, "mode must be one of"),
        ({"target": "runs"}, "target must be one of"),
        ({"models": ["linear", "lasso"]}, "models must be among"),
        ({"min_innings": 10_000}, "10000 earlier innings, got none"),
        ({"cv": TimeOrderedSplit(500)}, "more dates than folds"),
    ):
        with pytest.raises(ValueError, match=words):
            compare_models(table, **options)
    broken = table.assign(effective_runs=table["effective_runs"].where(table["runs"] < 30))
    with pytest.raises(ValueError, match="target effective_runs must be finite"):
        compare_models(broken)


def test_post_innings_columns_are_those_of_the_table(table):
    before = {
        *("match_id", "date", "innings", "team", "opponent", "venue", "batter", "position"),
        *("pitch", "weather"),
    }
    assert set(table.columns) - before == POST_INNINGS
