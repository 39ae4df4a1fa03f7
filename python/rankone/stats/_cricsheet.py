"""Cricsheet match files as two tables: matches and deliveries.

Reads JSON 1.x and the legacy YAML 0.9x from mappings, files, folders and zips. A delivery's key is
(match_id, innings, over, ball); ``ball`` counts every delivery of the over in file order, because
the legacy keys 0.1 and 0.10 are one number once parsed.
"""

from __future__ import annotations

import datetime
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rankone._optional import require

KEY = ("match_id", "innings", "over", "ball")
_EXTRAS = ("wides", "noballs", "byes", "legbyes", "penalty")
_NUMBERS = ("innings", "over", "ball", "runs_batter", "runs_extras", "runs_total")
DELIVERY_COLUMNS = (
    *KEY,
    *("team", "opponent", "batter", "non_striker", "bowler"),
    *("runs_batter", "runs_extras", "runs_total", "non_boundary"),
    *_EXTRAS,
    "wickets",
)
MATCH_COLUMNS = (
    *("match_id", "date", "venue", "team_1", "team_2", "toss_winner", "toss_decision"),
    *("winner", "result", "method", "overs"),
)
_SUFFIXES = (".json", ".yaml", ".yml")
_SINGLE_MATCH_ID = "match"  # of a mapping given alone, which has no file name


class CricketData(NamedTuple):
    """What :func:`load_cricsheet` returns.

    Attributes:
        matches: one row a match.
        deliveries: one row a delivery, in file order.
    """

    matches: pd.DataFrame
    deliveries: pd.DataFrame


def load_cricsheet(
    source: Mapping[Any, Any] | str | Path | Iterable[str | Path],
    *,
    match_types: Iterable[str] | None = ("ODI",),
    include_super_overs: bool = False,
) -> CricketData:
    """Read matches in Cricsheet's JSON 1.x or legacy YAML 0.9x format.

    Memory is about 0.5 kB a delivery besides the file being read.

    Args:
        source: one match as a mapping, a dict ``{match_id: mapping}``, the path of a .json, .yaml,
            .yml or .zip file or of a folder of them, or an iterable of such paths. The id of a
            match in a file is the file's name without its ending; a single mapping is
            ``"match"``.
        match_types: values of ``info.match_type`` to keep; None keeps all.
        include_super_overs: keep super-over innings; without them the other innings still keep
            the numbers of their places in the file.

    Returns:
        ``matches`` with match_id, date (the first, a Timestamp), venue, team_1, team_2,
        toss_winner, toss_decision, winner (None when tied or without result), result, method and
        overs; ``deliveries`` with match_id, innings (from 1), over (from 0), ball (from 1, every
        delivery counted), team, opponent, batter, non_striker, bowler, runs_batter, runs_extras,
        runs_total, non_boundary, wides, noballs, byes, legbyes, penalty and wickets (a tuple of
        (player_out, kind)).

    Raises:
        ValueError: for a match that lacks a field, naming both; two matches of one id; a file of
            another kind; nothing to read.
        TypeError: for a source of another type.
        FileNotFoundError: for a path that is not there.
        ImportError: for YAML without PyYAML.

    Example:
        >>> from rankone.stats.batting import load_cricsheet, simulate_odi
        >>> odi = simulate_odi(2, 2, overs=5, random_state=0)
        >>> data = load_cricsheet(odi.cricsheet)
        >>> len(data.matches), sorted(data.deliveries["innings"].unique().tolist())
        (2, [1, 2])
    """
    if isinstance(match_types, str):
        match_types = (match_types,)
    kept_types = None if match_types is None else frozenset(match_types)
    matches: dict[str, tuple[Any, ...]] = {}
    deliveries: list[tuple[Any, ...]] = []
    seen: set[str] = set()
    for match_id, match in _matches(source):
        if match_id in seen:
            raise ValueError(f"source must hold each match once, got match {match_id!r} twice")
        seen.add(match_id)
        info = _mapping(match_id, match, "info", "")
        if kept_types is not None and _field(match_id, info, "match_type", "info.") not in (
            kept_types
        ):
            continue
        matches[match_id] = _match_row(match_id, info)
        deliveries.extend(_delivery_rows(match_id, match, info, include_super_overs))
    if not seen:
        raise ValueError("source must hold at least one match, got none")
    return CricketData(_match_frame(matches), _delivery_frame(deliveries))


def _matches(source: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(source, Mapping):
        if "info" in source or "innings" in source:
            yield _SINGLE_MATCH_ID, source
            return
        for match_id, match in source.items():
            yield str(match_id), match
    elif isinstance(source, str | Path):
        yield from _read(Path(source))
    elif isinstance(source, Iterable) and not isinstance(source, bytes):
        for path in source:
            if not isinstance(path, str | Path):
                raise TypeError(f"source must hold paths, got a {type(path).__name__}")
            yield from _read(Path(path))
    else:
        raise TypeError(f"source must be a mapping, a path or paths, got a {type(source).__name__}")


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    if path.is_dir():
        for entry in sorted(path.iterdir()):
            if entry.suffix.lower() in (*_SUFFIXES, ".zip"):
                yield from _read(entry)
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                member = Path(name)
                if member.suffix.lower() in _SUFFIXES:
                    yield member.stem, _decode(member, archive.read(name))
    elif path.suffix.lower() in _SUFFIXES:
        yield path.stem, _decode(path, path.read_bytes())
    else:
        if not path.exists():
            raise FileNotFoundError(f"source must exist, got {path}")
        raise ValueError(f"source must be .json, .yaml, .yml, .zip or a folder, got {path.name}")


def _decode(path: Path, content: bytes) -> Any:
    if path.suffix.lower() == ".json":
        try:
            return json.loads(content)
        except json.JSONDecodeError as error:
            raise ValueError(f"match {path.stem!r} must be valid JSON: {error}") from error
    yaml = require("yaml", extra="stats", package="PyYAML")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(content, Loader=loader)
    except yaml.YAMLError as error:
        raise ValueError(f"match {path.stem!r} must be valid YAML: {error}") from error


def _field(match_id: str, holder: Any, name: str, where: str, old_name: str | None = None) -> Any:
    """``holder[name]``, or under its legacy name; an error names the match and the field."""
    if isinstance(holder, Mapping):
        if holder.get(name) is not None:
            return holder[name]
        if old_name is not None and holder.get(old_name) is not None:
            return holder[old_name]
    raise ValueError(f"match {match_id!r} lacks the field {where}{name}")


def _mapping(match_id: str, holder: Any, name: str, where: str) -> Mapping[str, Any]:
    value = _field(match_id, holder, name, where)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"match {match_id!r}: {where}{name} must be a mapping, got a {type(value).__name__}"
        )
    return value


def _optional_mapping(
    match_id: str, holder: Mapping[str, Any], name: str, where: str
) -> Mapping[str, Any]:
    return _mapping(match_id, holder, name, where) if holder.get(name) is not None else {}


def _list(match_id: str, holder: Any, name: str, where: str) -> list[Any]:
    value = _field(match_id, holder, name, where)
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"match {match_id!r}: {where}{name} must be a list, got a {type(value).__name__}"
        )
    return list(value)


def _match_row(match_id: str, info: Mapping[str, Any]) -> tuple[Any, ...]:
    dates = _list(match_id, info, "dates", "info.")
    if not dates:
        raise ValueError(f"match {match_id!r} lacks the field info.dates")
    try:
        date = pd.Timestamp(dates[0])
    except (TypeError, ValueError) as error:
        raise ValueError(f"match {match_id!r}: info.dates must be dates: {error}") from error
    if not isinstance(dates[0], str | datetime.date) or pd.isna(date):
        raise ValueError(f"match {match_id!r}: info.dates must be dates, got {dates[0]!r}")
    team_1, team_2 = _teams(match_id, info)
    outcome = _optional_mapping(match_id, info, "outcome", "info.")
    toss = _optional_mapping(match_id, info, "toss", "info.")
    return (
        *(match_id, date, info.get("venue"), team_1, team_2),
        *(toss.get("winner"), toss.get("decision")),
        *(outcome.get("winner"), outcome.get("result"), outcome.get("method")),
        info.get("overs"),
    )


def _teams(match_id: str, info: Mapping[str, Any]) -> tuple[str, str]:
    teams = _list(match_id, info, "teams", "info.")
    if len(teams) != 2:
        raise ValueError(f"match {match_id!r}: info.teams must name two, got {len(teams)}")
    return teams[0], teams[1]


def _delivery_rows(
    match_id: str, match: Mapping[str, Any], info: Mapping[str, Any], super_overs: bool
) -> Iterator[tuple[Any, ...]]:
    teams = _teams(match_id, info)
    for number, entry in enumerate(_list(match_id, match, "innings", ""), start=1):
        where = f"innings[{number}]."
        innings, is_super_over = _innings(match_id, entry, where)
        if is_super_over and not super_overs:
            continue
        team = _field(match_id, innings, "team", where)
        if team not in teams:
            raise ValueError(
                f"match {match_id!r}: {where}team must be one of info.teams, got {team!r}"
            )
        opponent = teams[1] if team == teams[0] else teams[0]
        if innings.get("forfeited"):
            continue
        for over, ball, delivery in _balls(match_id, innings, where):
            yield (
                *(match_id, number, over, ball, team, opponent),
                *_delivery(match_id, delivery, f"{where}over {over} ball {ball}: "),
            )


def _innings(match_id: str, entry: Any, where: str) -> tuple[Mapping[str, Any], bool]:
    """The innings itself and whether it is a super over; legacy files wrap it in a one-key map."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"match {match_id!r}: {where[:-1]} must be a mapping")
    if "team" not in entry and len(entry) == 1:
        ((name, innings),) = entry.items()
        if isinstance(innings, Mapping):
            return innings, "super over" in str(name).lower()
    return entry, bool(entry.get("super_over"))


def _balls(match_id: str, innings: Mapping[str, Any], where: str) -> Iterator[tuple[int, int, Any]]:
    if "deliveries" in innings and "overs" not in innings:
        last_over, ball = None, 0
        for wrapped in _list(match_id, innings, "deliveries", where):
            if not isinstance(wrapped, Mapping) or len(wrapped) != 1:
                raise ValueError(f"match {match_id!r}: {where}deliveries must be one-key maps")
            ((label, delivery),) = wrapped.items()
            try:
                over = int(float(label))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"match {match_id!r}: {where}deliveries must be keyed by over.ball, "
                    f"got {label!r}"
                ) from error
            ball = ball + 1 if over == last_over else 1
            last_over = over
            yield over, ball, delivery
        return
    for entry in _list(match_id, innings, "overs", where):
        over = _field(match_id, entry, "over", f"{where}overs.")
        deliveries = _list(match_id, entry, "deliveries", f"{where}over {over}: ")
        for ball, delivery in enumerate(deliveries, start=1):
            yield over, ball, delivery


def _delivery(match_id: str, delivery: Any, where: str) -> tuple[Any, ...]:
    runs = _mapping(match_id, delivery, "runs", where)
    extras = _optional_mapping(match_id, delivery, "extras", where)
    wickets = delivery.get("wickets")
    if wickets is None:
        wickets = delivery.get("wicket")
    if wickets is None:
        wickets = ()
    elif isinstance(wickets, Mapping):
        wickets = (wickets,)
    elif not isinstance(wickets, list | tuple):
        raise ValueError(f"match {match_id!r}: {where}wickets must be a list, got {wickets!r}")
    return (
        _field(match_id, delivery, "batter", where, "batsman"),
        _field(match_id, delivery, "non_striker", where),
        _field(match_id, delivery, "bowler", where),
        _field(match_id, runs, "batter", f"{where}runs.", "batsman"),
        _field(match_id, runs, "extras", f"{where}runs."),
        _field(match_id, runs, "total", f"{where}runs."),
        bool(runs.get("non_boundary")),
        *(extras.get(name) or 0 for name in _EXTRAS),
        tuple(
            (
                _field(match_id, wicket, "player_out", f"{where}wickets."),
                _field(match_id, wicket, "kind", f"{where}wickets."),
            )
            for wicket in wickets
        ),
    )


def _match_frame(matches: Mapping[str, tuple[Any, ...]]) -> pd.DataFrame:
    columns = list(zip(*matches.values(), strict=True)) or [()] * len(MATCH_COLUMNS)
    frame = pd.DataFrame(
        {
            # Object columns keep None, which the inferred string type would turn into NaN.
            name: pd.Series(column, dtype="datetime64[ns]" if name == "date" else object)
            for name, column in zip(MATCH_COLUMNS, columns, strict=True)
        }
    )
    frame["overs"] = pd.to_numeric(frame["overs"]).astype("float64")
    return frame


def _delivery_frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    columns = list(zip(*rows, strict=True)) or [()] * len(DELIVERY_COLUMNS)
    frame = {}
    for name, column in zip(DELIVERY_COLUMNS, columns, strict=True):
        if name in (*_NUMBERS, *_EXTRAS):
            frame[name] = pd.Series(_whole(name, column, columns[0]))
        elif name == "non_boundary":
            frame[name] = pd.Series(np.array(column, dtype=bool))
        else:
            frame[name] = pd.Series(column, dtype=object)
    return pd.DataFrame(frame)


def _whole(name: str, column: tuple[Any, ...], match_ids: tuple[str, ...]) -> np.ndarray:
    """``column`` as int64; an entry that is no whole number of at least 0 is an error."""
    values = np.array(column) if column else np.zeros(0, dtype=np.int64)
    if values.dtype.kind in "iu" and (values >= 0).all():
        return values.astype(np.int64)
    for match_id, value in zip(match_ids, column, strict=True):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(
                f"match {match_id!r}: {name} must be a whole number of at least 0, got {value!r}"
            )
    return values.astype(np.int64)
