"""
systemd hears of a healer: what it does, and no sign of life any more when only a restart is left.
"""

from __future__ import annotations

import contextlib

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.errors import UnknownCheckError
from selfheal.export.http import groups
from selfheal.model import HealthStatus


if TYPE_CHECKING:
    from selfheal.healer import Healer
    from selfheal.model import Event
    from selfheal.resources import SdNotify
    from selfheal.runtime.watch import CheckStatus

_WELL: Final = frozenset({HealthStatus.HEALTHY, HealthStatus.DEGRADED})


def follow(healer: Healer, systemd: SdNotify) -> Callable[[], None]:
    """
    Tell *systemd* of *healer*: instead of ``systemd.check()`` in its list.

    Signs of life come as from that check, until ``/livez`` would fail: when a ladder that is not shared was climbed in
    vain, the unit's ``WatchdogSec=`` restarts the service, unless it comes back within it. The line of
    ``systemctl status`` follows the states of the checks. Where there is no systemd, nothing happens.

    Args:
        healer: The healer, running or not.
        systemd: Whom to tell.

    Returns:
        A function that ends it.

    Raises:
        ConfigError: If a check is called "systemd" already.

    .. versionadded:: 26.1.0
    """
    check = systemd.check(alive=lambda: groups.live(healer.checks, healer.snapshot()).status != "fail")
    told = ""

    def tell(event: Event) -> None:
        nonlocal told
        if event.check != check.name and told != (text := _sentence(healer.status(), check.name)):
            systemd.status(text)
            told = text

    healer.add(check)
    remove = healer.on_event(tell, events=[names.CHECK_COMPLETED, names.STATE_CHANGED])

    def end() -> None:
        remove()
        with contextlib.suppress(UnknownCheckError):
            healer.remove(check.name)

    return end


def _sentence(checks: Mapping[str, CheckStatus], but: str = "") -> str:
    """
    How all *checks* stand, in one line; *but* one.
    """
    others = {name: status for name, status in checks.items() if name != but}
    well = [name for name, status in others.items() if status.incident is None and status.status in _WELL]
    healed = [_words(name, status) for name, status in sorted(others.items()) if status.incident is not None]
    return "; ".join([f"{len(well)} of {len(others)} checks are well", *healed])


def _words(name: str, status: CheckStatus) -> str:
    kind = f" ({status.fault.kind})" if status.fault else ""
    return f"{name} is {status.state.value}{kind}"
