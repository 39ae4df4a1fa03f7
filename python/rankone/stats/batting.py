"""Batting in one-day cricket: from ball-by-ball events and commentary to a measure and its models.

The pipeline of "Impact of a Batter in ODI Cricket Implementing Regression Models from Match
Commentary" (2023): ball-by-ball files and commentary, shot control, pitch and weather, one row an
innings, a batting measure, regression models of it. The paper's lexicon, formula of Effective Runs,
features and meaning of accuracy were not found in what could be read of it; those here are this
library's own, stated where they stand and replaceable. "Accuracy" is read as 100 R2.
"""

from __future__ import annotations

from rankone._namespace import public_names
from rankone.stats._batting_form import (
    POST_INNINGS,
    TimeOrderedSplit,
    add_form_features,
    check_leakage,
)
from rankone.stats._batting_models import BatterImpactRegressor, compare_models
from rankone.stats._commentary import (
    CommentaryParser,
    Cue,
    ShotReading,
    align_commentary,
)
from rankone.stats._cricsheet import CricketData, load_cricsheet
from rankone.stats._effective_runs import (
    PITCH_WEIGHTS,
    WEATHER_WEIGHTS,
    EffectiveRuns,
    effective_runs,
    impact_share,
)
from rankone.stats._innings import build_innings_table
from rankone.stats._match_conditions import MatchConditionExtractor
from rankone.stats._simulated_odi import SimulatedODI, simulate_odi

__all__ = [
    "PITCH_WEIGHTS",
    "POST_INNINGS",
    "WEATHER_WEIGHTS",
    "BatterImpactRegressor",
    "CommentaryParser",
    "CricketData",
    "Cue",
    "EffectiveRuns",
    "MatchConditionExtractor",
    "ShotReading",
    "SimulatedODI",
    "TimeOrderedSplit",
    "add_form_features",
    "align_commentary",
    "build_innings_table",
    "check_leakage",
    "compare_models",
    "effective_runs",
    "impact_share",
    "load_cricsheet",
    "simulate_odi",
]


def __dir__() -> list[str]:
    return public_names(globals())
