"""
``python -m selfheal demo``: an application breaks in five real ways, with selfheal and without.

Needs the extra ``demo``; nothing of it is imported before `main` is called.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

from selfheal.errors import MissingExtraError
from selfheal.integrations import missing_extra, require


if TYPE_CHECKING:
    from selfheal.demo.meter import Score
    from selfheal.demo.screen import Result, Screen
    from selfheal.demo.stage import Stage

_WHO = "python -m selfheal demo"


def main(*, json: bool = False, quick: bool = False, port: int | None = None) -> int:
    """
    Play the five faults and show what comes of them: a minute and a half or so.

    Args:
        json: Print nothing but the result on stdout, as JSON; the timeline goes to stderr.
        quick: Watch each fault for a shorter time: less than a minute in all.
        port: Where the application that is healed can be watched meanwhile, from this machine: metrics and page.

    Returns:
        The exit status: 0 if the application with selfheal has come through all five, 1 if not, 130 if interrupted.

    Raises:
        MissingExtraError: If the extra ``demo`` is not installed.
        ConfigError: If *port* is taken.
    """
    _require_extra()
    from selfheal.demo.screen import Screen
    from selfheal.demo.stage import Stage
    from selfheal.demo.world import five_faults

    logging.getLogger("psycopg").addHandler(logging.NullHandler())  # it would say on stderr what is told better here
    screen = Screen(_console(sys.stderr if json else sys.stdout), live=not json and sys.stdout.isatty())
    stage = Stage(screen, port=port)
    faults = five_faults(outage=4, limit=8) if quick else five_faults()
    try:
        with _terminating(), screen:
            stage.play(faults)
    except KeyboardInterrupt:
        print("interrupted: the servers are stopped, their files are removed", file=sys.stderr)
        return 130
    if json:
        _print_json(stage.results)
    else:
        _show(screen, stage)
    return 0 if all(result.healed.healed is not None for result in stage.results) else 1


def _require_extra() -> None:
    require("rich", who=_WHO, package="rich", extra="demo")
    try:
        require("psycopg", who=_WHO, package="psycopg[binary]", extra="demo")
        require("psycopg_pool", who=_WHO, package="psycopg-pool", extra="demo")
    except MissingExtraError:
        raise
    except ImportError as exc:  # also if it is there, but neither of its implementations
        raise missing_extra(_WHO, package="psycopg[binary]", extra="demo") from exc


def _console(stream: Any) -> Any:
    from rich.console import Console

    with contextlib.suppress(AttributeError, ValueError):
        stream.reconfigure(errors="replace")  # a terminal without these characters shows question marks
    # A file has no width of its own.
    width = None if stream.isatty() or "COLUMNS" in os.environ else 100
    return Console(file=stream, width=width, highlight=False)


@contextlib.contextmanager
def _terminating() -> Generator[None]:
    """
    Make SIGTERM and SIGHUP clean up as Ctrl-C does: the servers are children that would outlive this process.
    """

    def interrupt(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_json(results: list[Result]) -> None:
    import json

    def numbers(score: Score, detected: float | None) -> dict[str, float | None]:
        return {
            "detected_s": _rounded(detected),
            "healed_s": _rounded(score.healed),
            "failed_requests": score.failed,
            "longest_stall_s": _rounded(score.longest_stall),
        }

    faults = [
        {
            "fault": result.title,
            "with": numbers(result.healed, result.detected),
            "without": numbers(result.twin, None),
        }
        for result in results
    ]
    print(
        json.dumps({"healed": sum(result.healed.healed is not None for result in results), "faults": faults}, indent=2)
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _show(screen: Screen, stage: Stage) -> None:
    from selfheal.records import tell

    screen.table(stage.results)
    for number in (2, 4, 3, 5, 1):
        incident = stage.incident(number)
        if incident is not None and incident.actions:
            screen.story(f"What selfheal did in fault {number}", tell(incident))
            break
