"""
ExitForSupervisor, where it ends a forked child at most.
"""

from __future__ import annotations

import logging
import os
import signal
import threading

import pytest

from selfheal import ConfigError, Escalate
from selfheal.resources import ExitForSupervisor
from selfheal.resources.process_exit import supervisor


OWN = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"INVOCATION_ID": "f00"}, "systemd"),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, "systemd"),
        ({"INVOCATION_ID": "f00", "SYSTEMD_EXEC_PID": OWN}, "systemd"),
        ({"INVOCATION_ID": "f00", "SYSTEMD_EXEC_PID": "1"}, None),
        ({"SUPERVISOR_ENABLED": "1"}, "supervisord"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        ({"SERVER_SOFTWARE": "gunicorn/25"}, None),
    ],
)
def test_a_supervisor_is_found_by_what_it_leaves_in_the_environment(environ, found):
    """
    Each supervisor is known by its variables, unless they are meant for another process.
    """
    assert found == supervisor(environ)


def test_without_a_supervisor_it_escalates(monkeypatch, ctx):
    """
    Nobody would start the process again, so it does not end it.
    """
    for word in ("INVOCATION_ID", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(word, raising=False)
    with pytest.raises(Escalate, match="no supervisor is found"):
        ExitForSupervisor().recover(ctx)
    assert "exit with code 75, for a supervisor, of which none is found" == ExitForSupervisor().plan()


def test_it_is_destructive_and_not_retried():
    """
    It needs a permission, and nothing repeats it blindly.
    """
    rung = ExitForSupervisor().as_ladder().rungs[0]
    assert (True, "exit_for_supervisor") == (rung.destructive, rung.name)
    with pytest.raises(ConfigError, match="not idempotent"):
        ExitForSupervisor().retrying(stop=lambda _state: True)


@pytest.mark.parametrize("settings", [{"code": 0}, {"code": 3}, {"code": 256}, {"code": True}, {"grace": -1}])
def test_settings_that_a_supervisor_would_misread_are_refused(settings):
    """
    Codes for success and those that stop all of gunicorn are refused, and so is a grace in the past.
    """
    with pytest.raises(ConfigError):
        ExitForSupervisor(**settings)


class Hanging(logging.Handler):
    """What waits for a disk that does not answer."""

    def emit(self, record: logging.LogRecord) -> None:
        pass

    def flush(self) -> None:
        threading.Event().wait(60)


class Buffering(logging.Handler):
    """Keeps what it is told until it is flushed to a file."""

    def __init__(self, path: os.PathLike[str]) -> None:
        super().__init__()
        self.path, self.kept = path, ""

    def emit(self, record: logging.LogRecord) -> None:
        self.kept += record.getMessage()

    def flush(self) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(self.kept)
        self.kept = ""


def no_thread(_thread: threading.Thread) -> None:
    msg = "can't start new thread"
    raise RuntimeError(msg)


def ended(ctx, action, handler, *, is_free=True) -> int:
    """How a forked child ends that has no thread left; 9 if the action lets it live on."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL if is_free else signal.SIG_IGN)
        threading.Thread.start = no_thread
        logging._handlerList[:] = [lambda: handler]
        logging.getLogger("selfheal").handlers = [handler]
        try:
            action.recover(ctx)
        finally:
            os._exit(9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_without_a_thread_for_it_the_log_is_flushed_and_the_process_ends(tmp_path, ctx):
    """
    A process that may not start one more thread ends with its code and its last words all the same.
    """
    handler = Buffering(tmp_path / "app.log")
    assert 75 == ended(ctx, ExitForSupervisor(require_supervisor=False), handler)
    assert "exiting with code 75 for the supervisor that was stated: stale" == (tmp_path / "app.log").read_text("utf-8")


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_what_hangs_does_not_keep_a_process_without_a_thread_for_it(ctx):
    """
    Without a thread to wait in, a handler that hangs is ended by SIGALRM, with the whole process.
    """
    assert -signal.SIGALRM == ended(ctx, ExitForSupervisor(grace=0.2, require_supervisor=False), Hanging())


@forks
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(("grace", "is_free"), [(5, False), (0, True)])
def test_without_anything_to_end_it_nothing_is_flushed(ctx, grace, is_free):
    """
    Without a thread, and without SIGALRM or time for it, the process ends at once rather than not at all.
    """
    action = ExitForSupervisor(grace=grace, require_supervisor=False)
    assert 75 == ended(ctx, action, Hanging(), is_free=is_free)
