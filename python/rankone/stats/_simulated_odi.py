"""One-day internationals with commentary whose truth is known.

No public data has both ball-by-ball events and commentary, so that the error of reading control
from text can be measured on generated matches alone. The generator is this library's own; its
lines include some that no rule of the parser can get right.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from rankone._repr import short_repr
from rankone.stats._odi_lines import (
    LENGTHS,
    PARAPHRASE,
    PITCH_SENTENCES,
    PLAIN,
    TRICK,
    WEATHER_SENTENCES,
    WIDE,
    WITHOUT_CUE,
)

_MAX_TEAMS = 26  # a letter each
_PLAYERS = 11
_GROUNDS = 8
_DAYS_BETWEEN = 3
_START = pd.Timestamp("2015-01-01")
_PITCHES = {
    "batting": (0.35, 0.35),
    "seam": (0.25, -0.35),
    "spin": (0.2, -0.3),
    "unknown": (0.2, 0),
}
_WEATHERS = {
    "clear": (0.45, 0.0),
    "overcast": (0.25, -0.25),
    "rain": (0.1, -0.1),
    "unknown": (0.2, 0.0),
}  # class -> (probability, effect on the log-odds of control)
_RUNS = (0, 1, 2, 3, 4, 6)
_RUN_SHARES = {1: (0.455, 0.36, 0.06, 0.01, 0.10, 0.015), 0: (0.73, 0.15, 0.05, 0.01, 0.05, 0.01)}
_P_WIDE, _P_NO_BALL, _P_LEG_BYE, _P_RUN_OUT = 0.03, 0.004, 0.012, 0.002
_P_WICKET = {1: 0.006, 0: 0.13}
_KINDS, _KIND_SHARES = ("caught", "bowled", "lbw", "stumped"), (0.62, 0.2, 0.15, 0.03)
_DEATH_OVER, _DEATH_HITTING, _DEATH_CONTROL = 40, 1.5, -0.4
_DRAWS = 12  # uniforms a delivery, each with its own use


@dataclass(frozen=True)
class SimulatedODI:
    """What :func:`simulate_odi` returns.

    Attributes:
        cricsheet: match_id -> match, for :func:`load_cricsheet`.
        commentary: match_id, innings, over, ball and text.
        summaries: match_id and text.
        truth: match_id, innings, over, ball and control: 1, 0, or -1 on a wide.
        conditions: match_id, pitch and weather, as they were.
        batters: batter, skill and aggression, on the scale of log-odds and of log-runs.
    """

    __repr__ = short_repr

    cricsheet: dict[str, dict[str, Any]]
    commentary: pd.DataFrame
    summaries: pd.DataFrame
    truth: pd.DataFrame
    conditions: pd.DataFrame
    batters: pd.DataFrame


@dataclass(frozen=True)
class _Player:
    name: str
    skill: float
    bowling: float
    # (control, over from 40) -> cumulated probabilities of the runs
    runs: dict[tuple[int, bool], list[float]]


@dataclass(frozen=True)
class _Text:
    """Probabilities of the special lines, cumulated in the order in which they are tried."""

    without_cue: float
    paraphrase: float
    trick: float


def simulate_odi(
    n_matches: int = 60,
    n_teams: int = 6,
    *,
    trick_rate: float = 0.2,
    no_cue_rate: float = 0.08,
    oov_rate: float = 0.06,
    overs: int = 50,
    random_state: Any = None,
) -> SimulatedODI:
    """Generate matches, commentary, summaries and what is true of them.

    Whether a ball is played in control depends on the batter's skill, the bowler, pitch, weather
    and the balls faced so far; runs and wickets depend on control, and every line of commentary on
    it too.

    Args:
        n_matches: matches, one every three days from 2015-01-01.
        n_teams: teams of eleven, 2 to 26.
        trick_rate: share of lines that need negation or the longest match.
        no_cue_rate: share of lines that say nothing about control.
        oov_rate: share of paraphrases outside the lexicon, some misleading.
        overs: overs an innings.
        random_state: seed.

    Returns:
        The matches in Cricsheet's format and frames of everything else.

    Raises:
        ValueError: for counts that are not positive integers, rates outside [0, 1] or with a sum
            above 1, and numbers of teams outside 2 to 26.

    Example:
        >>> from rankone.stats.batting import simulate_odi
        >>> odi = simulate_odi(2, 2, overs=3, random_state=0)
        >>> list(odi.cricsheet), len(odi.batters)
        (['sim0001', 'sim0002'], 22)
    """
    for name, value in (("n_matches", n_matches), ("n_teams", n_teams), ("overs", overs)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    if not 2 <= n_teams <= _MAX_TEAMS:
        raise ValueError(f"n_teams must be from 2 to {_MAX_TEAMS}, got {n_teams}")
    rates = {"trick_rate": trick_rate, "no_cue_rate": no_cue_rate, "oov_rate": oov_rate}
    for name, rate in rates.items():
        if not (isinstance(rate, int | float | np.number) and 0 <= rate <= 1):
            raise ValueError(f"{name} must be in [0, 1], got {rate!r}")
    if sum(rates.values()) > 1 + 1e-12:
        raise ValueError(
            f"trick_rate, no_cue_rate and oov_rate must sum to at most 1, got {sum(rates.values())}"
        )
    text = _Text(no_cue_rate, no_cue_rate + oov_rate, no_cue_rate + oov_rate + trick_rate)
    seed = check_random_state(random_state).randint(2**31 - 1)
    rng = np.random.default_rng(seed)

    teams, batters = _teams(rng, n_teams)
    log = _Log()
    cricsheet: dict[str, dict[str, Any]] = {}
    summaries: list[tuple[str, str]] = []
    conditions: list[tuple[str, str, str]] = []
    for number in range(n_matches):
        match_id = f"sim{number + 1:04d}"
        pitch, weather = _condition(rng, _PITCHES), _condition(rng, _WEATHERS)
        home, away = rng.choice(n_teams, size=2, replace=False)
        sides = [teams[home], teams[away]]
        names = [f"Team {chr(ord('A') + side)}" for side in (home, away)]
        shift = _PITCHES[pitch][1] + _WEATHERS[weather][1]
        info: dict[str, Any] = {
            "dates": [str((_START + pd.Timedelta(days=_DAYS_BETWEEN * number)).date())],
            "match_type": "ODI",
            "teams": names,
            "venue": f"Ground {rng.integers(_GROUNDS) + 1}",
            "overs": int(overs),
            "toss": {"winner": names[0], "decision": "bat"},
        }
        innings: list[dict[str, Any]] = []
        totals: list[int] = []
        out: list[int] = []
        for turn in (0, 1):
            target = totals[0] + 1 if turn else None
            play = _Innings(rng, sides[turn], sides[1 - turn], shift, int(overs), target, text, log)
            played = play.overs(match_id, turn + 1)
            innings.append({"team": names[turn], "overs": played})
            totals.append(play.total)
            out.append(play.wickets)
        if totals[1] > totals[0]:
            outcome: dict[str, Any] = {"winner": names[1], "by": {"wickets": 10 - out[1]}}
        elif totals[1] < totals[0]:
            outcome = {"winner": names[0], "by": {"runs": totals[0] - totals[1]}}
        else:
            outcome = {"result": "tie"}
        cricsheet[match_id] = {"info": {**info, "outcome": outcome}, "innings": innings}
        conditions.append((match_id, pitch, weather))
        said = (_pick(rng, PITCH_SENTENCES[pitch]), _pick(rng, WEATHER_SENTENCES[weather]))
        summaries.append((match_id, " ".join(said)))
    key = ["match_id", "innings", "over", "ball"]
    return SimulatedODI(
        cricsheet=cricsheet,
        commentary=pd.DataFrame(log.lines, columns=[*key, "text"]),
        summaries=pd.DataFrame(summaries, columns=["match_id", "text"]),
        truth=pd.DataFrame(log.truth, columns=[*key, "control"]),
        conditions=pd.DataFrame(conditions, columns=["match_id", "pitch", "weather"]),
        batters=batters,
    )


def _teams(rng: np.random.Generator, n_teams: int) -> tuple[list[list[_Player]], pd.DataFrame]:
    order = np.arange(_PLAYERS)
    teams, rows = [], []
    for number in range(n_teams):
        skill = rng.normal(0.35 - 0.12 * np.maximum(0, order - 4), 0.35)
        aggression = rng.normal(0, 0.2, _PLAYERS)
        bowling = rng.normal(0, 0.25, _PLAYERS)
        letter = chr(ord("A") + number)
        team = [
            _Player(
                f"{letter} Player{place + 1}",
                float(skill[place]),
                float(bowling[place]),
                {
                    (control, death): _run_table(control, death, float(aggression[place]))
                    for control in (0, 1)
                    for death in (False, True)
                },
            )
            for place in order
        ]
        teams.append(team)
        rows += [(p.name, p.skill, float(a)) for p, a in zip(team, aggression, strict=True)]
    return teams, pd.DataFrame(rows, columns=["batter", "skill", "aggression"])


def _run_table(control: int, death: bool, aggression: float) -> list[float]:
    hitting = math.exp(aggression) * (_DEATH_HITTING if death else 1)
    shares = list(_RUN_SHARES[control])
    shares[-2:] = [share * hitting for share in shares[-2:]]
    total = sum(shares)
    return list(accumulate(share / total for share in shares))[:-1]


def _condition(rng: np.random.Generator, classes: dict[str, tuple[float, float]]) -> str:
    shares = list(accumulate(share for share, _ in classes.values()))[:-1]
    return list(classes)[bisect_right(shares, rng.random())]


def _pick(rng: np.random.Generator, sentences: Sequence[str]) -> str:
    return sentences[int(rng.integers(len(sentences)))]


_KIND_TABLE = list(accumulate(_KIND_SHARES))[:-1]


class _Log:
    """Lines and truth of all matches, a row a delivery."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.truth: list[tuple[Any, ...]] = []


class _Innings:
    """One innings, ball by ball."""

    def __init__(
        self,
        rng: np.random.Generator,
        batting: list[_Player],
        bowling: list[_Player],
        shift: float,
        overs: int,
        target: int | None,
        text: _Text,
        log: _Log,
    ) -> None:
        self._draws = _uniforms(rng)
        self._batting, self._bowling = batting, bowling
        self._shift, self._n_overs, self._target = shift, overs, target
        self._text, self._log = text, log
        self._faced = [0] * _PLAYERS
        self._striker, self._other, self._next = 0, 1, 2
        self.total, self.wickets = 0, 0

    @property
    def _over(self) -> bool:
        reached = self._target is not None and self.total >= self._target
        return reached or self.wickets == _PLAYERS - 1

    def overs(self, match_id: str, innings: int) -> list[dict[str, Any]]:
        """The overs in Cricsheet's format."""
        played = []
        for over in range(self._n_overs):
            # Positions 7 to 11 bowl in rotation.
            bowler = self._bowling[6 + over % 5]
            deliveries: list[dict[str, Any]] = []
            legal = 0
            while legal < 6 and not self._over:
                delivery, control, text = self._ball(bowler, over)
                deliveries.append(delivery)
                key = (match_id, innings, over, len(deliveries))
                self._log.lines.append((*key, text))
                self._log.truth.append((*key, control))
                extras = delivery.get("extras", {})
                legal += "wides" not in extras and "noballs" not in extras
            if deliveries:
                played.append({"over": over, "deliveries": deliveries})
            if self._over:
                break
            self._striker, self._other = self._other, self._striker
        return played

    def _ball(self, bowler: _Player, over: int) -> tuple[dict[str, Any], int, str]:
        u = next(self._draws)
        batter, partner = self._batting[self._striker], self._batting[self._other]
        who = {"batter": batter.name, "non_striker": partner.name, "bowler": bowler.name}
        length = LENGTHS[int(u[10] * len(LENGTHS))]
        if u[0] < _P_WIDE:
            self.total += 1
            runs = {"batter": 0, "extras": 1, "total": 1}
            line = WIDE[int(u[11] * len(WIDE))]
            text = f"{bowler.name} to {batter.name}, 1 wide, {length}, {line}"
            return {**who, "runs": runs, "extras": {"wides": 1}}, -1, text
        death = over >= _DEATH_OVER
        log_odds = (
            1.15
            + batter.skill
            - bowler.bowling
            + self._shift
            + 0.25 * min(math.log1p(self._faced[self._striker]), 4)
            + (_DEATH_CONTROL if death else 0)
        )
        control = int(u[1] < 1 / (1 + math.exp(-log_odds)))
        self._faced[self._striker] += 1
        extras: dict[str, int] = {}
        wickets = []
        hit, result = 0, ""
        no_ball = u[2] < _P_NO_BALL
        if no_ball:
            extras["noballs"] = 1
        if not no_ball and u[3] < _P_WICKET[control]:
            kind = _KINDS[bisect_right(_KIND_TABLE, u[4])]
            wickets.append({"player_out": batter.name, "kind": kind})
            result = "OUT"
        elif not no_ball and u[5] < _P_LEG_BYE:
            extras["legbyes"] = 1
            result = "1 leg bye"
        else:
            hit = _RUNS[bisect_right(batter.runs[control, death], u[6])]
            result = _result(hit, no_ball)
        crossed = (hit + extras.get("legbyes", 0)) % 2 == 1
        extra = sum(extras.values())
        self.total += hit + extra
        delivery: dict[str, Any] = {**who, "runs": {"batter": hit, "extras": extra}}
        delivery["runs"]["total"] = hit + extra
        if extras:
            delivery["extras"] = extras
        if wickets:
            self._dismiss("_striker")
        elif u[7] < _P_RUN_OUT:
            wickets.append({"player_out": partner.name, "kind": "run out"})
            self._dismiss("_other")
        if wickets:
            delivery["wickets"] = wickets
        if crossed:
            self._striker, self._other = self._other, self._striker
        line = self._line(control, u[8], u[9])
        return delivery, control, f"{bowler.name} to {batter.name}, {result}, {length}, {line}"

    def _dismiss(self, end: str) -> None:
        self.wickets += 1
        if self._next < _PLAYERS:
            setattr(self, end, self._next)
            self._next += 1

    def _line(self, control: int, kind: float, which: float) -> str:
        if kind < self._text.without_cue:
            lines: Sequence[str] = WITHOUT_CUE
        elif kind < self._text.paraphrase:
            lines = PARAPHRASE[control]
        elif kind < self._text.trick:
            lines = TRICK[control]
        else:
            lines = PLAIN[control]
        return lines[int(which * len(lines))]


def _result(hit: int, no_ball: bool) -> str:
    if no_ball:
        return f"no ball {hit} runs" if hit else "no ball"
    named = {0: "no run", 1: "1 run", 4: "FOUR runs", 6: "SIX runs"}
    return named.get(hit, f"{hit} runs")


def _uniforms(rng: np.random.Generator, block: int = 256) -> Iterator[list[float]]:
    while True:
        yield from rng.random((block, _DRAWS)).tolist()
