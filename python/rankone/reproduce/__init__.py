"""What each method claims, measured: one module a slug, and the report they share.

A method's module has ``run(settings: Settings) -> Reproduction``. :func:`reproduce` runs them by
slug, shows their claims and writes a JSON file and one self-contained HTML page.
"""

from rankone._namespace import public_names
from rankone.reproduce._claims import Claim, shown
from rankone.reproduce._figures import MUTED, SERIES, Figure, against_length, length_label, panel
from rankone.reproduce._page import Passage, Section, html_page
from rankone.reproduce._reproduction import Reproduction, Settings, Table
from rankone.reproduce._runner import Failure, Run, read_report, reproduce, run_one, write_report

__all__ = [
    "MUTED",
    "SERIES",
    "Claim",
    "Failure",
    "Figure",
    "Passage",
    "Reproduction",
    "Run",
    "Section",
    "Settings",
    "Table",
    "against_length",
    "html_page",
    "length_label",
    "panel",
    "read_report",
    "reproduce",
    "run_one",
    "shown",
    "write_report",
]


def __dir__() -> list[str]:
    return public_names(globals())
