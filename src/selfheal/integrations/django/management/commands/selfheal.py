"""
``manage.py selfheal``: ask a process of the project how it is.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings  # type: ignore[import-untyped]
from django.core.management.base import BaseCommand, CommandError  # type: ignore[import-untyped]

from selfheal.errors import ConfigError
from selfheal.export.http.asking import ask


_TARGET = "http://127.0.0.1:9464/readyz?verbose"


class Command(BaseCommand):  # type: ignore[misc]
    """
    As ``python -m selfheal check``, with the target of the project's settings.
    """

    help = "Ask a process of this project how it is, and end with 0 or 1."

    #: It has to answer when the databases do not.
    requires_system_checks: ClassVar[list[str]] = []

    def add_arguments(self, parser: Any) -> None:
        """
        Called by Django.
        """
        parser.add_argument(
            "target",
            nargs="?",
            default=getattr(settings, "SELFHEAL_TARGET", _TARGET),
            help="as python -m selfheal check takes it (default: SELFHEAL_TARGET of the settings, now %(default)s)",
        )
        parser.add_argument("--timeout", type=float, default=3.0, help="seconds (default: %(default)s)")

    def handle(self, *args: Any, **options: Any) -> None:
        """
        Called by Django.
        """
        try:
            said = ask(options["target"], timeout=options["timeout"])
        except ConfigError as exc:
            raise CommandError(str(exc), returncode=2) from exc
        if not said.well:
            raise CommandError(said.text)
        self.stdout.write(said.text)
