"""What an estimator's ``summary()`` returns: a table for people and a frame for programs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd


@dataclass(frozen=True)
class Summary:
    """A titled table of estimates.

    Attributes:
        title: what was estimated, such as ``"Robust regression, 200 rows"``.
        frame: one row an estimate; columns such as estimate, std_error, lower, upper, p_value.
        notes: what a reader must know to trust the numbers, one sentence each.

    Example:
        >>> import pandas as pd
        >>> from rankone.stats._summary import Summary
        >>> print(Summary("Slope", pd.DataFrame({"estimate": [2.0]}, index=["x"]), ("n = 3.",)))
        Slope
           estimate
        x         2
        n = 3.
    """

    title: str
    frame: pd.DataFrame
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        table = self.frame.to_string(float_format=lambda value: f"{value:.4g}")
        return "\n".join((self.title, table, *self.notes))

    def _repr_html_(self) -> str:
        from html import escape

        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        table = self.frame.to_html(float_format="{:.4g}".format)
        return f"<h4>{escape(self.title)}</h4>{table}{notes}"
