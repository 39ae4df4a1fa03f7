"""The catalogue page: every method by field, with links to its paper, its code and its run."""

from __future__ import annotations

from itertools import groupby

from rankone import catalog

FAMILY_TITLES = {
    "linear_attention": "linear attention",
    "delta_rule": "delta rule",
    "selective_scan_2d": "2D selective scan",
    "permutation_bfs": "BFS over permutations",
}


def guide(field: str) -> str:
    """The page of a field's guide, in the folder of the guides."""
    return field.lower().replace(" ", "-") + ".md"


def entry_link(name: str) -> str:
    """A dotted name as a link to its API entry."""
    return f"[`{name.removeprefix('rankone.')}`][{name}]"


def markdown() -> str:
    """The page's Markdown."""
    methods = catalog.methods()
    parts = [
        "---",
        "hide: [navigation, toc]",
        "---",
        "",
        "# Catalogue",
        "",
        f"The {len(methods)} published methods of the library. Each name leads to the method's "
        "reproduction: what its paper claims and what was measured. Entry points lead to the API; "
        "a kernel family names the hand-written kernel that does the method's work. An extra is "
        "installed with `pip install 'rankone[EXTRA]'`.",
        "",
    ]
    for field, group in groupby(methods, key=lambda method: method.field):
        parts += [
            f"## {field[0].upper()}{field[1:]}",
            "",
            f"The guide: [{field}](guides/{guide(field)}).",
            "",
            "| method | entry points | kernel family | extra | paper |",
            "| --- | --- | --- | --- | --- |",
            *map(_row, group),
            "",
        ]
    return "\n".join(parts)


def _row(method: catalog.Method) -> str:
    family = ""
    if method.family:
        page = method.family.replace("_", "-")
        family = f"[{FAMILY_TITLES[method.family]}](kernels/{page}.md)"
    cells = (
        f"[{method.title}](gallery/{method.slug}.md)",
        "<br>".join(entry_link(name) for name in method.entry_points),
        family,
        f"`{method.extra}`" if method.extra else "",
        paper(method.paper),
    )
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def paper(cited: catalog.Paper) -> str:
    """A paper with its identifier as the link."""
    if cited.url is None:
        return cited.title
    return f"{cited.title}, [arXiv&nbsp;{cited.arxiv}]({cited.url})"
