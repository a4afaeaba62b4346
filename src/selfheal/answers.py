"""
What a probe's answer means, or what it raised. Values in, values out; no probe is run here.
"""

from __future__ import annotations

import contextlib
import errno
import functools

from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any, Final, cast

from selfheal.errors import Unhealthy
from selfheal.model.health import CheckResult, Fault, HealthStatus
from selfheal.model.kinds import FAULT_KINDS


#: Characters kept of what an exception has to say.
MESSAGE_LIMIT: Final = 500

_NO_DATA: Final[Mapping[str, Any]] = {}


def interpret(answer: object, kinds: frozenset[str]) -> CheckResult:
    """
    What a probe's answer means.

    ``None``, ``True`` and HEALTHY are healthy, ``False`` is unhealthy of kind
    ``error``, a status or a result is taken as it is, and anything else is
    UNKNOWN of kind ``probe_error``. The times are left for the runner to fill in.

    Args:
        answer: What the probe returned.
        kinds: The fault kinds that its check declares.
    """
    if answer is None or answer is True:
        return CheckResult.healthy()
    if answer is False:
        return CheckResult.unhealthy("error", message="the probe answered False")
    if isinstance(answer, HealthStatus):
        answer = CheckResult(answer)
    if not isinstance(answer, CheckResult) or not isinstance(cast("object", answer.status), HealthStatus):
        return _probe_error(
            f"the probe answered a {type(answer).__name__}; it may answer None, True, False, a HealthStatus or a "
            "CheckResult"
        )
    fault = answer.fault
    if answer.status is HealthStatus.HEALTHY or (fault is None and answer.status is HealthStatus.UNKNOWN):
        fault = None
    elif fault is None:
        fault = Fault("error", message=f"the probe answered {answer.status.value}")
    elif not _is_declared(_kind(fault), kinds):
        return _undeclared(_kind(fault), kinds)
    data = answer.data if isinstance(cast("object", answer.data), Mapping) else _NO_DATA
    return CheckResult(answer.status, fault=fault, data=data)


def interpret_error(
    error: BaseException,
    kinds: frozenset[str],
    probe: Callable[..., object] | None = None,
) -> CheckResult:
    """
    What it means that a probe raised.

    Args:
        error: What it raised, with its traceback.
        kinds: The fault kinds that its check declares.
        probe: The probe: a `TypeError`, `NameError`, `ImportError` or `SyntaxError` raised by its own lines is a
            mistake in the probe, UNKNOWN of kind ``probe_error``. Raised further down it is a fault like others.
    """
    message = _text(error)
    match error:
        case Unhealthy():
            if not _is_declared(error.kind, kinds):
                return _undeclared(error.kind, kinds)
            # In its own words alone: the kind stands beside them, and its type says nothing more.
            message = error.message[:MESSAGE_LIMIT] if isinstance(cast("object", error.message), str) else message
            return CheckResult.unhealthy(error.kind, message=message, error=error, fatal=bool(error.fatal))
        case TypeError() | NameError() | ImportError() | SyntaxError() if probe is not None and _in_own_lines(
            error, probe
        ):
            return _probe_error(message, error)
        case TimeoutError():
            kind = "timeout"
        case PermissionError():
            kind = "auth"
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = "full"
        case Exception():
            kind = "error"
        case _:
            return _probe_error(message, error)
    return CheckResult.unhealthy(kind, message=message, error=error)


def _probe_error(message: str, error: BaseException | None = None) -> CheckResult:
    return CheckResult(HealthStatus.UNKNOWN, fault=Fault("probe_error", message=message, error=error))


def _kind(fault: object) -> object:
    return fault.kind if isinstance(fault, Fault) else None


def _is_declared(kind: object, kinds: frozenset[str]) -> bool:
    return isinstance(kind, str) and kind in kinds


def _undeclared(kind: object, kinds: frozenset[str]) -> CheckResult:
    own = ", ".join(sorted(kinds - FAULT_KINDS)) or "none"
    shown = repr(kind[:60]) if isinstance(kind, str) else f"of type {type(kind).__name__}"
    return _probe_error(
        f"fault kind {shown} is not declared. Declare it with kinds=[...] on the check. "
        f"Declared there: {own}. Always there: {', '.join(sorted(FAULT_KINDS))}"
    )


def _text(error: BaseException) -> str:
    text = ""
    with contextlib.suppress(Exception):  # __str__ is user code too
        text = str(error)
    name = type(error).__name__
    return (f"{name}: {text}" if text else name)[:MESSAGE_LIMIT]


def _in_own_lines(error: BaseException, probe: Callable[..., object]) -> bool:
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code in set(_codes(probe))


def _codes(probe: Any) -> Iterator[CodeType]:
    while isinstance(probe, functools.partial):
        probe = cast("Any", probe.func)
    function = probe if hasattr(probe, "__code__") or hasattr(probe, "__func__") else type(probe).__call__
    while function is not None:
        code = getattr(function, "__code__", None)
        if isinstance(code, CodeType):
            yield code
            # Comprehensions and lambdas are lines of the probe too; before 3.12 each has a code object of its own.
            yield from (inner for inner in code.co_consts if isinstance(inner, CodeType) and inner.co_name[0] == "<")
        function = getattr(function, "__wrapped__", None)
