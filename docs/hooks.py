"""What MkDocs calls while it builds the site.

Generated pages (API, catalogue, gallery, changelog) are added before the pages are read; formulas
become MathML as a page is rendered; figures are put in last. The parts are in ``sitegen``.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
# The site describes this tree, whatever version of rankone is installed.
sys.path[:0] = [str(HERE), str(HERE.parent / "python")]

from mkdocs.config.defaults import MkDocsConfig  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402
from mkdocs.structure.pages import Page  # noqa: E402
from rankone import catalog  # noqa: E402
from sitegen import api, catalogue, gallery, mathematics, svg  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that are generated."""
    generated = {
        "API": ["api/index.md", *({page.package: page.uri} for page in api.available())],
        "Gallery": ["gallery/index.md", *_gallery_navigation()],
    }
    config.nav = [
        {title: generated.get(title, entry) for title, entry in item.items()}
        if isinstance(item, dict)
        else item
        for item in config.nav or []
    ]
    config.watch = [*config.watch, str(HERE / "runs"), str(HERE / "sitegen")]
    return config


def _gallery_navigation() -> list[dict[str, list[str]]]:
    fields: dict[str, list[str]] = {}
    for method in catalog.methods():
        title = method.field[0].upper() + method.field[1:]
        fields.setdefault(title, []).append(f"gallery/{method.slug}.md")
    return [{title: pages} for title, pages in fields.items()]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {page.uri: api.markdown(page) for page in api.available()}
    pages |= {"api/index.md": api.index(), "catalogue.md": catalogue.markdown()}
    pages |= {f"gallery/{method.slug}.md": gallery.markdown(method) for method in catalog.methods()}
    pages["gallery/index.md"] = gallery.index()
    pages["changelog.md"] = (HERE.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    pages["assets/palette.css"] = svg.palette()
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    for path in svg.measured():
        files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert the page's formulas."""
    try:
        return mathematics.with_mathml(html)
    except mathematics.FormulaError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Put the figures in."""
    return gallery.with_figures(output)
