"""
`RollbackConfig` and `RollForwardConfig`: go back to the configuration that worked, and forth again if that was no help.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import ClassVar

import attrs

from selfheal.errors import CancelledRecoveryError, ConfigError, Escalate, SelfHealError
from selfheal.model.ladder import Blast, Ladder, RecoveryContext
from selfheal.recovery import RecoveryAction
from selfheal.resources.config_files import ConfigFiles
from selfheal.resources.steps import Plan, adrive, drive, is_async


@attrs.frozen(repr=False)
class RollbackConfig(RecoveryAction):
    """
    Put the files back to the last known good version, and have the application read them.

    It escalates, and touches nothing, if

    - no version is known to be good yet, or the present files are that version: there is nothing to roll back;
    - the incident had begun before the files were changed: what was well for a day is not what broke now, and a
      change made meanwhile is somebody's attempt to help;
    - it has rolled back in this incident before;
    - a file cannot be replaced, as on a read-only mount, or its owner cannot be given back.

    If ``reload`` raises, the files are put back to what they were and reloaded, and the action has failed. As a ladder
    it has a second rung, `RollForwardConfig`, for when the reload went well and the check is still not healthy.

    What it has rolled back from stays in the store, so it destroys nobody's work and does not count as destructive.

    Args:
        config: The files. A check has to watch them, or no version is ever good: see `ConfigFiles.watching`.
        name: Of the action: a metric label.

    .. versionadded:: 26.1.0
    """

    blast: ClassVar = Blast.PROCESS

    config: ConfigFiles
    name: str = attrs.field(default="rollback_config", kw_only=True)

    def as_ladder(self) -> Ladder:
        """
        Two rungs: this, and the way forward again if it does not help.
        """
        return self.as_rung() >> RollForwardConfig(self.config)

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Roll back and reload.

        Raises:
            Escalate: If there is nothing to roll back, or it is not possible. Nothing has changed then.
            Exception: What ``reload`` has raised. The files are what they were.
        """
        return _carry_out(self.config, self._roll_back(ctx))

    def plan(self) -> str:
        """
        What it would do.
        """
        good = self.config.good
        paths = ", ".join(self.config.paths)
        return f"put {paths} back to version {good[:12]} and reload" if good else f"nothing: no good version of {paths}"

    def _roll_back(self, ctx: RecoveryContext) -> Plan[None]:
        config = self.config
        good = self._require_reason(ctx)
        ctx.check()
        source = yield from _restored(ctx, config, good)
        config.rolled_back = (_incident(ctx), source)
        message = f"{config.name} is the last known good version again; what it was is kept"
        ctx.log(message, source=source, target=good)
        try:
            yield config.reload
        except Exception:
            yield from config.restoring(source, instead_of=good)
            config.rolled_back = None
            ctx.log(f"that could not be reloaded; {config.name} is what it was", source=good, target=source)
            try:
                yield config.reload
            except Exception as exc:  # noqa: BLE001 - what the first one has raised says more
                ctx.log("nor could that be reloaded", error_type=type(exc).__name__)
            raise

    def _require_reason(self, ctx: RecoveryContext) -> str:
        config, good, reason = self.config, self.config.good, None
        if good is None:
            reason = "no version is known to be good yet" + (f": {config.problem}" if config.problem else "")
        elif config.rolled_back is not None and config.rolled_back[0] == _incident(ctx):
            reason = "it was rolled back in this incident before"
        elif _present(config) == good:
            reason = "the present files are the last known good ones: there is nothing to roll back"
        elif ctx.incident.began <= config.changed_after:
            reason = "the files were changed after the incident had begun, so they are not what broke"
        if reason is not None or good is None:
            msg = f"{config.name}: {reason}"
            raise Escalate(msg)
        return good


@attrs.frozen(repr=False)
class RollForwardConfig(RecoveryAction):
    """
    Take back what `RollbackConfig` has done in this incident: it was no help, so it was not the configuration.

    It always escalates, so the next rung goes on at once. If somebody has changed the files since, they stay.

    Args:
        config: The files.
        name: Of the action: a metric label.

    .. versionadded:: 26.1.0
    """

    blast: ClassVar = Blast.PROCESS

    config: ConfigFiles
    name: str = attrs.field(default="roll_forward_config", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Roll forward and reload.

        Raises:
            Escalate: Always, unless ``reload`` has raised: the next rung is to go on.
            Exception: What ``reload`` has raised.
        """
        return _carry_out(self.config, self._roll_forward(ctx))

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"undo a rollback of {', '.join(self.config.paths)} that was no help, and reload"

    def _roll_forward(self, ctx: RecoveryContext) -> Plan[None]:
        config, rolled_back, good = self.config, self.config.rolled_back, self.config.good
        source = rolled_back[1] if rolled_back is not None and rolled_back[0] == _incident(ctx) else None
        if source is None or good is None:
            msg = f"{config.name} is not rolled back in this incident"
            raise Escalate(msg)
        ctx.check()
        yield from _restored(ctx, config, source, instead_of=good)
        config.rolled_back = (_incident(ctx), None)
        ctx.log(f"{config.name} is what it was before the rollback", source=good, target=source)
        yield config.reload
        msg = f"to roll {config.name} back was no help: it was not what broke"
        raise Escalate(msg)


def _carry_out(config: ConfigFiles, plan: Plan[None]) -> Awaitable[None] | None:
    return adrive(plan) if is_async(config.reload) else drive(plan)


def _incident(ctx: RecoveryContext) -> tuple[int, float]:
    return ctx.incident.number, ctx.incident.began


def _present(config: ConfigFiles) -> str:
    try:
        return config.present
    except (OSError, ConfigError) as exc:
        msg = f"{config.name} cannot be kept, so it is not rolled back: {exc}"
        raise Escalate(msg) from exc


def _restored(ctx: RecoveryContext, config: ConfigFiles, version: str, *, instead_of: str | None = None) -> Plan[str]:
    try:
        return (yield from config.restoring(version, instead_of=instead_of, check=ctx.check))
    except CancelledRecoveryError:
        raise
    except (PermissionError, SelfHealError) as exc:
        msg = f"{config.name} stays as it is: {exc}"
        raise Escalate(msg) from exc
