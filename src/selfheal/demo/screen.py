"""
What is seen: a chapter for each fault, a live view where there is a terminal, a table and a story at the end.
"""

from __future__ import annotations

import textwrap
import time

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from selfheal.demo.application import LOG_BUDGET, WITH, WITHOUT, Application
from selfheal.demo.meter import Request, Score


_STYLES: Final = {WITH: "green", WITHOUT: "magenta", "selfheal": "cyan"}
_CELL: Final = 0.5  # seconds
_LEGEND: Final = "a cell is half a second: █ all well  ▅ some fail  ▂ all fail  · nothing ends"
#: Columns before the sentence of a line.
_INDENT: Final = 26


class Result(NamedTuple):
    """
    How both applications came through one fault.

    Attributes:
        title: Of the fault.
        detected: Seconds until selfheal had confirmed the fault, or `None`.
        healed: The application with selfheal.
        twin: The application without.
        remark: What one has to know about the numbers.
    """

    title: str
    detected: float | None
    healed: Score
    twin: Score
    remark: str


class Screen:
    """
    Where the demonstration is shown. A terminal gets a live view below the lines.

    Args:
        console: Where to.
        live: Whether it is a terminal that can move its cursor.
    """

    def __init__(self, console: Console, *, live: bool) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._chapter = ""
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """
        A remark.
        """
        for line in textwrap.wrap(text, self._console.width - 1, subsequent_indent="  "):
            self._console.print(Text(line, "dim"))

    def chapter(self, number: int, of: int, title: str, text: str) -> None:
        """
        A fault begins now.
        """
        self._began = time.monotonic()
        self._chapter = f"{number} of {of} · {title}"
        self._head(self._chapter)
        for line in textwrap.wrap(text, self._console.width - 1):
            self._console.print(Text(line, "italic"))

    def say(self, who: str, what: str, *, at: float | None = None, style: str = "") -> None:
        """
        One line of the timeline.

        Args:
            who: Has done or seen it.
            what: One sentence.
            at: Monotonic seconds; default: now.
            style: For the sentence.
        """
        seconds = (time.monotonic() if at is None else at) - self._began
        first, *rest = textwrap.wrap(what, self._console.width - _INDENT - 1) or [""]
        self._console.print(
            Text.assemble(
                (f"{f'{seconds:+.1f} s':>9}  ", "dim"), (f"{who:<15}", _STYLES.get(who, "bold")), (first, style)
            )
        )
        for line in rest:
            self._console.print(Text(" " * _INDENT + line, style))

    def refresh(self, applications: Iterable[Application], *, until: float) -> None:
        """
        Show how things are.

        Args:
            applications: All of them.
            until: The monotonic second at which this fault has been watched long enough.
        """
        if self._live is None:
            return
        now = time.monotonic()
        rows = Table.grid(padding=(0, 1))
        for application in applications:
            rows.add_row(*_row(application, now, width=max(20, self._console.width - 46)))
        elapsed = f"{self._chapter} · {now - self._began:.0f} s, at most {max(until, now) - self._began:.0f} s"
        self._live.update(
            Group(Rule(Text(elapsed, "dim"), align="left", style="dim"), rows, Text(_LEGEND, "dim")), refresh=True
        )

    def table(self, results: Sequence[Result]) -> None:
        """
        What came out.
        """
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("fault", max_width=30)
        table.add_column("application", no_wrap=True)
        for header in ("detected\nafter", "healed\nafter", "failed\nrequests", "longest\nstall"):
            table.add_column(header, justify="right", no_wrap=True)
        for number, result in enumerate(results, 1):
            pairs = zip(_cells(WITH, result.healed, result.detected), _cells(WITHOUT, result.twin, None), strict=True)
            table.add_row(
                f"{number} {result.title}",
                *(Text("\n").join(pair) for pair in pairs),
                end_section=number < len(results),
            )
        self._console.print()
        self._console.print(table)
        for number, result in enumerate(results, 1):
            if result.remark:
                self.note(f"{number} {result.remark}")

    def story(self, title: str, told: str) -> None:
        """
        What was told about one incident.
        """
        self._head(title)
        for line in told.splitlines():
            for part in textwrap.wrap(line, self._console.width - 1, subsequent_indent=" " * 11):
                self._console.print(Text(part))

    def _head(self, title: str) -> None:
        self._console.print()
        self._console.print(Rule(Text(title, "bold"), align="left", style="dim"))


def _cells(name: str, score: Score, detected: float | None) -> tuple[Text, ...]:
    healed = Text("never", "bold red") if score.healed is None else Text(_seconds(score.healed), "bold green")
    return (
        Text(name, _STYLES[name]),
        Text(_seconds(detected)),
        healed,
        Text(str(score.failed)),
        Text(_seconds(score.longest_stall)),
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"


def _row(application: Application, now: float, *, width: int) -> tuple[Text, ...]:
    requests = application.meter.since(now - width * _CELL)
    recent = [request for request in requests if request.ended >= now - 1]
    failing = sum(request.error is not None for request in recent)
    if hanging := application.meter.judge(since=now).hanging:
        mood = Text(f"{hanging} calls hang", "bold yellow")
    else:
        mood = Text("requests fail", "bold red") if failing else Text("works", "green")
    return (
        Text(f"{application.name:<13}", _STYLES[application.name]),
        _spark(requests, now, width),
        Text(f"{len(recent) - failing:>3}/s", "dim"),
        Text(f"log {100 * application.log_used // LOG_BUDGET:>3} %", "dim"),
        mood,
    )


def _spark(requests: Sequence[Request], now: float, width: int) -> Text:
    """
    One cell for each half second, the latest to the right: good requests, failed ones, or none at all.
    """
    good, bad = [0] * width, [0] * width
    for request in requests:
        cell = width - 1 - int((now - request.ended) / _CELL)
        if 0 <= cell < width:
            (good if request.error is None else bad)[cell] += 1
    first = next((cell for cell in range(width) if good[cell] or bad[cell]), width)
    text = Text(" " * first)
    for ok, failed in zip(good[first:], bad[first:], strict=True):
        if ok and failed:
            text.append("▅", "yellow")
        elif failed:
            text.append("▂", "red")
        else:
            text.append("█" if ok else "·", "green" if ok else "yellow")
    return text
