"""
Every error that *selfheal* raises on purpose. This file imports nothing.

Two families: `SelfHealError` says that a call or a configuration was wrong and
what to do about it; `Unhealthy` and `Escalate` are what *your* probes and
actions raise to answer precisely.
"""


class SelfHealError(Exception):
    """
    Base of every error that *selfheal* raises on purpose.

    ``except SelfHealError`` never hides a bug in your own probe or action:
    their exceptions are recorded in a `Fault` or an `Outcome`, not translated.
    """


class ConfigError(SelfHealError, ValueError):
    """
    A setting that cannot work. The message names it and says what to do.
    """


class IllegalTransitionError(SelfHealError, RuntimeError):
    """
    A call that the present state does not allow. Nothing has changed.
    """


class UnknownCheckError(SelfHealError, KeyError):
    """
    No check or resource of this name is registered. The message lists those that are.
    """

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0]) if self.args else ""


class NotRunningError(SelfHealError, RuntimeError):
    """
    The healer has not been started, has stopped, or belongs to another process.
    """


class CancelledRecoveryError(SelfHealError):
    """
    Raised by ``ctx.check()`` inside an action: stop now, and leave things in order.
    """


class RebuildError(SelfHealError):
    """
    A `Rebuildable` could not be rebuilt. The old object is still in service.
    """


class InvalidValueError(SelfHealError, ValueError):
    """
    What the loader of a `CacheGate` gave is refused by its validator. Nobody got it.
    """


class MissingExtraError(SelfHealError, ImportError):
    """
    An integration needs a package that is not installed. The message has the command.
    """


class Unhealthy(Exception):  # noqa: N818 - a verdict, not a failure of the probe
    """
    Raise it in a probe to say what is wrong, in words that a ladder can match.

    Args:
        kind: One of `selfheal.model.FAULT_KINDS`, or of the check's ``kinds=``.
        message: For people. It stays in the process unless you log errors.
        fatal: The evidence is certain: confirm the fault at once.
    """

    def __init__(self, kind: str, message: str = "", *, fatal: bool = False) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message
        self.fatal = fatal

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


class Escalate(Exception):  # noqa: N818 - a decision of the action, not an error
    """
    Raise it in an action that cannot help: the next rung is tried at once.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
