"""
Plans: generators of calls and waits, written once, driven by a thread or by an event loop.
"""

from __future__ import annotations

import inspect

from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from selfheal.errors import ConfigError
from selfheal.resources.loops import Signal


T = TypeVar("T")


class Wait(NamedTuple):
    """
    Wait for *signal*, *seconds* at most (`None`: for ever); the plan is told whether it came.
    """

    signal: Signal
    seconds: float | None


#: Yields what is to be done, is sent the result or thrown the error.
Plan: TypeAlias = Generator[Wait | Callable[[], object], Any, T]


def drive(plan: Plan[T]) -> T:
    """
    Carry out *plan* in this thread.
    """
    try:
        step = next(plan)
        while True:
            try:
                answer = step.signal.wait(step.seconds) if isinstance(step, Wait) else call(step)
            except BaseException as exc:  # noqa: BLE001 - the plan cleans up and raises it again
                step = plan.throw(exc)
            else:
                step = plan.send(answer)
    except StopIteration as end:
        return cast("T", end.value)


async def adrive(plan: Plan[T]) -> T:
    """
    Carry out *plan* in this task. A cancellation is thrown into it.
    """
    try:
        step = next(plan)
        while True:
            try:
                answer = await (step.signal.await_(step.seconds) if isinstance(step, Wait) else acall(step))
            except BaseException as exc:  # noqa: BLE001 - the plan cleans up and raises it again
                step = plan.throw(exc)
            else:
                step = plan.send(answer)
    except StopIteration as end:
        return cast("T", end.value)


def call(fn: Callable[[], object]) -> object:
    """
    Call a function that is not async.

    Raises:
        ConfigError: If it is after all: nobody could await its coroutine here.
    """
    result = fn()
    if inspect.iscoroutine(result):
        result.close()
        msg = f"{fn!r} returned a coroutine. Write it as an 'async def' function, not as a lambda."
        raise ConfigError(msg)
    return result


async def acall(fn: Callable[[], object]) -> object:
    """
    Call a function of either colour.
    """
    result = fn()
    return await result if inspect.isawaitable(result) else result


def is_async(fn: object) -> bool:
    """
    Whether calling *fn* gives a coroutine, as far as one can see.
    """
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004
