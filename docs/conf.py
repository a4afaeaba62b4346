"""
How Sphinx builds these pages. The reference comes from docstrings, the tables from `selfheal.names`.
"""

from __future__ import annotations

import enum
import logging

from collections.abc import Iterable

from sphinx.application import Sphinx

import selfheal

from selfheal import names


project = "selfheal"
author = "The selfheal authors"
version = release = selfheal.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.mermaid"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "selfheal"

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
myst_enable_extensions = ["substitution"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(head), *map(list, rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


myst_substitutions = {
    "events": _table(
        ("event", "level", "fields", "meaning"),
        (
            (f"`{name}`", logging.getLevelName(event.level).lower(), _code(event.fields), event.meaning)
            for name, event in names.EVENTS.items()
        ),
    ),
    "metrics": _table(
        ("metric", "type", "labels", "meaning"),
        ((f"`{name}`", metric.type, _code(metric.labels), metric.meaning) for name, metric in names.METRICS.items()),
    ),
}


def _choose(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """
    Show what the members of an enumeration are, and leave names of the front page out where their room is described.
    """
    if isinstance(obj, enum.Enum):
        return False
    elsewhere = app.env.docname != "reference/selfheal"
    return True if what == "module" and elsewhere and name in selfheal.__all__ else None


def setup(app: Sphinx) -> None:
    """
    Called by Sphinx.
    """
    app.connect("autodoc-skip-member", _choose)
