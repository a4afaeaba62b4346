"""
The command line: ``python -m selfheal``.
"""

from __future__ import annotations

import argparse
import sys

from collections.abc import Sequence
from typing import NoReturn

import selfheal

from selfheal.errors import MissingExtraError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # Whoever mistypes a command wants to see which there are, not only the usage line.
        self.print_help(sys.stderr)
        self.exit(2, f"\n{self.prog}: {message}\n")


def _diagram(_options: argparse.Namespace) -> int:
    from selfheal.healing.walk import mermaid

    print(mermaid())
    return 0


def _demo(options: argparse.Namespace) -> int:
    from selfheal.demo import main as demo

    return demo(json=options.json, quick=options.quick)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m selfheal", description=selfheal.__doc__)
    parser.add_argument("--version", action="version", version=f"selfheal {selfheal.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="break a PostgreSQL pool and a log file in five ways, and watch them come back"
    )
    demo.add_argument("--json", action="store_true", help="print the result as JSON instead of the live view")
    demo.add_argument("--quick", action="store_true", help="with a shorter outage: less than a minute")
    demo.set_defaults(run=_demo)
    diagram = commands.add_parser("diagram", help="print the states of healing, as a Mermaid diagram")
    diagram.set_defaults(run=_diagram)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        arguments: Default: those of the process.

    Returns:
        The exit status: 0 well, 1 not. A mistyped command ends with 2.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except MissingExtraError as exc:
        print(exc, file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
