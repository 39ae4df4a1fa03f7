"""Figures of a report: matplotlib figures rendered once to SVG that follows the page's colours.

Everything is drawn in the few colours of this file. In the SVG each becomes a CSS variable with
that colour as its fallback, so that the page can restyle ink, grid and series for a dark screen,
and the SVG alone still shows as drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

INK = "#1f2328"
MUTED = "#656d76"
GRID = "#d9dee4"
# Told apart by readers who do not see all colours; the order is the order of use.
SERIES = ("#0f62ac", "#c4500c", "#2a7f3e", "#8a3ea8", "#8c6d00", "#b0305c")

# CSS variable -> (colour drawn and shown on a light page, colour shown on a dark page).
PALETTE = {
    "ink": (INK, "#e6e9ed"),
    "muted": (MUTED, "#9aa4af"),
    "grid": (GRID, "#343b44"),
    "series-1": (SERIES[0], "#6cb2f7"),
    "series-2": (SERIES[1], "#f59a5b"),
    "series-3": (SERIES[2], "#6ecb83"),
    "series-4": (SERIES[3], "#cf9be6"),
    "series-5": (SERIES[4], "#dcc14b"),
    "series-6": (SERIES[5], "#f08bab"),
}


@dataclass(frozen=True)
class Figure:
    """A titled figure of one or more panels, each one SVG.

    Attributes:
        title: what it shows.
        caption: how to read it, and under which conditions it was measured.
        panels: SVG documents, laid out side by side where the page is wide enough.
    """

    title: str
    caption: str
    panels: tuple[str, ...]

    @classmethod
    def render(cls, title: str, caption: str, *panels: MatplotlibFigure) -> Figure:
        """Render matplotlib figures, one a panel, and close them.

        Raises:
            ValueError: for no panel.

        Example:
            >>> from rankone.reproduce import Figure, panel
            >>> with panel("T", "tokens/s") as (drawing, axes):
            ...     _ = axes.plot([1, 2], [3, 4])
            >>> Figure.render("Speed", "Tokens per second.", drawing).panels[0][:4]
            '<svg'
        """
        if not panels:
            raise ValueError("panels must hold at least one matplotlib figure, got none")
        return cls(title, caption, tuple(_svg(drawing) for drawing in panels))


@contextmanager
def panel(
    xlabel: str,
    ylabel: str,
    *,
    title: str = "",
    size: tuple[float, float] = (4.8, 3.3),
) -> Iterator[tuple[MatplotlibFigure, Axes]]:
    """A matplotlib figure with one axes in the report's style, made without pyplot's global state.

    Args:
        xlabel, ylabel: axis labels, with units.
        title: shown above the axes.
        size: inches; the default is legible on a telephone and two fit side by side on a desk.

    Yields:
        (figure, axes), to draw in.

    Example:
        >>> from rankone.reproduce import panel
        >>> with panel("n", "error", title="Errors") as (figure, axes):
        ...     axes.get_title(loc="left") or axes.get_title()
        'Errors'
    """
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure as MatplotlibFigure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": MUTED,
        "axes.titlecolor": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=SERIES),
        "lines.linewidth": 2.0,
        "lines.markersize": 5.0,
        "legend.frameon": False,
        "legend.labelcolor": INK,
    }
    with matplotlib.rc_context(style):
        drawing = MatplotlibFigure(figsize=size, layout="constrained")
        axes = drawing.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if title:
            axes.set_title(title)
        yield drawing, axes


def against_length(axes: Axes, lengths: Sequence[int]) -> None:
    """Make both axes logarithmic: powers of two below, and round numbers on the left.

    Args:
        axes: drawn axes.
        lengths: sequence lengths to mark.

    Example:
        >>> from rankone.reproduce import against_length, panel
        >>> with panel("tokens", "seconds") as (figure, axes):
        ...     _ = axes.plot([512, 1024], [0.1, 0.2])
        ...     against_length(axes, [512, 1024])
        ...     axes.get_xscale()
        'log'
    """
    from matplotlib.ticker import EngFormatter, LogLocator

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(lengths, [length_label(length) for length in lengths])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.minorticks_off()


def length_label(length: int) -> str:
    """A sequence length as a tick label.

    Args:
        length: in tokens.

    Returns:
        The number, in units of K = 1024 where it is a multiple.

    Example:
        >>> from rankone.reproduce import length_label
        >>> length_label(512), length_label(16384)
        ('512', '16K')
    """
    return f"{length // 1024}K" if length >= 1024 and length % 1024 == 0 else str(length)


def _svg(drawing: MatplotlibFigure) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Text stays text: small files, the page's own font, found by the browser's search.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rankone"}):
        drawing.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    drawing.clear()
    return _themed(buffer.getvalue())


def _themed(document: str) -> str:
    """The <svg> element alone, with palette colours as CSS variables."""
    svg = document[document.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for name, (light, _) in PALETTE.items():
        pattern = rf"(?<=[:\s]){light}(?=[;\"\s])"
        svg = re.sub(pattern, f"var(--{name}, {light})", svg, flags=re.IGNORECASE)
    return svg


def inlined(svg: str, prefix: str) -> str:
    """``svg`` as it stands inside an HTML page: no namespaces, no fixed size, its own ids.

    Args:
        svg: an <svg> element.
        prefix: put before every id, so that two figures of one page never share one.
    """
    head, _, body = svg.partition(">")
    head = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"', "", head)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
    return f"{head}>{body}"
