"""How a reproduction is asked for and what it returns."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rankone._progress import track
from rankone.reproduce._claims import Claim, Measured
from rankone.reproduce._figures import Figure

Item = TypeVar("Item")
Scale = TypeVar("Scale")


@dataclass(frozen=True)
class Settings:
    """How to run a reproduction.

    Attributes:
        full: the paper's scale rather than about a minute on two cores.
        device: a torch device, such as ``"cpu"`` or ``"cuda"``.
        random_state: seed of everything random.
        progress: show progress bars, on a terminal.
        out: folder for files that a method writes beside the report, or None.
        data: file or folder of the user's own data, for the methods that say they take one.
        n_jobs: jobs of a simulation sweep, as in joblib; results do not depend on it.
        overrides: fields of the method's scale to replace, such as ``{"lengths": (64, 128)}``.
    """

    full: bool = False
    device: str = "cpu"
    random_state: int = 0
    progress: bool = True
    out: Path | None = None
    data: Path | None = None
    n_jobs: int = 1
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def scale(self, *, quick: Scale, full: Scale) -> Scale:
        """The scale of this mode, two instances of one dataclass, with the overrides applied.

        Raises:
            ValueError: for an override that the scale has no field for.
        """
        chosen = full if self.full else quick
        names = {entry.name for entry in dataclasses.fields(chosen)}  # type: ignore[arg-type]
        unknown = sorted(set(self.overrides) - names)
        if unknown:
            raise ValueError(
                f"overrides must name fields of {type(chosen).__name__} "
                f"({', '.join(sorted(names))}), got {', '.join(unknown)}"
            )
        return dataclasses.replace(chosen, **self.overrides)  # type: ignore[type-var]

    def track(
        self, items: Iterable[Item], description: str, *, total: int | None = None
    ) -> Iterator[Item]:
        """Yield ``items`` with a progress bar, unless progress is off."""
        return track(items, description, total=total, enabled=self.progress)


NOT_MEASURED = "\N{EN DASH}"
TABLE_DIGITS = 4  # enough to quote published timings as they were printed


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: what it lists.
        columns: headings, with units.
        rows: cells, a row each; None is a cell that was not measured.
        note: where the numbers come from and how they were measured.
        published: the numbers, or those of the columns that say so, are quoted from a publication
            and were not measured here.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Measured | None, ...], ...]
    note: str = ""
    published: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"rows of {self.title!r} must have {len(self.columns)} cells, got {len(row)}"
                )


@dataclass(frozen=True)
class Reproduction:
    """What a method claims, and what came out.

    Attributes:
        slug: the method's slug.
        claims: held or not, in the order of the method's page.
        tables: measurements, and published numbers labelled as such.
        figures: rendered figures.
        seconds: wall time of the run, filled in by the runner.
        settings: mode, seed, versions, processor, threads and what the method adds.
    """

    slug: str
    claims: tuple[Claim, ...]
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    seconds: float = 0.0
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are claims and every one holds."""
        return bool(self.claims) and all(claim.passed for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dictionaries, strings and numbers, for JSON."""
        return _encode(dataclasses.asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Reproduction:
        """The inverse of :meth:`to_dict`."""
        data = _decode(data)
        return cls(
            slug=data["slug"],
            claims=tuple(Claim(**claim) for claim in data["claims"]),
            tables=tuple(Table(**table) for table in data["tables"]),
            figures=tuple(Figure(**figure) for figure in data["figures"]),
            seconds=data["seconds"],
            settings=data["settings"],
        )


# JSON has no NaN and no infinity; they are written as one-entry objects under this key.
_NON_FINITE = "non_finite"


def _encode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {_NON_FINITE: str(value)}
    return value


def _decode(value: Any) -> Any:
    """Lists as tuples, which is what the frozen results hold."""
    if isinstance(value, Mapping):
        if set(value) == {_NON_FINITE}:
            return float(value[_NON_FINITE])
        return {key: _decode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_decode(entry) for entry in value)
    return value
