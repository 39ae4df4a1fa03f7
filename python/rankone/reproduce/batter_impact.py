"""Batting impact from ball-by-ball events and commentary.

"Impact of a Batter in ODI Cricket Implementing Regression Models from Match Commentary" (2023)
reports 90.16 % (multiple linear) and 87.12 % (random forest) on three batters' careers. No public
data set carries both events and commentary, and the paper's formula, lexicon and score were not
found: data, Effective Runs and score are rankone's own here, and nothing below is a replication.

``settings.data`` may name Cricsheet files: a .json, .yaml or .zip file, or a folder of them, which
may also hold commentary.csv (match_id, innings, over, ball or label, text) and summaries.csv
(match_id, text). What needs the truth of generated matches is then listed as skipped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from threadpoolctl import threadpool_limits

from rankone._sweep import sweep
from rankone.reproduce import MUTED, Claim, Figure, Reproduction, Settings, Table, panel
from rankone.stats.batting import (
    BatterImpactRegressor,
    CommentaryParser,
    CricketData,
    MatchConditionExtractor,
    add_form_features,
    align_commentary,
    build_innings_table,
    check_leakage,
    compare_models,
    effective_runs,
    impact_share,
    load_cricsheet,
    simulate_odi,
)

MODELS = ("linear", "polynomial", "svr", "tree", "forest")
COMMENTARY, SUMMARIES = "commentary.csv", "summaries.csv"
_TEST_SHARE = 0.2  # the last dates
_MIN_BALLS = 20  # of an innings whose control rate is compared
_MIN_KNOWN = 300  # balls of a career whose control rate is compared with the skill
_WINDOWED = ("runs", "effective_runs", "strike_rate", "control_rate")
NOT_A_REPLICATION = (
    "above the published percentage, and no replication: data, formula and score are rankone's own"
)


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes:
        n_matches, n_teams, overs: of the generated season.
        seeds: generated seasons.
        trees: of the forests.
        trick_matches: generated matches with lines that need negation or the longest match alone.
        batters: batters with the most innings to whom models of their own are fitted.
        min_innings: earlier innings of a row that is used.
        judge_models: give the model claims a pass mark; their bounds were set at the quick size.
    """

    n_matches: int = 120
    n_teams: int = 6
    overs: int = 50
    seeds: tuple[int, ...] = (0,)
    trees: int = 150
    trick_matches: int = 10
    batters: int = 0
    min_innings: int = 5
    judge_models: bool = True


QUICK = Scale()
FULL = Scale(
    n_matches=600, n_teams=8, seeds=(0, 1, 2, 3, 4), trees=300, batters=3, judge_models=False
)


@dataclass
class Outcome:
    """What one season gave.

    Attributes:
        label: ", seed 0" or nothing, as it ends a statement.
        values: name -> measured number.
        scores: (task, model) -> R2 on the last dates.
        batters: rows of the table of single batters.
        figure: points of the figure.
    """

    label: str
    values: dict[str, float] = field(default_factory=dict)
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    batters: list[tuple[Any, ...]] = field(default_factory=list)
    figure: dict[str, NDArray] = field(default_factory=dict)


def run(settings: Settings) -> Reproduction:
    """Measure the parser against the truth, and models of Effective Runs on later dates."""
    scale = settings.scale(quick=QUICK, full=FULL)
    source = settings.data
    own = source is not None

    def season(seed: int, _: np.random.Generator) -> Outcome:
        # Small fits are slower when BLAS hands them to several threads.
        with threadpool_limits(limits=1):
            if source is not None:
                return _own_data(source, settings.random_state, scale)
            return _generated(settings.random_state + seed, scale)

    outcomes = sweep(
        season,
        scale.seeds[:1] if own else scale.seeds,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
        description="seasons",
        progress=settings.progress,
    )
    claims: list[Claim] = []
    unjudged: list[Claim] = []
    for outcome in outcomes:
        if not own:
            claims += _control_claims(outcome)
        (claims if own or scale.judge_models else unjudged).extend(_model_claims(outcome))
    tables = [_score_table(outcomes)]
    if unjudged:
        tables.append(_unjudged_table(unjudged))
    if any(outcome.batters for outcome in outcomes):
        tables.append(_batter_table(outcomes))
    if own:
        tables.append(_skipped_table(outcomes[0]))
    return Reproduction(
        slug="batter-impact",
        claims=tuple(claims),
        tables=(*tables, _published_table()),
        figures=(_figure(outcomes[0]),),
        settings={
            "data": str(settings.data)
            if own
            else f"generated: {scale.n_matches} matches of {scale.n_teams} teams, "
            f"{len(scale.seeds)} season(s)",
            "replication": "no: data, Effective Runs and score are rankone's own",
            "test rows": f"last {_TEST_SHARE:.0%} of dates, {scale.min_innings} earlier innings",
        },
    )


def _generated(random_state: int, scale: Scale) -> Outcome:
    outcome = Outcome(f", seed {random_state}")
    odi = simulate_odi(scale.n_matches, scale.n_teams, overs=scale.overs, random_state=random_state)
    data = load_cricsheet(odi.cricsheet)
    texts = align_commentary(data.deliveries, odi.commentary)
    truth = odi.truth["control"].to_numpy()
    codes = _parser_values(outcome, data, texts, truth)
    outcome.values |= _trick_values(random_state, scale)

    conditions = _conditions(odi.summaries)
    for name in ("pitch", "weather"):
        right = conditions[name].to_numpy() == odi.conditions[name].to_numpy()
        outcome.values[name] = float(right.mean())
    table = build_innings_table(data.deliveries, data.matches, control=codes, conditions=conditions)
    true_table = build_innings_table(
        data.deliveries, data.matches, control=truth, conditions=odi.conditions
    )
    _rate_values(outcome, table, true_table, odi.batters)
    er, true_er = effective_runs(table), effective_runs(true_table)
    outcome.values["er_correlation"] = float(np.corrcoef(er, true_er)[0, 1])
    outcome.values["er_difference"] = float(np.abs(er - true_er).mean())
    outcome.values["mean_runs"] = float(table["runs"].mean())

    latent = table[["batter", "position"]].merge(odi.batters, on="batter", how="left")
    true_conditions = pd.get_dummies(true_table[["pitch", "weather"]], dtype=float)
    latent = pd.concat([latent.drop(columns="batter"), true_conditions], axis=1)
    _model_values(outcome, table, er, scale, random_state, latent)
    return outcome


def _own_data(source: Path, random_state: int, scale: Scale) -> Outcome:
    folder = source if source.is_dir() else None
    data = load_cricsheet(source)
    codes = None
    outcome = Outcome("")
    commentary = _csv(folder, COMMENTARY)
    if commentary is not None:
        texts = align_commentary(data.deliveries, commentary)
        codes = CommentaryParser().control_codes(data.deliveries, texts)
        shots = data.deliveries["wides"].to_numpy() == 0
        outcome.values["own_coverage"] = float((codes[shots] >= 0).mean())
    summaries = _csv(folder, SUMMARIES)
    conditions = None if summaries is None else _conditions(summaries)
    table = build_innings_table(data.deliveries, data.matches, control=codes, conditions=conditions)
    _model_values(outcome, table, effective_runs(table), scale, random_state, None)
    return outcome


def _csv(folder: Path | None, name: str) -> pd.DataFrame | None:
    if folder is None or not (folder / name).exists():
        return None
    return pd.read_csv(folder / name, dtype={"match_id": str, "label": str, "text": str})


def _conditions(summaries: pd.DataFrame) -> pd.DataFrame:
    found = MatchConditionExtractor().transform(summaries["text"])
    return pd.concat([summaries[["match_id"]], found], axis=1)


def _accuracy(codes: NDArray, truth: NDArray) -> tuple[float, float]:
    """Share of right codes among decided shots, and the share of shots decided."""
    shot = truth >= 0
    decided = shot & (codes >= 0)
    if not decided.any():
        return float("nan"), 0.0
    right = codes[decided] == truth[decided]
    return float(right.mean()), float(decided.sum() / shot.sum())


def _parser_values(
    outcome: Outcome, data: CricketData, texts: NDArray, truth: NDArray
) -> NDArray[np.int8]:
    codes = CommentaryParser().control_codes(data.deliveries, texts)
    outcome.values["accuracy"], outcome.values["coverage"] = _accuracy(codes, truth)
    for name, parser in (
        ("accuracy_without_negation", CommentaryParser(negation_window=0)),
        ("accuracy_without_events", CommentaryParser(use_events=False)),
    ):
        outcome.values[name], _ = _accuracy(parser.control_codes(data.deliveries, texts), truth)
    return codes


def _trick_values(random_state: int, scale: Scale) -> dict[str, float]:
    """Accuracy of the rules on the lines that need negation or the longest match, text alone."""
    odi = simulate_odi(
        scale.trick_matches,
        2,
        trick_rate=1.0,
        no_cue_rate=0.0,
        oov_rate=0.0,
        overs=scale.overs,
        random_state=random_state,
    )
    truth = odi.truth["control"].to_numpy()
    values = {}
    for name, window in (("tricks", 4), ("tricks_without_negation", 0)):
        parser = CommentaryParser(negation_window=window, use_events=False)
        values[name], _ = _accuracy(parser.transform(odi.commentary["text"]), truth)
    return values


def _rate_values(
    outcome: Outcome, table: pd.DataFrame, true_table: pd.DataFrame, batters: pd.DataFrame
) -> None:
    long = (table["balls"] >= _MIN_BALLS) & table["control_rate"].notna()
    parsed = table.loc[long, "control_rate"].to_numpy()
    true = true_table.loc[long, "control_rate"].to_numpy()
    outcome.values["rate_error"] = float(np.abs(parsed - true).mean()) if len(true) else np.nan
    career = table.groupby("batter")[["balls_controlled", "balls_known"]].sum()
    career = career[career["balls_known"] >= _MIN_KNOWN]
    outcome.values["careers"] = len(career)
    skill = batters.set_index("batter")["skill"].reindex(career.index)
    rate = career["balls_controlled"] / career["balls_known"]
    outcome.values["skill_rank"] = (
        float(spearmanr(rate, skill).statistic) if len(career) > 2 else np.nan
    )
    outcome.figure |= {"true_rate": true, "parsed_rate": parsed}


def _model_values(
    outcome: Outcome,
    table: pd.DataFrame,
    er: NDArray,
    scale: Scale,
    random_state: int,
    latent: pd.DataFrame | None,
) -> None:
    """R2 on the last dates: both tasks, the baselines, a leaky forecast, shuffled targets."""
    table = table.assign(effective_runs=er, impact_share=impact_share(table, er))
    form = add_form_features(table)
    kept = (form["innings_before"] >= scale.min_innings).to_numpy()
    rows = form[kept].reset_index(drop=True)
    days = np.unique(rows["date"])
    if len(days) < 5:
        raise ValueError(
            f"data must have at least 5 dates with {scale.min_innings} earlier innings, "
            f"got {len(days)}"
        )
    in_train = (rows["date"] < days[int(len(days) * (1 - _TEST_SHARE))]).to_numpy()
    train, test = np.flatnonzero(in_train), np.flatnonzero(~in_train)
    y = rows["effective_runs"].to_numpy()
    share = rows["impact_share"].to_numpy()

    def score(model: Any, X: pd.DataFrame, y: NDArray, train: NDArray, test: NDArray) -> float:
        predicted = model.fit(X.iloc[train], y[train]).predict(X.iloc[test])
        return float(r2_score(y[test], predicted))

    def regressor(name: str, mode: str, **options: Any) -> BatterImpactRegressor:
        trees = {"n_estimators": scale.trees} if name == "forest" else None
        return BatterImpactRegressor(
            name, mode=mode, model_params=trees, random_state=random_state, **options
        )

    scores = outcome.scores
    for name in MODELS:
        scores["explain", name] = score(regressor(name, "explain"), rows, y, train, test)
        scores["share", name] = score(regressor(name, "explain"), rows, share, train, test)
        scores["forecast", name] = score(regressor(name, "forecast"), rows, y, train, test)
    runs = rows[["runs"]].astype(float)
    scores["explain", "runs only"] = score(LinearRegression(), runs, y, train, test)
    if latent is not None:
        known = latent[kept].reset_index(drop=True)
        scores["forecast", "latent skill"] = score(LinearRegression(), known, y, train, test)

    rng = np.random.default_rng(random_state)
    shuffled = y.copy()
    shuffled[train] = rng.permutation(y[train])
    for name in ("linear", "forest"):
        scores["shuffled", name] = score(regressor(name, "forecast"), rows, shuffled, train, test)

    leaky = windows_with_today(table)
    leaky_columns = [name for name in leaky.columns if name not in table.columns]
    leaky_rows = rows.join(leaky.loc[kept, leaky_columns].reset_index(drop=True))
    order = rng.permutation(len(rows))
    split = order[: len(train)], order[len(train) :]
    honest_columns = regressor("linear", "forecast").fit(rows, y).numeric_features_
    beside = [*honest_columns, *leaky_columns]
    instead = [name for name in beside if "_last" not in name or name == "days_since_last"]
    for task, features in (("leaky", instead), ("leaky beside", beside)):
        model = regressor("linear", "forecast", numeric_features=features)
        scores[task, "linear"] = score(model, leaky_rows, y, *split)
    found = check_leakage(table, feature_function=windows_with_today, random_state=random_state)
    outcome.values["leaks_missed"] = int((~found["leaks"]).sum())
    honest = check_leakage(table, random_state=random_state)
    outcome.values["false_leaks"] = int(honest["leaks"].sum())
    outcome.batters = _batter_rows(outcome, table, scale, random_state)
    outcome.figure |= {
        "runs": rows["runs"].to_numpy(),
        "er": y,
        "rate": rows["control_rate_smoothed"].to_numpy(),
    }


def windows_with_today(table: pd.DataFrame) -> pd.DataFrame:
    """The usual mistake: means of the last 5 and 10 innings, the current one included."""
    ordered = table.sort_values(["date", "match_id", "innings"], kind="stable")
    groups = ordered.groupby("batter", sort=False)
    new = {}
    for size in (5, 10):
        for name in _WINDOWED:
            rolling = groups[name].rolling(size, min_periods=1)
            new[f"{name}_mean{size}"] = rolling.mean().droplevel(0)
    return table.join(pd.DataFrame(new))


def _batter_rows(
    outcome: Outcome, table: pd.DataFrame, scale: Scale, random_state: int
) -> list[tuple[Any, ...]]:
    """One model a batter, as in the paper: mean and spread of R2 over five folds in time."""
    rows: list[tuple[Any, ...]] = []
    for batter in table["batter"].value_counts(sort=True).index[: scale.batters]:
        for mode in ("explain", "forecast"):
            scores = compare_models(table, mode=mode, batter=batter, random_state=random_state)
            for model, r2 in scores.groupby("model", sort=False)["r2"]:
                rows.append(
                    (
                        f"{batter}{outcome.label}",
                        int((table["batter"] == batter).sum()),
                        mode,
                        str(model),
                        float(r2.mean()),
                        float(r2.std()),
                    )
                )
    return rows


def _control_claims(outcome: Outcome) -> list[Claim]:
    values, seed = outcome.values, outcome.label
    events = values["accuracy_without_events"]
    return [
        Claim.at_least(
            f"parser: accuracy on decided shots{seed}",
            values["accuracy"],
            0.95,
            note=f"{events:.3f} without the event rule: some dismissed batters were in control",
        ),
        Claim.at_least(f"parser: accuracy without the event rule{seed}", events, 0.95),
        Claim.close(
            f"parser: share of shots decided, 0.85 to 0.92{seed}",
            values["coverage"],
            0.885,
            absolute=0.035,
        ),
        Claim.at_least(
            f"parser: accuracy lost without negation{seed}",
            values["accuracy"] - values["accuracy_without_negation"],
            0.08,
        ),
        Claim.exact(
            f"parser: accuracy on lines that need negation or the longest match{seed}",
            values["tricks"],
            1.0,
        ),
        Claim.close(
            f"parser: accuracy on those lines without negation{seed}",
            values["tricks_without_negation"],
            0.45,
            absolute=0.1,
        ),
        Claim.at_least(f"conditions: accuracy of the pitch{seed}", values["pitch"], 0.98),
        Claim.at_least(f"conditions: accuracy of the weather{seed}", values["weather"], 0.98),
        Claim.at_most(
            f"control rate of innings of {_MIN_BALLS} balls or more: mean absolute error{seed}",
            values["rate_error"],
            0.04,
        ),
        Claim.at_least(
            f"control rate of careers against latent skill: Spearman correlation{seed}",
            values["skill_rank"],
            0.75,
            note=f"{values['careers']:.0f} batters with {_MIN_KNOWN} known balls or more",
        ),
        Claim.at_least(
            f"Effective Runs, parsed against true: correlation{seed}",
            values["er_correlation"],
            0.995,
        ),
        Claim.at_most(
            f"Effective Runs, parsed against true: mean absolute difference, runs{seed}",
            values["er_difference"],
            1.0,
            note=f"the mean innings has {values['mean_runs']:.1f} runs",
        ),
    ]


def _model_claims(outcome: Outcome) -> list[Claim]:
    scores, seed = outcome.scores, outcome.label
    forecast = [scores["forecast", name] for name in MODELS]
    latent = scores.get(("forecast", "latent skill"))
    beside = scores["leaky beside", "linear"] - scores["forecast", "linear"]
    ceiling = "" if latent is None else f"{latent:.3f} from latent skill and true conditions; "
    return [
        Claim.at_least(
            f"explain: R2 of linear regression{seed}",
            scores["explain", "linear"],
            0.90,
            note=NOT_A_REPLICATION,
        ),
        Claim.at_least(
            f"explain: R2 of the random forest{seed}",
            scores["explain", "forest"],
            0.87,
            note=NOT_A_REPLICATION,
        ),
        Claim.at_least(
            f"explain: R2 of runs alone{seed}",
            scores["explain", "runs only"],
            0.93,
            note="such a score is arithmetic, not skill",
        ),
        Claim.at_most(
            f"forecast: R2 of the best of five models{seed}",
            max(forecast) if not np.isnan(forecast).any() else float("nan"),
            0.25,
            note=f"{ceiling}an innings is one draw of a near-geometric variable",
        ),
        Claim.at_least(
            "leakage: R2 gained by windows that include today and a random split, "
            f"linear forecast{seed}",
            scores["leaky", "linear"] - scores["forecast", "linear"],
            0.15,
            note=f"in place of the honest windows; {beside:.3f} beside them",
        ),
        Claim.exact(
            f"leakage: such windows that the check does not flag{seed}",
            int(outcome.values["leaks_missed"]),
            0,
        ),
        Claim.exact(
            f"leakage: form features that the check flags{seed}",
            int(outcome.values["false_leaks"]),
            0,
        ),
        *(
            Claim.at_most(
                f"shuffled training targets: R2 of {name}{seed}", scores["shuffled", key], 0.12
            )
            for name, key in (("linear regression", "linear"), ("the random forest", "forest"))
        ),
    ]


_TASKS = {
    "explain": "explain Effective Runs",
    "share": "explain impact share",
    "forecast": "forecast Effective Runs",
    "shuffled": "forecast, shuffled targets",
    "leaky": "forecast, random split, windows with today in place of the honest ones",
    "leaky beside": "forecast, random split, windows with today beside the honest ones",
}


def _score_table(outcomes: list[Outcome]) -> Table:
    columns = (*MODELS, "runs only", "latent skill")
    return Table(
        title="R2 on the last dates",
        columns=("season", "task", *columns),
        rows=tuple(
            (
                outcome.label.removeprefix(", ") or "own data",
                words,
                *(outcome.scores.get((task, name)) for name in columns),
            )
            for outcome in outcomes
            for task, words in _TASKS.items()
        ),
        note="Explain uses features of the same innings and says how the measure is composed; "
        "forecast uses what is known when the batter walks in. Nothing here replicates the paper.",
    )


def _unjudged_table(claims: list[Claim]) -> Table:
    return Table(
        title="Model claims at this size: measured values without a pass mark",
        columns=("statement", "at the quick size", "measured"),
        rows=tuple((claim.statement, claim.tolerance, claim.measured) for claim in claims),
        note="The bounds were set for 120 matches of 6 teams.",
    )


def _batter_table(outcomes: list[Outcome]) -> Table:
    return Table(
        title="One model a batter: R2 over five folds in time",
        columns=("batter", "innings", "task", "model", "mean R2", "standard deviation"),
        rows=tuple(row for outcome in outcomes for row in outcome.batters),
        note="The paper's setting. Folds hold few rows: read the mean with its spread.",
    )


def _skipped_table(outcome: Outcome) -> Table:
    coverage = outcome.values.get("own_coverage")
    reason = "needs the truth, which generated matches alone have"
    control = f"no {COMMENTARY}: control is unknown" if coverage is None else reason
    return Table(
        title="Skipped on these data",
        columns=("claims", "reason"),
        rows=(
            ("parser accuracy", control),
            ("accuracy of pitch and weather", reason),
            ("control rate against truth and skill", control),
            ("Effective Runs from parsed against true codes", control),
        ),
        note="" if coverage is None else f"The parser decided {coverage:.1%} of the shots.",
    )


def _published_table() -> Table:
    return Table(
        title="Published percentages, one batter at a time",
        columns=("model", "accuracy, %"),
        rows=(("multiple linear regression", 90.16), ("random forest regression", 87.12)),
        note="R. G. Sharma, D. A. Warner and K. S. Williamson, whole careers to February 2022. The "
        "meaning of accuracy was not found; rankone reads it as 100 R2 of the explain task.",
        published=True,
    )


def _figure(outcome: Outcome) -> Figure:
    points, scores = outcome.figure, outcome.scores
    panels = []
    if "true_rate" in points:
        with panel("true control rate", "parsed control rate", title="Innings") as (drawing, axes):
            axes.plot(points["true_rate"], points["parsed_rate"], ".", alpha=0.4)
            axes.plot([0.4, 1], [0.4, 1], color=MUTED, linewidth=1)
        panels.append(drawing)
    with panel("", "R2 on the last dates", title="Two tasks") as (drawing, axes):
        place = np.arange(len(MODELS))
        for offset, task in ((-0.2, "explain"), (0.2, "forecast")):
            heights = [scores[task, name] for name in MODELS]
            axes.bar(place + offset, heights, width=0.38, label=task)
        references = (("explain", "runs only", "--"), ("forecast", "latent skill", ":"))
        for task, name, style in references:
            if (task, name) in scores:
                axes.axhline(
                    scores[task, name], color=MUTED, linestyle=style, linewidth=1, label=name
                )
        axes.set_xticks(place, MODELS)
        axes.legend(loc="lower left", fontsize=8)
    panels.append(drawing)
    with panel("runs", "Effective Runs", title="Innings by control rate") as (drawing, axes):
        edges = np.quantile(points["rate"], [1 / 3, 2 / 3])
        third = np.searchsorted(edges, points["rate"])
        for number, name in enumerate(("lowest third", "middle", "highest third")):
            chosen = third == number
            axes.plot(points["runs"][chosen], points["er"][chosen], ".", markersize=3, label=name)
        axes.legend()
    panels.append(drawing)
    return Figure.render(
        "Batting impact",
        f"Control rates of innings of {_MIN_BALLS} balls or more; R2 by model for both tasks, with "
        "runs alone (dashed) and latent skill (dotted); Effective Runs against runs by smoothed "
        "control rate.",
        *panels,
    )
