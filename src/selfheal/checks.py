"""
What to watch, how often, and what heals it.

Marking a function costs its calls nothing: it is returned as it is. Nothing
here runs a probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack, cast, overload

import attrs

from selfheal.errors import ConfigError
from selfheal.model.kinds import FAULT_KINDS
from selfheal.model.ladder import Ladder
from selfheal.model.policy import Budget, HealingPolicy
from selfheal.model.settings import require_name
from selfheal.recovery.signatures import name_of, takes


if TYPE_CHECKING:
    import datetime as dt

    from selfheal.model.health import Monitor
    from selfheal.model.ladder import RecoveryContext
    from selfheal.recovery.action import RecoveryAction

F = TypeVar("F", bound=Callable[..., object])

_MARK: Final = "__selfheal_check__"


# A check is itself: two of them with equal settings still watch twice. (And what attrs need not write costs nothing.)
@attrs.frozen(init=False, eq=False, repr=False)
class HealthCheck:
    """
    A probe, and what to make of it: for any callable, at run time. For a function of your own use `health_check`.

    Args:
        probe: Called without arguments, sync or async; `interpret` says what its answers mean. `None`: the monitors alone
            speak.
        name: A metric label. Default: the probe's name in snake_case.
        resource: What is healed. Checks of one resource share its lock, cooldowns and budget. Default: *name*.
        policy: How patient to be ...
        interval: ... or, instead of *policy*, some of its numbers: seconds between two runs ...
        timeout: ... seconds after which a run is given up ...
        fall: ... bad results that confirm a fault ...
        rise: ... good results that prove health.
        monitors: What turns samples into assessments; the worst of them and the probe counts.
        recovery: A ladder, an action, or a function that takes the `RecoveryContext`. `None`: nothing heals it.
        depends_on: Checks, or their names: while one of them is bad, it is healed instead.
        shared: Other replicas use the resource too.
        self_doubt: It looks at this process, as `LoopWatchdog` and `OpenFiles` do. While it is bad, what other checks see
            may be the process' own fault: none of them is healed, and their bad results count as UNKNOWN.
        kinds: Fault kinds of your own, besides `selfheal.model.FAULT_KINDS`.
        budget: How many actions the resource may take.

    Raises:
        ConfigError: If something cannot work; the message names it.

    .. versionadded:: 26.1.0
    """

    probe: Callable[[], object] | None
    name: str
    resource: str
    policy: HealingPolicy
    monitors: tuple[Monitor, ...]
    recovery: Ladder
    depends_on: tuple[str, ...]
    shared: bool
    self_doubt: bool
    kinds: frozenset[str]
    budget: Budget | None

    def __init__(
        self,
        probe: Callable[..., object] | None = None,
        *,
        name: str | None = None,
        resource: str | None = None,
        policy: HealingPolicy | None = None,
        interval: float | dt.timedelta | None = None,
        timeout: float | dt.timedelta | None = None,
        fall: int | None = None,
        rise: int | None = None,
        monitors: Iterable[Monitor] = (),
        recovery: RecoveryAction | Ladder | Callable[[RecoveryContext], object] | None = None,
        depends_on: Iterable[str | HealthCheck | Callable[..., object]] = (),
        shared: bool = False,
        self_doubt: bool = False,
        kinds: Iterable[str] = (),
        budget: Budget | None = None,
    ) -> None:
        name = require_name(_default_name(probe) if name is None else name, "the check's name")
        _require_probe(name, probe)
        shorthands = {"interval": interval, "timeout": timeout, "fall": fall, "rise": rise}
        fields: dict[str, object] = {
            "probe": probe,
            "name": name,
            "resource": name if resource is None else require_name(resource, "the resource's name"),
            "policy": _policy(name, policy, {key: given for key, given in shorthands.items() if given is not None}),
            "monitors": _monitors(name, monitors),
            "recovery": _ladder(recovery),
            "depends_on": _dependencies(name, depends_on),
            "shared": shared,
            "self_doubt": self_doubt,
            "kinds": FAULT_KINDS | {require_name(kind, "fault kind") for kind in _several(name, "kinds", kinds)},
            "budget": _budget(name, budget),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)
        _require_workable(self)

    def __repr__(self) -> str:
        return f"HealthCheck({self.name!r})"


class CheckOptions(TypedDict, total=False):
    """
    What `health_check` accepts: the keywords of `HealthCheck`.
    """

    name: str | None
    resource: str | None
    policy: HealingPolicy | None
    interval: float | dt.timedelta | None
    timeout: float | dt.timedelta | None
    fall: int | None
    rise: int | None
    monitors: Iterable[Monitor]
    recovery: RecoveryAction | Ladder | Callable[[RecoveryContext], object] | None
    depends_on: Iterable[str | HealthCheck | Callable[..., object]]
    shared: bool
    self_doubt: bool
    kinds: Iterable[str]
    budget: Budget | None


@overload
def health_check(function: F, /) -> F: ...
@overload
def health_check(**options: Unpack[CheckOptions]) -> Callable[[F], F]: ...
def health_check(function: F | None = None, /, **options: Unpack[CheckOptions]) -> F | Callable[[F], F]:
    """
    Mark a function or method as a probe and return it unchanged.

    The options are those of `HealthCheck`. That the probe needs no argument
    is found out when a `Healer` gets it, for a method takes *self* until then.

    Raises:
        ConfigError: If an option cannot work, or it is no function that can be marked.

    Examples:
        >>> @health_check(interval=5, timeout=1, resource="orders_db")
        ... def orders_db() -> None:
        ...     return None
        >>> orders_db() is None
        True

    .. versionadded:: 26.1.0
    """

    def mark(function: F) -> F:
        _require_markable(function)
        setattr(function, _MARK, HealthCheck(function, **options))
        return function

    return mark if function is None else mark(function)


def resolve(item: object) -> HealthCheck:
    """
    The check that *item* is or carries: a `HealthCheck`, or a function or bound method marked by `health_check`.

    Raises:
        ConfigError: If it is neither, or its probe needs an argument.
    """
    check = item if isinstance(item, HealthCheck) else getattr(item, _MARK, None)
    if not isinstance(check, HealthCheck):
        msg = f"{item!r} is not a health check. Decorate it with @health_check, or write HealthCheck(probe, name=...)."
        raise ConfigError(msg)
    if check is not item:
        # A bound method carries the mark of its function, but is the probe itself.
        check = attrs.evolve(check, probe=cast("Callable[..., object]", item))
    if check.probe is not None and not takes(check.probe, 0):
        spelled = getattr(check.probe, "__qualname__", None) or check.name
        msg = (
            f"{spelled}() needs an argument, but a probe is called without any. "
            "Bind them: HealthCheck(functools.partial(probe, ...)), or pass a method of an instance."
        )
        raise ConfigError(msg)
    return check


def _default_name(probe: Callable[..., object] | None) -> str:
    if probe is None:
        msg = "A check without a probe has nothing to be named after. Pass name=..."
        raise ConfigError(msg)
    return name_of(probe)


def _require_probe(name: str, probe: object) -> None:
    if probe is not None and (isinstance(probe, type) or not callable(probe)):
        msg = f"check {name!r}: {probe!r} is not a probe. Give a function, or an object with __call__."
        raise ConfigError(msg)


def _policy(name: str, policy: HealingPolicy | None, shorthands: Mapping[str, Any]) -> HealingPolicy:
    if policy is None:
        return HealingPolicy(**shorthands)
    if shorthands:
        msg = (
            f"check {name!r} has a policy and {', '.join(shorthands)} as well, which are parts of one. "
            "Put them into the policy: attrs.evolve(policy, ...)."
        )
        raise ConfigError(msg)
    return policy


def _several(name: str, what: str, given: Iterable[Any]) -> tuple[Any, ...]:
    # A string is iterable too, and would become its letters.
    if isinstance(given, str) or not isinstance(cast("object", given), Iterable):
        msg = f"check {name!r}: {what}={given!r} must be a sequence: {what}=[...]."
        raise ConfigError(msg)
    return tuple(given)


def _monitors(name: str, given: Iterable[Monitor]) -> tuple[Monitor, ...]:
    monitors = _several(name, "monitors", given)
    if not monitors:
        return ()
    from selfheal.model.health import Monitor

    for monitor in monitors:
        if isinstance(monitor, type) or not isinstance(monitor, Monitor):
            msg = f"check {name!r}: {monitor!r} is not a monitor. It needs the methods assess(now=...) and forget()."
            raise ConfigError(msg)
    return monitors


def _budget(name: str, given: object) -> Budget | None:
    if given is None or isinstance(given, Budget):
        return given
    msg = f"check {name!r}: budget={given!r}: write Budget(3, per=300), for at most 3 actions in 300 s."
    raise ConfigError(msg)


def _ladder(recovery: object) -> Ladder:
    if recovery is None:
        return Ladder()
    if isinstance(recovery, Ladder):
        return recovery
    from selfheal.recovery.function import as_action  # a check that only looks does not pay for it

    return as_action(recovery).as_ladder()


def _dependencies(name: str, given: Iterable[object]) -> tuple[str, ...]:
    names: list[str] = []
    for item in _several(name, "depends_on", given):
        check = getattr(item, _MARK, item)
        names.append(check.name if isinstance(check, HealthCheck) else require_name(check, "the dependency"))
    if name in names:
        msg = f"check {name!r} depends on itself."
        raise ConfigError(msg)
    return tuple(dict.fromkeys(names))


def _require_workable(check: HealthCheck) -> None:
    if check.probe is None and not check.monitors:
        msg = f"check {check.name!r} has neither a probe nor a monitor: there is nothing to look at."
        raise ConfigError(msg)
    if check.self_doubt and (check.shared or check.depends_on):
        which = "shared=True" if check.shared else "depends_on="
        msg = (
            f"check {check.name!r} has self_doubt=True and {which}: what speaks for this process alone neither is shared "
            "nor waits for another check. Drop one of them."
        )
        raise ConfigError(msg)
    if check.recovery.rungs:
        from selfheal.recovery.function import kinds_named_by

        unknown = sorted({kind for rung in check.recovery.rungs for kind in kinds_named_by(rung.action)} - check.kinds)
        if unknown:
            msg = (
                f"check {check.name!r}: its ladder names {', '.join(unknown)}, which no fault of it can be. "
                f"Declare kinds of your own by kinds=; the others are: {', '.join(sorted(check.kinds))}."
            )
            raise ConfigError(msg)
        # Here, so that marking a function that nothing heals does not load the machine.
        from selfheal.healing.feasibility import require_feasible

        require_feasible(check.policy, check.recovery, check.budget, what=f"check {check.name!r}")


def _require_markable(function: Any) -> None:
    kind = type(function).__name__
    if kind in {"staticmethod", "classmethod"}:
        msg = f"Put @{kind} above @health_check: it hides the mark otherwise."
        raise ConfigError(msg)
    if not callable(function) or isinstance(function, type):
        msg = (
            f"@health_check marks a function, not {function!r}. Options are keywords: @health_check(name=...). "
            "For an object write HealthCheck(probe, name=...)."
        )
        raise ConfigError(msg)
    if not hasattr(function, "__dict__"):
        msg = f"{function!r} cannot be marked. Write HealthCheck(probe, name=...)."
        raise ConfigError(msg)
    if hasattr(function, _MARK):
        msg = f"{function!r} is a health check already. For a second one write HealthCheck(probe, name=...)."
        raise ConfigError(msg)
