"""
`ExitForSupervisor`: the last rung. The process ends, and whoever supervises it starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from selfheal.errors import ConfigError, Escalate
from selfheal.model.ladder import Blast
from selfheal.model.settings import not_negative, seconds
from selfheal.recovery import RecoveryAction


if TYPE_CHECKING:
    from selfheal.model.ladder import RecoveryContext

# EX_TEMPFAIL of sysexits.h: "a temporary failure, the user is invited to retry".
_CODE: Final = 75

# A flush is a matter of milliseconds, unless the disk or whoever holds a handler's lock is what hangs.
_GRACE: Final = 5.0

# With these a worker tells gunicorn to shut down altogether: WORKER_BOOT_ERROR and APP_LOAD_ERROR.
_FATAL_TO_GUNICORN: Final = frozenset({3, 4})


def _failure(_inst: object, attribute: attrs.Attribute[Any], value: int) -> None:
    if isinstance(value, bool) or not 1 <= value <= 255 or value in _FATAL_TO_GUNICORN:
        msg = (
            f"{attribute.name}={value!r}: must be from 1 to 255, or a supervisor takes it for the wanted end; and not "
            "3 or 4, with which a worker stops all of gunicorn."
        )
        raise ConfigError(msg)


@attrs.frozen(repr=False)
class ExitForSupervisor(RecoveryAction):
    """
    End the process, so that its supervisor starts it again: when nothing else helps.

    It flushes the handlers of `logging` and the standard streams, and then leaves by ``os._exit``: no ``finally``, no
    ``atexit``, and no other thread is waited for. It is *destructive*, as the work of everybody in the process is
    lost: it needs ``Healer(allow_destructive=True)``. As no ladder has it unless you write it there, nothing else ends
    your process.

    Where no supervisor is found it escalates: a process that nobody starts again is worse off dead. Found are systemd,
    supervisord, Kubernetes, the master of a gunicorn worker, and a container of which this is the first process.

    Args:
        code: What the process exits with, from 1 to 255. 3 and 4 are refused: gunicorn shuts down on them.
        grace: Seconds that flushing may take. What hangs is not waited for any longer. Where no thread is left for it,
            the end is then by SIGALRM; and nothing is flushed if that is not free, or would not end the process.
        require_supervisor: If not, you state that there is one.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If a number is out of range.

    .. versionadded:: 26.1.0
    """

    blast: ClassVar = Blast.PROCESS
    destructive: ClassVar = True
    idempotent: ClassVar = False
    # What was abandoned is what it is there to end.
    safe_after_abandon: ClassVar = True

    code: int = attrs.field(default=_CODE, validator=_failure)
    grace: float = attrs.field(default=_GRACE, kw_only=True, converter=seconds, validator=not_negative)
    require_supervisor: bool = attrs.field(default=True, kw_only=True)
    name: str = attrs.field(default="exit_for_supervisor", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        End the process.

        Raises:
            Escalate: If nobody would start it again. Nothing has changed then.
        """
        found = supervisor()
        if found is None and self.require_supervisor:
            msg = (
                "no supervisor is found that would start this process again (require_supervisor=False if there is one)"
            )
            raise Escalate(msg)
        ctx.check()
        why = f"exiting with code {self.code} for {found or 'the supervisor that was stated'}: {ctx.fault.kind}"
        try:
            self._last_words(why)
        finally:
            os._exit(self.code)

    def _last_words(self, why: str) -> None:
        flushing = threading.Thread(target=_say_and_flush, args=(why,), name="selfheal-exit", daemon=True)
        try:
            flushing.start()
        except RuntimeError:  # there are as many threads as there may be, which is maybe what is wrong
            if _is_ended_within(self.grace):
                _say_and_flush(why)
        else:
            flushing.join(self.grace)

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"exit with code {self.code}, for {supervisor() or 'a supervisor, of which none is found'}"


def supervisor(environ: Mapping[str, str] | None = None) -> str | None:
    """
    What would start this process again, or `None` if nothing is found.

    Args:
        environ: Where to look. Default: the environment.
    """
    environ = os.environ if environ is None else environ
    # Every descendant of a service inherits its variables; newer versions of systemd say whom they are meant for.
    if environ.get("SYSTEMD_EXEC_PID", str(os.getpid())) == str(os.getpid()) and (
        "INVOCATION_ID" in environ or "NOTIFY_SOCKET" in environ
    ):
        return "systemd"
    if "gunicorn.arbiter" in sys.modules and environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        return "gunicorn"
    if "SUPERVISOR_ENABLED" in environ:
        return "supervisord"
    if "KUBERNETES_SERVICE_HOST" in environ:
        return "Kubernetes"
    return "the container's runtime" if os.getpid() == 1 else None


def _is_ended_within(grace: float) -> bool:
    """Have the kernel end this process after *grace* seconds; whether it will."""
    # By a signal that nobody has taken. It ends every process but the first of a container.
    if os.getpid() == 1 or not hasattr(signal, "setitimer") or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        return False
    signal.setitimer(signal.ITIMER_REAL, grace)
    return grace > 0


def _say_and_flush(why: str) -> None:
    # Straight to the log: what writes the record of the incident may not get to it any more.
    logging.getLogger("selfheal").critical(why)
    references: list[Any] = list(getattr(logging, "_handlerList", ()))
    streams: list[Any] = [*(reference() for reference in reversed(references)), sys.stdout, sys.stderr]
    for stream in streams:
        try:
            if stream is not None:
                stream.flush()
        except Exception:  # noqa: BLE001, S112 - the next one may still get its lines out, and nobody is left to tell
            continue
