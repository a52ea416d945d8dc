"""The site that `make site` builds: README.md as its front page, and the documents, by Sphinx and MyST.

The Markdown is what GitHub shows, too, so that directives and the order of pages are here and not in the pages. The
source folder is the repository, where links between pages are right as they are.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.writers.html5 import HTML5Translator

import ntt_cli

ROOT = Path(__file__).parent.parent
FRONT = "README"
SHORT = 20
"""Letters of what is never broken: a mean and its deviation in a table, an option with its value."""

NAVIGATION = {
    "Tutorials": ["first-steps", "python"],
    "How-to guides": ["prune-trained", "sparse-initialisation", "ci", "several-processes"],
    "Reference": [
        "commands",
        "api",
        "data-and-models",
        "tasks",
        "methods",
        "patterns",
        "channels",
        "files",
        "formats",
        "bench",
    ],
    "Explanation": ["how-it-works", "results", "experiments", "notebook/README", "reliability", "architecture"],
}
"""The pages in `docs/` by their purpose. A page that is in no list fails the build."""

project = "ntt"
author = "The ntt authors"
project_copyright = author
version = release = ntt_cli.__version__
extensions = ["myst_parser"]
root_doc = FRONT
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md"]
# Not looked through: .venv alone has more files than can be listed in a second.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "docs"]
highlight_language = "text"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"ntt {release}"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_copyright = html_copy_source = html_use_index = False


def toctree(entries: list[str], *options: str) -> str:
    """A table of contents that only the navigation shows."""
    return "\n".join(["\n\n```{toctree}", ":hidden:", *options, "", *entries, "```\n"])


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put the tables of contents behind the pages that have them."""
    if page == FRONT:
        for kind, names in NAVIGATION.items():
            source[0] += toctree([f"docs/{name}" for name in names], f":caption: {kind}")
        source[0] += toctree(["CHANGELOG", "CONTRIBUTING"], ":caption: Project")
    if page == "docs/notebook/README":
        source[0] += toctree(["[0-9]*"], ":glob:")


def mark_short(_app: Sphinx, document: nodes.document) -> None:
    """Give table cells and code of few letters a class, so that they stay in one line."""
    for kind in (nodes.entry, nodes.literal):
        for node in document.findall(kind):
            if len(node.astext()) <= SHORT:
                node["classes"].append("short")


class Site(StandaloneHTMLBuilder):
    """HTML with README.md at `index.html`."""

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return super().get_target_uri("index" if docname == FRONT else docname, typ)

    def get_output_path(self, page_name: str, /) -> Path:
        return super().get_output_path("index" if page_name == FRONT else page_name)


def visit_math(writer: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Formulas as MathML, which browsers show by themselves: MathJax would come from another server."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    writer.body.append(f'<div class="math-wrapper">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_builder(Site, override=True)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", mark_short)
