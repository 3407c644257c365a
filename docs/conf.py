"""The site of these pages; `make docs` builds it into build/site and takes no warning.

The source folder is the repository itself, so that a relative link means the same on a code host and on the site. Pages
are plain Markdown: what stands where in the sidebar is told here and not in them (decision 82), and a page that stands
nowhere is a warning.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

HOME = "docs/index"
SIDEBAR = {
    "Begin": ["docs/quickstart", "docs/page", "docs/choosing", "docs/anomaly", "docs/troubleshooting"],
    "Train and export": ["docs/training", "docs/weights", "docs/export", "docs/cli", "models/README"],
    "Ask": ["docs/api", "docs/bulk", "docs/search", "docs/clients/index", "docs/client", "docs/errors"],
    "Serve": [
        "docs/operations", "docs/deployment", "docs/kubernetes", "docs/scaling", "docs/engines", "docs/tensorrt",
        "docs/settings", "docs/metrics", "docs/security",
    ],
    "Know why": [
        "docs/results", "benchmarks/README", "docs/architecture", "docs/decisions/README", "CONTRIBUTING", "CHANGELOG",
    ],
}  # fmt: skip
# A page that leads to others in a folder: their names, as a pattern relative to it.
CHAPTERS = {"docs/clients/index": "*", "benchmarks/README": "results/*", "docs/decisions/README": "[0-9]*"}

project = "Maeve"
author = "the Maeve authors"
release = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["version"]

root_doc = HOME
include_patterns = [
    "docs/**.md", "benchmarks/README.md", "benchmarks/results/*.md", "models/README.md", "CHANGELOG.md",
    "CONTRIBUTING.md",
]  # fmt: skip
# Folders that hold no page; what is named here is not walked through.
exclude_patterns = [".?*", "build", "dist", "runs", "data", "bundles", "engines", "shared", "tests"]
extensions = ["myst_parser", "sphinx_copybutton"]

myst_heading_anchors = 4  # spelled as on a code host; a link to one that is not there is a warning
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"Maeve {release}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).with_name("_static") / "scorer.js")  # not relative to this file
html_copy_source = False
html_show_copyright = False
templates_path = ["_templates"]
html_additional_pages = {"index": "home.html"}  # the home page lies in docs/
html_theme_options = {
    "light_logo": "icon.svg",
    "dark_logo": "icon-dark.svg",
    # The colours of the service's own page and of the reports.
    "light_css_variables": {
        "color-background-primary": "#ffffff",
        "color-background-secondary": "#f7f7f5",
        "color-background-border": "#dedfdc",
        "color-foreground-primary": "#1c1d20",
        "color-foreground-muted": "#5d6066",
        "color-brand-primary": "#2456c7",
        "color-brand-content": "#2456c7",
        "color-brand-visited": "#2456c7",
    },
    "dark_css_variables": {
        "color-background-primary": "#16171a",
        "color-background-secondary": "#1f2125",
        "color-background-border": "#35383e",
        "color-foreground-primary": "#ececea",
        "color-foreground-muted": "#a2a5ab",
        "color-brand-primary": "#8db0ff",
        "color-brand-content": "#8db0ff",
        "color-brand-visited": "#8db0ff",
    },
}


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Give the home page and each chapter the table of what is below it, which no reader of the file needs to see."""
    if page == HOME:
        for caption, names in SIDEBAR.items():
            source[0] += toctree(caption, [f"/{name}" for name in names if name in app.env.found_docs])
    elif page in CHAPTERS:
        source[0] += toctree(None, [CHAPTERS[page]])


def toctree(caption: str | None, entries: list[str]) -> str:
    options = [":hidden:", ":glob:"] + ([f":caption: {caption}"] if caption else [])
    if not entries:
        return ""
    return "\n\n```{toctree}\n" + "\n".join([*options, "", *entries]) + "\n```\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_navigation)
