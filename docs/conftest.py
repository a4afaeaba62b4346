"""
Every Python block of the pages and of the README runs, in order, in one namespace a page.

A block of ``text`` is what was printed since the last one; seconds may differ, for times are real.
A block that needs a database says ``DSN = postgres()`` in an invisible block
(an HTML comment ``invisible-code-block: python``) before it.
"""

from __future__ import annotations

import doctest
import functools
import pathlib
import re

from collections.abc import Callable
from typing import Any

import pytest

from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from selfheal.testing.servers import Postgres


@functools.cache
def postgres() -> str:
    """
    Connection string of a real PostgreSQL that all pages share. It ends with the process.
    """
    return Postgres().start().dsn


def _prepare(namespace: dict[str, Any]) -> None:
    printed: list[str] = []
    namespace.update(postgres=postgres, printed=printed, print=lambda *words: printed.append(" ".join(map(str, words))))


def _compare(example: Example) -> str | None:
    """
    What a page shows as printed, beside what was printed.
    """
    printed = example.namespace["printed"]
    was, shown = "\n".join(printed), str(example.parsed).rstrip("\n")
    printed.clear()
    return None if _without_seconds(shown) == _without_seconds(was) else f"shown:\n{shown}\n\nprinted:\n{was}"


def _without_seconds(text: str) -> list[str]:
    return [re.sub(r"[+]?\d+\.\d+ s\b", "0 s", line).strip() for line in text.splitlines()]


class Pages:
    """
    The README lies above this folder, so the blocks are found by a plugin rather than by this file's own hooks.
    """

    pytest_collect_file: Callable[..., Any] = staticmethod(
        Sybil(
            parsers=[
                PythonCodeBlockParser(doctest_optionflags=doctest.ELLIPSIS),
                CodeBlockParser("text", _compare),
                SkipParser(),
            ],
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
