"""
The command line: ``python -m selfheal``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import sys
import threading

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, NoReturn

import selfheal

from selfheal.errors import ConfigError, MissingExtraError


#: The exit status of whatever is ended by SIGPIPE: who reads has seen enough, as ``head`` has.
_ENOUGH: Final = 141

#: Seconds. Nobody waits longer, and what waits has its limits.
_DAY: Final = 86_400


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Whoever mistypes a command wants to see which there are, not only the usage line.
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def _demo(options: argparse.Namespace) -> int:
    from selfheal.demo import main as demo

    try:
        return demo(json=options.json, quick=options.quick, port=options.listen)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 2


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of the live view")
    parser.add_argument("--quick", action="store_true", help="with a shorter outage: less than a minute")
    parser.add_argument(
        "--listen",
        metavar="PORT",
        nargs="?",
        type=int,
        const=9464,
        help="let it be watched at http://127.0.0.1:PORT meanwhile, page and metrics (default: 9464)",
    )


def _diagram(_options: argparse.Namespace) -> int:
    from selfheal.healing.walk import mermaid

    return _say(mermaid())


def _doctor(options: argparse.Namespace) -> int:
    from selfheal.doctor import main as doctor

    return doctor(
        options.target,
        also=options.also,
        ignore=options.ignore,
        fail_on=options.fail_on,
        build=options.build,
        json=options.json,
        rules=options.rules,
    )


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", nargs="?", metavar="module:healer", help="a Healer, or a function that makes one")
    parser.add_argument(
        "--also", metavar="module:object", action="append", default=[], help="look at this as well; repeatable"
    )
    parser.add_argument("--ignore", metavar="CODE", action="append", default=[], help="leave this rule out; repeatable")
    parser.add_argument(
        "--fail-on",
        choices=("error", "warning", "info"),
        default="warning",
        help="end with 1 if anything as bad as this is found (default: %(default)s)",
    )
    parser.add_argument(
        "--build", action="store_true", help="make what every Rebuildable makes, which may connect, and close it again"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--rules", action="store_true", help="list the rules and end")


def _incidents(options: argparse.Namespace) -> int:
    from selfheal.records.command import report

    try:
        said = report(
            options.journal,
            since=options.since,
            check=options.check,
            limit=options.limit,
            story=options.story,
            json=options.json,
        )
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 2
    return _say(said)


def _check(options: argparse.Namespace) -> int:
    from selfheal.export.http.asking import ask

    try:
        said = ask(options.target, timeout=options.timeout)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 2
    return _say(said.text) if said.well else max(1, _say(said.text))


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", metavar="URL|unix:PATH|file:PATH", help="such as http://127.0.0.1:9464/readyz; default: /livez"
    )
    parser.add_argument("--timeout", type=_seconds, default=3.0, help="seconds (default: %(default)s)")


def _assets(options: argparse.Namespace) -> int:
    from selfheal.export.assets import FILES, write

    try:
        written = write(pathlib.Path(options.out), runbooks=options.runbooks, force=options.force)
    except ConfigError as exc:
        print(exc, file=sys.stderr)
        return 2
    return _say("\n".join(f"{path}: {FILES[path.name]}" for path in written) or f"{options.out} is up to date.")


def _assets_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", required=True, help="where to write them; made if it is missing")
    parser.add_argument(
        "--runbooks",
        metavar="URL",
        default="docs/how-to/alerts.md",
        help="where the page on the alerts is to be found, for their runbook_url (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace files that differ")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _DAY:
        msg = f"{text} is not more than 0 and at most {_DAY} seconds"
        raise argparse.ArgumentTypeError(msg)
    return value


def _say(text: str) -> int:
    """
    Print *text*, in whatever encoding; the exit status.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # some other stream may stand there
    if reconfigure is not None:
        reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try again at its end
        if isinstance(exc, BrokenPipeError):
            return _ENOUGH
        print(f"this cannot be printed: {exc}", file=sys.stderr)
        return 1
    return 0


def _incidents_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("journal", help="the file that Healer(journal=...) writes")
    parser.add_argument("--since", metavar="WHEN", help="opened since then: 2h, 30m, 7d, or an ISO date")
    parser.add_argument("--check", metavar="NAME", help="of this check alone")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="the last N (default: %(default)s)")
    parser.add_argument("--story", action="store_true", help="with everything that happened, line by line")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _report(options: argparse.Namespace) -> int:
    from selfheal.clock import SystemClock
    from selfheal.export.http import page
    from selfheal.records.command import moment
    from selfheal.records.reading import JournalReader

    try:
        _spare(options.journal, options.output)
        since = None if options.since is None else moment(options.since)
        found = JournalReader(options.journal).incidents(since=since, check=options.check, limit=options.limit)
        told = page.report(found, source=os.path.basename(options.journal), now=SystemClock.wall())
        with open(options.output, "w", encoding="utf-8") as file:
            file.write(told)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as exc:
        print(f"no report was written: {exc}", file=sys.stderr)
        return 2
    return _say(f"{options.output}: {len(found)} incidents")


def _spare(journal: str, output: str) -> None:
    """
    Raise if *output* is a file of the *journal*, under whatever name.
    """
    place = os.path.realpath(journal)
    for ours in (f"{place}{end}" for end in ("", "-wal", "-shm", "-owners")):
        if os.path.realpath(output) == ours or (
            os.path.exists(output) and os.path.exists(ours) and os.path.samefile(output, ours)
        ):
            msg = f"{output} belongs to the journal: give another file with -o."
            raise ConfigError(msg)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("journal", help="the file that Healer(journal=...) writes")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="incidents.html", help="the page (default: %(default)s)"
    )
    parser.add_argument("--since", metavar="WHEN", help="opened since then: 2h, 30m, 7d, or an ISO date")
    parser.add_argument("--check", metavar="NAME", help="of this check alone")
    parser.add_argument("--limit", type=int, default=1000, metavar="N", help="the last N (default: %(default)s)")


def _none(_parser: argparse.ArgumentParser) -> None:
    pass


class _Command(NamedTuple):
    """What a command takes and does. What it needs is imported when it runs."""

    help: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = _none


_COMMANDS: Final = {
    "assets": _Command(
        "write a Grafana dashboard, Prometheus' alerts and configuration, and a compose file",
        _assets,
        _assets_arguments,
    ),
    "demo": _Command(
        "break a PostgreSQL pool and a log file in five ways, and watch them come back", _demo, _demo_arguments
    ),
    "diagram": _Command("print the states of healing, as a Mermaid diagram", _diagram),
    "doctor": _Command(
        "look at a healer and its clients for settings that hide faults, and say how to mend them",
        _doctor,
        _doctor_arguments,
    ),
    "check": _Command("ask a running process how it is, for Docker and scripts", _check, _check_arguments),
    "incidents": _Command(
        "print what a journal holds: incidents, and held changes that are in force", _incidents, _incidents_arguments
    ),
    "report": _Command(
        "write the incidents of a journal as a page that can be kept and passed on", _report, _report_arguments
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m selfheal", description=selfheal.__doc__)
    parser.add_argument("--version", action="version", version=f"selfheal {selfheal.__version__}")
    parsers = parser.add_subparsers(title="commands", dest="command", required=True)
    for name, command in _COMMANDS.items():
        added = parsers.add_parser(name, help=command.help, description=f"{command.help.capitalize()}.")
        command.arguments(added)
        added.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        arguments: Default: those of the process.

    Returns:
        The exit status: 0 well, 1 not; 2 for a mistyped command, or one that could not begin; 141 if nobody reads on.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except MissingExtraError as exc:
        print(exc, file=sys.stderr)
        return 1
    return status


def _leave(status: int) -> NoReturn:
    """
    End, also if an application that was only looked at has threads that never do, or that its pools would wait for;
    then without its exit handlers.
    """
    if threading.active_count() == 1:
        sys.exit(status)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # it is closed
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    _leave(main())
