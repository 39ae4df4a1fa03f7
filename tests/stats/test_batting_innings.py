"""Match files, the innings table and Effective Runs."""

import copy
import datetime
import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
from rankone.stats.batting import (
    CommentaryParser,
    EffectiveRuns,
    build_innings_table,
    effective_runs,
    impact_share,
    load_cricsheet,
    simulate_odi,
)
from sklearn.base import clone

ROUNDING = 1e-12  # relative; a handful of float64 operations


def ball(batter, non_striker, runs=0, *, extras=None, wickets=(), bowler="Z1", **run_fields):
    extras = extras or {}
    extra = sum(extras.values())
    entry = {
        "batter": batter,
        "bowler": bowler,
        "non_striker": non_striker,
        "runs": {"batter": runs, "extras": extra, "total": runs + extra, **run_fields},
    }
    if extras:
        entry["extras"] = extras
    if wickets:
        entry["wickets"] = [{"player_out": out, "kind": kind} for out, kind in wickets]
    return entry


def a_match():
    """Two short innings that hold every scoring rule, and a super over."""
    first = [
        ball("A1", "A2", 4),
        ball("A1", "A2", 0, extras={"wides": 1}),
        ball("A1", "A2", 4, non_boundary=True),
        ball("A1", "A2", 1, extras={"noballs": 1}),
        ball("A2", "A1", 0, extras={"legbyes": 1}),
        ball("A1", "A2", 0, wickets=[("A2", "run out")]),
        ball("A1", "A3", 6, wickets=[]),
        ball("A1", "A3", 0, wickets=[("A1", "retired hurt")]),
    ]
    second_over = [
        ball("A4", "A3", 0, wickets=[("A4", "caught"), ("A5", "timed out")]),
        ball("A6", "A3", 0, extras={"wides": 1}, wickets=[("A3", "run out")]),
    ]
    reply = [ball("B1", "B2", 2, bowler="Y1"), ball("B1", "B2", 0, bowler="Y1")]
    tie_break = [ball("A1", "A6", 6), ball("A1", "A6", 6)]
    return {
        "info": {
            "dates": ["2020-03-01", "2020-03-02"],
            "match_type": "ODI",
            "teams": ["Alphas", "Betas"],
            "outcome": {"winner": "Alphas", "by": {"runs": 18}, "method": "D/L"},
            "toss": {"winner": "Betas", "decision": "field"},
            "overs": 50,
            "registry": {"people": {"A1": "x1"}},
        },
        "innings": [
            {
                "team": "Alphas",
                "overs": [
                    {"over": 0, "deliveries": first},
                    {"over": 1, "deliveries": second_over},
                ],
            },
            {"team": "Betas", "overs": [{"over": 0, "deliveries": reply}]},
            {
                "team": "Alphas",
                "super_over": True,
                "overs": [{"over": 0, "deliveries": tie_break}],
            },
        ],
    }


def as_legacy(match):
    """The same match as a legacy YAML document."""
    match = copy.deepcopy(match)
    match["info"]["dates"] = [datetime.date.fromisoformat(day) for day in match["info"]["dates"]]
    innings = []
    names = ("1st innings", "2nd innings", "Super Over 1")
    for name, entry in zip(names, match["innings"], strict=True):
        deliveries = []
        for over in entry["overs"]:
            for number, delivery in enumerate(over["deliveries"], start=1):
                delivery["batsman"] = delivery.pop("batter")
                delivery["runs"]["batsman"] = delivery["runs"].pop("batter")
                wickets = delivery.pop("wickets", [])
                if wickets:
                    delivery["wicket"] = wickets[0] if len(wickets) == 1 else wickets
                # The tenth delivery of over 0 is written 0.10 and read as 0.1.
                deliveries.append({float(f"{over['over']}.{number}"): delivery})
        innings.append({name: {"team": entry["team"], "deliveries": deliveries}})
    match["innings"] = innings
    return match


@pytest.fixture
def data():
    return load_cricsheet({"m1": a_match()})


@pytest.fixture
def table(data):
    return build_innings_table(data.deliveries, data.matches)


def row(table, batter):
    (found,) = table[table["batter"] == batter].to_dict("records")
    return found


def test_matches_have_their_fields(data):
    (match,) = data.matches.to_dict("records")
    assert match["match_id"] == "m1"
    assert match["date"] == pd.Timestamp("2020-03-01")
    assert match["venue"] is None
    assert (match["winner"], match["method"], match["overs"]) == ("Alphas", "D/L", 50)
    assert (match["toss_winner"], match["toss_decision"]) == ("Betas", "field")


def test_ball_counts_every_delivery_of_the_over(data):
    first = data.deliveries[(data.deliveries["innings"] == 1) & (data.deliveries["over"] == 0)]
    assert first["ball"].tolist() == list(range(1, 9))


def test_wides_are_not_faced_and_no_balls_are(table):
    a1 = row(table, "A1")
    assert (a1["balls"], a1["runs"]) == (6, 15)


def test_an_all_run_four_is_no_boundary(table):
    assert (row(table, "A1")["fours"], row(table, "A1")["sixes"]) == (1, 1)


def test_leg_byes_are_not_the_batters_runs_and_the_ball_is_a_dot(table):
    a2 = row(table, "A2")
    assert (a2["runs"], a2["balls"], a2["dots"]) == (0, 1, 1)


def test_everyone_who_came_in_has_a_row_in_order(table):
    first = table[table["innings"] == 1]
    assert first["batter"].tolist() == ["A1", "A2", "A3", "A4", "A5", "A6"]
    assert first["position"].tolist() == [1, 2, 3, 4, 5, 6]
    assert row(table, "A6")["balls"] == 0  # a wide only
    assert np.isnan(row(table, "A6")["strike_rate"])
    assert row(table, "A3")["balls"] == 0


def test_dismissals(table):
    how = {batter: row(table, batter)["dismissal"] for batter in table["batter"]}
    assert how["A1"] is None  # retired hurt
    assert not row(table, "A1")["dismissed"]
    assert (how["A2"], how["A3"], how["A4"], how["A5"]) == (
        "run out",
        "run out",
        "caught",
        "timed out",
    )
    assert not row(table, "B1")["dismissed"]


@pytest.mark.parametrize(
    ("kind", "out"), [("retired out", True), ("retired not out", False), ("stumped", True)]
)
def test_retirements(kind, out):
    match = a_match()
    match["innings"][1]["overs"][0]["deliveries"][1]["wickets"] = [
        {"player_out": "B1", "kind": kind}
    ]
    data = load_cricsheet(match)
    table = build_innings_table(data.deliveries, data.matches)
    assert row(table, "B1")["dismissed"] == out


def test_rest_and_team_totals(table):
    a1, b1 = row(table, "A1"), row(table, "B1")
    assert (a1["rest_runs"], a1["rest_balls"]) == (2, 4)
    assert (b1["rest_runs"], b1["rest_balls"]) == (15, 8)
    assert a1["team_total"] == 15 + 4  # two wides, a no-ball, a leg bye
    assert (a1["won"], b1["won"]) == (True, False)


def test_super_overs_are_left_out_and_numbers_stay(data):
    assert data.deliveries["innings"].unique().tolist() == [1, 2]
    match = a_match()
    match["innings"].insert(0, match["innings"].pop())
    with_first = load_cricsheet(match).deliveries
    assert with_first["innings"].unique().tolist() == [2, 3]
    everything = load_cricsheet(a_match(), include_super_overs=True).deliveries
    assert everything["innings"].unique().tolist() == [1, 2, 3]


def test_t20_files_give_no_rows_unless_asked_for():
    match = a_match()
    match["info"]["match_type"] = "T20"
    data = load_cricsheet(match)
    assert (len(data.matches), len(data.deliveries)) == (0, 0)
    assert "batter" in data.deliveries.columns
    assert len(load_cricsheet(match, match_types=("ODI", "T20")).deliveries) == 12
    assert len(load_cricsheet(match, match_types=None).deliveries) == 12


def test_json_and_legacy_yaml_give_equal_tables(tmp_path):
    yaml = pytest.importorskip("yaml")
    match = a_match()
    # Ten deliveries in the first over, so that 0.10 occurs.
    match["innings"][0]["overs"][0]["deliveries"] += [ball("A4", "A3"), ball("A4", "A3", 2)]
    (tmp_path / "json").mkdir()
    (tmp_path / "yaml").mkdir()
    (tmp_path / "json" / "7.json").write_text(json.dumps(match))
    (tmp_path / "yaml" / "7.yaml").write_text(yaml.safe_dump(as_legacy(match), sort_keys=False))
    new, old = load_cricsheet(tmp_path / "json"), load_cricsheet(tmp_path / "yaml")
    pd.testing.assert_frame_equal(new.matches, old.matches)
    pd.testing.assert_frame_equal(new.deliveries, old.deliveries)
    pd.testing.assert_frame_equal(
        build_innings_table(new.deliveries, new.matches),
        build_innings_table(old.deliveries, old.matches),
    )


def test_zips_folders_files_and_lists_agree(tmp_path):
    text = json.dumps(a_match())
    path = tmp_path / "m1.json"
    path.write_text(text)
    (tmp_path / "notes.csv").write_text("a,b")
    archive = tmp_path / "sub"
    archive.mkdir()
    with zipfile.ZipFile(archive / "all.zip", "w") as opened:
        opened.writestr("m1.json", text)
        opened.writestr("README.txt", "about")
    expected = load_cricsheet({"m1": a_match()}).deliveries
    for source in (path, str(path), tmp_path, [path], archive / "all.zip"):
        pd.testing.assert_frame_equal(load_cricsheet(source).deliveries, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["info"].pop("dates"), "match 'm1' lacks the field info.dates"),
        (lambda m: m["info"].update(dates=[]), "lacks the field info.dates"),
        (lambda m: m["info"].update(dates=["soon"]), "info.dates must be dates"),
        (lambda m: m["info"].update(teams=["Alphas"]), "info.teams must name two"),
        (lambda m: m["info"].pop("match_type"), "info.match_type"),
        (lambda m: m.pop("info"), "lacks the field info"),
        (lambda m: m.pop("innings"), "lacks the field innings"),
        (lambda m: m["innings"][0].pop("overs"), r"innings\[1\].overs"),
        (lambda m: m["innings"][0].update(team="Gammas"), "must be one of info.teams"),
        (lambda m: first_ball(m).pop("batter"), "over 0 ball 1: batter"),
        (lambda m: first_ball(m).pop("non_striker"), "ball 1: non_striker"),
        (lambda m: first_ball(m)["runs"].pop("total"), "ball 1: runs.total"),
        (lambda m: first_ball(m)["runs"].update(batter=-1), "runs_batter must be a whole"),
        (lambda m: first_ball(m)["runs"].update(batter="4"), "runs_batter must be a whole"),
        (lambda m: first_ball(m).update(wickets=[{"kind": "lbw"}]), "wickets.player_out"),
        (lambda m: first_ball(m).update(wickets="lbw"), "wickets must be a list"),
        (lambda m: first_ball(m).update(extras=[1]), "extras must be a mapping"),
        (lambda m: m["info"].update(outcome="Alphas"), "info.outcome must be a mapping"),
    ],
)
def test_broken_matches_are_named(change, words):
    match = a_match()
    change(match)
    with pytest.raises(ValueError, match=words) as error:
        load_cricsheet({"m1": match})
    assert "'m1'" in str(error.value)


def test_yaml_without_its_package_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "m.yaml").write_text("info: {}")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"PyYAML .*rankone\[stats\]"):
        load_cricsheet(tmp_path / "m.yaml")


def first_ball(match):
    return match["innings"][0]["overs"][0]["deliveries"][0]


def test_bad_sources(tmp_path):
    with pytest.raises(TypeError, match="source must be a mapping"):
        load_cricsheet(3)
    with pytest.raises(TypeError, match="source must hold paths, got a int"):
        load_cricsheet([3])
    with pytest.raises(FileNotFoundError):
        load_cricsheet(tmp_path / "none.json")
    with pytest.raises(ValueError, match="at least one match"):
        load_cricsheet(tmp_path)
    (tmp_path / "m.txt").write_text("")
    with pytest.raises(ValueError, match=r"source must be \.json"):
        load_cricsheet(tmp_path / "m.txt")
    (tmp_path / "m.json").write_text("{")
    with pytest.raises(ValueError, match="match 'm' must be valid JSON"):
        load_cricsheet(tmp_path / "m.json")
    path = tmp_path / "m1.json"
    path.write_text(json.dumps(a_match()))
    with pytest.raises(ValueError, match="'m1' twice"):
        load_cricsheet([path, path])


@pytest.fixture(scope="module")
def season():
    odi = simulate_odi(6, 3, random_state=0)
    data = load_cricsheet(odi.cricsheet)
    table = build_innings_table(
        data.deliveries,
        data.matches,
        control=odi.truth["control"].to_numpy(),
        conditions=odi.conditions,
    )
    return odi, data, table


def test_totals_add_up(season):
    _, data, table = season
    totals = table.groupby(["match_id", "innings"])["team_total"].first()
    by_ball = data.deliveries.groupby(["match_id", "innings"])[["runs_batter", "runs_extras"]]
    assert (by_ball.sum().sum(axis=1) == totals).all()
    assert table["balls"].sum() == (data.deliveries["wides"] == 0).sum()


def test_table_equals_a_count_row_by_row(season):
    odi, data, table = season
    codes = odi.truth["control"].to_numpy()
    for entry in table.iloc[::9].itertuples():
        balls = runs = known = controlled = uncontrolled_runs = 0
        for code, b in zip(codes, data.deliveries.itertuples(), strict=True):
            if (b.match_id, b.innings, b.batter) != (entry.match_id, entry.innings, entry.batter):
                continue
            balls += b.wides == 0
            runs += b.runs_batter
            known += code >= 0
            controlled += code == 1
            uncontrolled_runs += b.runs_batter * (code == 0)
        assert (entry.balls, entry.runs, entry.balls_known) == (balls, runs, known)
        assert entry.balls_controlled == controlled
        assert entry.runs_uncontrolled == uncontrolled_runs
        assert entry.control_rate_smoothed == pytest.approx((8 + controlled) / (10 + known))
        others = table[(table["match_id"] == entry.match_id) & (table["batter"] != entry.batter)]
        assert (entry.rest_runs, entry.rest_balls) == (others["runs"].sum(), others["balls"].sum())


def test_rows_of_deliveries_may_come_in_any_order(season):
    odi, data, table = season
    order = np.random.default_rng(0).permutation(len(data.deliveries))
    shuffled = build_innings_table(
        data.deliveries.iloc[order],
        data.matches.iloc[::-1],
        control=odi.truth["control"].to_numpy()[order],
        conditions=odi.conditions,
    )
    pd.testing.assert_frame_equal(shuffled, table)


def test_codes_on_wides_count_as_unknown(data):
    table = build_innings_table(
        data.deliveries, data.matches, control=np.ones(len(data.deliveries), dtype=int)
    )
    assert (table["balls_known"] == table["balls"]).all()
    assert (table["runs_controlled"] == table["runs"]).all()


def test_control_and_conditions_default_to_unknown(table):
    assert table["control_rate"].isna().all()
    assert (table["control_rate_smoothed"] == 0.8).all()
    assert set(table["pitch"]) == set(table["weather"]) == {"unknown"}


def test_bad_input_of_the_table(data):
    matches, deliveries = data
    n = len(deliveries)
    with pytest.raises(ValueError, match="deliveries must have at least one row"):
        build_innings_table(deliveries.iloc[:0], matches)
    with pytest.raises(ValueError, match="columns batter, wides"):
        build_innings_table(deliveries.drop(columns=["batter", "wides"]), matches)
    with pytest.raises(ValueError, match=rf"control must have one code a delivery, shape \({n},\)"):
        build_innings_table(deliveries, matches, control=[1])
    with pytest.raises(ValueError, match="control must hold -1, 0 and 1 alone, got"):
        build_innings_table(deliveries, matches, control=np.full(n, 2))
    with pytest.raises(ValueError, match="control must hold"):
        build_innings_table(deliveries, matches, control=np.full(n, np.nan))
    with pytest.raises(ValueError, match="once, got"):
        build_innings_table(pd.concat([deliveries, deliveries]), matches)
    with pytest.raises(ValueError, match="'m1' is missing"):
        build_innings_table(deliveries, matches.assign(match_id="m2"))
    with pytest.raises(ValueError, match="finite numbers in the column ball"):
        build_innings_table(deliveries.assign(ball=np.nan), matches)
    for wickets in ("()", None, ("A1",)):
        column = pd.Series([wickets] * n, dtype=object)
        with pytest.raises(ValueError, match="wickets, got"):
            build_innings_table(deliveries.assign(wickets=column), matches)
    with pytest.raises(ValueError, match="control_prior"):
        build_innings_table(deliveries, matches, control_prior=(2, 1))
    with pytest.raises(ValueError, match="conditions must have the columns weather"):
        build_innings_table(
            deliveries, matches, conditions=pd.DataFrame({"match_id": ["m1"], "pitch": ["seam"]})
        )
    with pytest.raises(TypeError, match="deliveries must be a pandas DataFrame, got a list"):
        build_innings_table([], matches)


FLAT = {"batting": 0, "seam": 0, "spin": 0, "unknown": 0}
DRY = {"clear": 0, "overcast": 0, "rain": 0, "unknown": 0}


def innings(**columns):
    base = {
        "runs": [50],
        "balls": [60],
        "runs_controlled": [50],
        "runs_uncontrolled": [0],
        "control_rate_smoothed": [0.97],
        "rest_runs": [200],
        "rest_balls": [250],
        "pitch": ["seam"],
        "weather": ["overcast"],
    }
    return pd.DataFrame({**base, **{name: [value] for name, value in columns.items()}})


def test_effective_runs_of_the_worked_example():
    (value,) = effective_runs(innings())
    assert value == pytest.approx(50 * 1.2 * ((74 / 90) / 0.8) ** 0.5, rel=ROUNDING)
    assert value == pytest.approx(60.83, abs=0.005)


def test_without_weights_controlled_runs_are_runs(season):
    _, data, _ = season
    table = build_innings_table(
        data.deliveries, data.matches, control=np.ones(len(data.deliveries), dtype=int)
    )
    for gamma in (0.0, 0.3, 1.0):
        er = effective_runs(table, gamma=gamma, tempo=0, pitch_weights=FLAT, weather_weights=DRY)
        np.testing.assert_allclose(er, table["runs"], rtol=ROUNDING)


def test_gamma_one_ignores_control(season):
    table = season[2]
    er = effective_runs(table, gamma=1, tempo=0, pitch_weights=FLAT, weather_weights=DRY)
    np.testing.assert_allclose(er, table["runs"], rtol=ROUNDING)


def test_effective_runs_do_not_fall_with_gamma(season):
    table = season[2]
    values = [effective_runs(table, gamma=gamma) for gamma in (0, 0.25, 0.5, 0.75, 1)]
    assert (np.diff(values, axis=0) >= -ROUNDING * np.max(values)).all()


def test_a_ball_that_loses_control_costs_its_runs_times_one_minus_gamma(season):
    odi, data, _ = season
    codes = np.maximum(odi.truth["control"].to_numpy(), 0)
    scoring = np.flatnonzero((codes == 1) & (data.deliveries["runs_batter"] == 4))[0]
    flipped = codes.copy()
    flipped[scoring] = 0

    def shots(codes):
        table = build_innings_table(data.deliveries, data.matches, control=codes)
        return effective_runs(
            table, gamma=0.3, tempo=0, pitch_weights=FLAT, weather_weights=DRY
        ).sum()

    assert shots(codes) - shots(flipped) == pytest.approx(0.7 * 4, rel=1e-9)


def test_unknown_balls_count_at_the_smoothed_rate():
    table = innings(runs_controlled=20, runs_uncontrolled=10, control_rate_smoothed=0.8)
    (value,) = effective_runs(table, tempo=0, pitch_weights=FLAT, weather_weights=DRY)
    assert value == pytest.approx(20 + 5 + (0.5 + 0.5 * 0.8) * 20, rel=ROUNDING)


@pytest.mark.parametrize("rest", [{"rest_runs": 0}, {"rest_balls": 0, "rest_runs": 0}])
def test_tempo_is_one_without_a_rest(rest):
    (value,) = effective_runs(innings(**rest), pitch_weights=FLAT, weather_weights=DRY)
    assert value == 50


def test_tempo_is_clipped_and_zero_balls_are_finite():
    slow = innings(runs=1, runs_controlled=1, balls=200)
    assert effective_runs(slow)[0] == pytest.approx(1.2 * 0.5**0.5, rel=ROUNDING)
    fast = innings(runs=200, runs_controlled=200)
    assert effective_runs(fast)[0] == pytest.approx(200 * 1.2 * 2**0.5, rel=ROUNDING)
    nothing = innings(runs=0, runs_controlled=0, balls=0)
    assert effective_runs(nothing, tempo_prior=0)[0] == 0


def test_impact_shares_of_a_team_innings_sum_to_100(season):
    table = season[2]
    share = impact_share(table, effective_runs(table))
    sums = pd.Series(share).groupby([table["match_id"], table["innings"]]).sum()
    np.testing.assert_allclose(sums, 100, rtol=ROUNDING)
    zero = impact_share(pd.DataFrame({"match_id": ["1", "1"], "innings": 1}), [0, 0])
    assert zero.tolist() == [0, 0]


def test_the_measure_is_replaceable(season):
    table = season[2]
    assert EffectiveRuns().fit_transform(table)[:, 0].tolist() == effective_runs(table).tolist()
    measure = EffectiveRuns(
        function=lambda table, k: k * table["runs"], target="impact_share", params={"k": 2}
    )
    shares = clone(measure).transform(table)
    assert shares.shape == (len(table), 1)
    np.testing.assert_allclose(shares[:, 0], impact_share(table, table["runs"]), rtol=ROUNDING)
    assert measure.get_feature_names_out().tolist() == ["impact_share"]


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (innings(pitch="mud"), {}, "pitch_weights must have a weight for every .* got none for"),
        (innings(), {"weather_weights": {"clear": 0}}, "weather_weights .* 'overcast'"),
        (innings(runs=np.nan), {}, "finite numbers in the column runs"),
        (innings(runs=np.inf), {}, "finite numbers in the column runs"),
        (innings(balls=-1), {}, "no negative balls"),
        (innings().drop(columns="balls"), {}, "columns balls"),
        (innings(), {"gamma": np.nan}, "gamma must be a finite number"),
        (innings(), {"tempo": -1}, "tempo must be a finite number of at least 0"),
        (innings(), {"tempo_prior": "30"}, "tempo_prior must be a number"),
        (innings(), {"tempo_clip": (2, 1)}, "tempo_clip must have"),
        (innings(), {"tempo_clip": 2}, "tempo_clip must be"),
    ],
)
def test_bad_input_of_effective_runs(table, options, words):
    with pytest.raises(ValueError, match=words):
        effective_runs(table, **options)


def test_bad_input_of_the_measure():
    with pytest.raises(ValueError, match="target must be one of"):
        EffectiveRuns(target="runs").fit(innings())
    with pytest.raises(ValueError, match=r"function must return an array of shape \(1,\)"):
        EffectiveRuns(function=lambda table: [1, 2]).transform(innings())
    with pytest.raises(ValueError, match=r"er must have shape \(1,\), got \(2,\)"):
        impact_share(pd.DataFrame({"match_id": ["1"], "innings": 1}), [1, 2])
    with pytest.raises(ValueError, match="er must be finite"):
        impact_share(pd.DataFrame({"match_id": ["1"], "innings": 1}), [np.nan])


def test_generated_matches_repeat_and_hold_cricket():
    one, two = (simulate_odi(3, 4, random_state=5) for _ in range(2))
    assert one.cricsheet == two.cricsheet
    pd.testing.assert_frame_equal(one.commentary, two.commentary)
    assert simulate_odi(3, 4, random_state=6).cricsheet != one.cricsheet
    data = load_cricsheet(one.cricsheet)
    pd.testing.assert_frame_equal(
        one.truth[["match_id", "innings", "over", "ball"]],
        data.deliveries[["match_id", "innings", "over", "ball"]],
        check_dtype=False,
    )
    legal = (data.deliveries["wides"] == 0) & (data.deliveries["noballs"] == 0)
    per_over = legal.groupby([data.deliveries[key] for key in ("match_id", "innings", "over")])
    assert per_over.sum().max() == 6
    assert ((one.truth["control"] == -1) == (data.deliveries["wides"] > 0)).all()
    out = [kind for wickets in data.deliveries["wickets"] for _, kind in wickets]
    assert set(out) <= {"caught", "bowled", "lbw", "stumped", "run out"}
    dismissed = data.deliveries[data.deliveries["wickets"].map(len) > 0]
    assert (dismissed.groupby(["match_id", "innings"]).size() <= 10).all()
    assert len(one.batters) == 44


def test_chases_stop_at_the_target(season):
    _, data, table = season
    totals = table.groupby(["match_id", "innings"])["team_total"].first().unstack()
    winner = data.matches.set_index("match_id")["winner"]
    chased = totals[2] > totals[1]
    assert (totals[2][chased] - totals[1][chased] <= 6).all()
    second = table[table["innings"] == 2].groupby("match_id")["team"].first()
    assert ((winner == second)[chased.index] == chased).all()


def test_rates_of_the_generator_are_the_asked_ones():
    odi = simulate_odi(2, 2, trick_rate=0, no_cue_rate=1.0, oov_rate=0, overs=10, random_state=0)
    assert (CommentaryParser().transform(odi.commentary["text"]) == -1).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_matches": 0}, "n_matches must be an integer"),
        ({"n_teams": 1}, "n_teams must be from 2 to 26"),
        ({"overs": 2.5}, "overs must be an integer"),
        ({"trick_rate": 1.5}, "trick_rate must be in"),
        ({"trick_rate": 0.9, "oov_rate": 0.9}, "sum to at most 1"),
    ],
)
def test_bad_input_of_the_generator(options, words):
    with pytest.raises(ValueError, match=words):
        simulate_odi(**{"n_matches": 1, "n_teams": 2, **options})
