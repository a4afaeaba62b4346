"""
Every Python block of the pages and of the README runs, in order, in one namespace a page.

A block that needs a database says ``DSN = postgres()`` in an invisible block
(an HTML comment ``invisible-code-block: python``) before it.
"""

from __future__ import annotations

import functools
import pathlib

from collections.abc import Callable
from typing import Any

import pytest

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from selfheal.testing.servers import Postgres


@functools.cache
def postgres() -> str:
    """
    Connection string of a real PostgreSQL that all pages share. It ends with the process.
    """
    return Postgres().start().dsn


def _prepare(namespace: dict[str, Any]) -> None:
    namespace["postgres"] = postgres


class Pages:
    """
    The README lies above this folder, so the blocks are found by a plugin rather than by this file's own hooks.
    """

    pytest_collect_file: Callable[..., Any] = staticmethod(
        Sybil(
            parsers=[PythonCodeBlockParser(), SkipParser()],
            path=str(pathlib.Path(__file__).parents[1]),
            patterns=["README.md", "docs/*.md", "docs/**/*.md"],
            setup=_prepare,
        ).pytest()
    )


def pytest_configure(config: pytest.Config) -> None:
    """
    Called by pytest.
    """
    config.pluginmanager.register(Pages())
