"""
Actions in many small parts, with pauses in between that hold up nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from selfheal.errors import SelfHealError
from selfheal.recovery.action import RecoveryAction


if TYPE_CHECKING:
    from selfheal.model.ladder import RecoveryContext


class Part(RecoveryAction):
    """
    One run of a `Paced` action: each `recover` does the next part of it.

    Attributes:
        pause: Seconds, above 0, after which there is another part; `None`: that was the last.
    """

    pause: float | None = None


class Paced(RecoveryAction):
    """
    An action that is carried out in parts. No thread waits between them, and virtual time covers the pauses.
    """

    def parts(self) -> Part:
        """
        Begin a new run. Pure: only its `Part.recover` does anything.
        """
        raise NotImplementedError

    def recover(self, ctx: RecoveryContext) -> NoReturn:
        """
        Of use to nobody: who runs it makes the pauses.

        Raises:
            SelfHealError: Always.
        """
        msg = f"{self} is carried out in parts, with pauses in between. Put it into the recovery of a check."
        raise SelfHealError(msg)
