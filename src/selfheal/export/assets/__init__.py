"""
Dashboard, alerts and the configuration around them, as files that ship with the package.
"""

from __future__ import annotations

import re

from typing import TYPE_CHECKING, Final

from selfheal.errors import ConfigError


if TYPE_CHECKING:
    import pathlib

#: What each file is.
FILES: Final = {
    "compose.yaml": "Prometheus, node_exporter, Loki, Alloy and Grafana, for docker compose",
    "dashboard.json": "the dashboard, for Grafana 11.6 and newer",
    "prometheus.yml": "what Prometheus scrapes",
    "selfheal.rules.yml": "alerts and recorded series, for Prometheus",
}

#: Where the alerts' `runbook_url` leads: this page of our documentation, unless somebody has put it elsewhere.
RUNBOOKS: Final = "docs/how-to/alerts.md"

#: What an address has that needs no quotes anywhere.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._~:/?&=%+@-]+")


def asset(name: str) -> str:
    """
    The text of one of `FILES`.
    """
    from importlib import resources  # here: it takes milliseconds

    return (resources.files("selfheal.export.assets") / name).read_text("utf-8")


def write(folder: pathlib.Path, *, runbooks: str = RUNBOOKS, force: bool = False) -> list[pathlib.Path]:
    """
    Write those of `FILES` that are missing into *folder*, which is made where it is missing as well.

    Args:
        folder: Where to.
        runbooks: Address of the page on the alerts, for their ``runbook_url``.
        force: Replace files that differ.

    Returns:
        The files that were written. Those that were the same already are left alone.

    Raises:
        ConfigError: If a file is there and differs: it is left alone, and named once the others are written. If
            *runbooks* is no plain address. Or if something cannot be written.

    .. versionadded:: 26.1.0
    """
    if not _PLAIN.fullmatch(runbooks):  # it is put between other words of YAML and of templates
        msg = f"--runbooks={runbooks!r} is no plain address, such as https://wiki.example/alerts."
        raise ConfigError(msg)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        texts = {folder / name: asset(name).replace(RUNBOOKS, runbooks).encode() for name in FILES}
        changed = {path: text for path, text in texts.items() if not path.exists() or path.read_bytes() != text}
        differing = [] if force else [path for path in changed if path.exists()]
        written = [path for path in changed if path not in differing]
        for path in written:
            path.write_bytes(changed[path])
    except OSError as exc:
        msg = f"{exc.filename or folder} cannot be written: {exc.strerror}."
        raise ConfigError(msg) from exc
    if differing:
        names = ", ".join(path.name for path in differing)
        msg = f"{folder} has {names}, which differ from ours and were left alone. Give --force to replace them."
        raise ConfigError(msg)
    return written
