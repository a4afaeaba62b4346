"""
The health service of gRPC, told by a healer (extra ``grpc``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from selfheal.export.http import groups
from selfheal.export.http.following import Following
from selfheal.integrations import require


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

#: What Kubernetes' gRPC probes ask for, and the group that answers.
_SERVICES: Final = {"": "readyz", "readiness": "readyz", "liveness": "livez", "startup": "startupz"}


class GrpcHealth(Following):
    """
    ``grpc.health.v1.Health`` for a `grpc.server`: ``Check`` and ``Watch`` of the services "" and "readiness",
    "liveness" and "startup". ``with`` starts and stops telling it; stopped, everything is NOT_SERVING for good::

        with Healer(checks) as healer, GrpcHealth(Handler(healer), server):
            server.start()

    Until it is started nothing is SERVING. Each client that watches takes one of the server's threads as long as it does.

    Args:
        handler: Who answers; "pass" and "warn" are SERVING, and for "liveness" what nobody knows is as well.
        server: Gets the service, so it must not have been started.
        checks: Each check is a service too, by its name, as its line in ``/readyz`` says.
        interval: Seconds between two looks.

    Raises:
        MissingExtraError: If grpcio-health-checking is not installed.
        ConfigError: If *interval* is not above 0.

    .. versionadded:: 26.1.0
    """

    def __init__(self, handler: Handler, server: Any, *, checks: bool = False, interval: float = 0.5) -> None:
        super().__init__(self._look, interval)
        health = require("grpc_health.v1.health", who=__name__, package="grpcio-health-checking", extra="grpc")
        messages = require("grpc_health.v1.health_pb2", who=__name__, package="grpcio-health-checking", extra="grpc")
        stubs = require("grpc_health.v1.health_pb2_grpc", who=__name__, package="grpcio-health-checking", extra="grpc")
        self._words = messages.HealthCheckResponse
        # Its other way of serving watchers sends under the lock that one who leaves needs: then the whole server stands.
        self._servicer = health.HealthServicer(experimental_non_blocking=False)
        self._handler = handler
        self._checks = checks
        self._told: dict[str, Any] = {}
        self._set(dict.fromkeys(_SERVICES, False))
        stubs.add_HealthServicer_to_server(self._servicer, server)

    def stop(self) -> None:
        """
        Say NOT_SERVING to everybody, from now on.
        """
        super().stop()
        self._servicer.enter_graceful_shutdown()

    def _look(self) -> None:
        view = self._handler.view()
        verdicts = {group: self._handler.verdict(group, view) for group in set(_SERVICES.values())}
        well: dict[str, bool | None] = {}
        if self._checks:
            well = dict.fromkeys(self._told)  # those that are gone are unknown
            well |= {line.name: groups.is_well("readyz", line.status) for line in verdicts["readyz"].lines}
        well |= {service: groups.is_well(group, verdicts[group].status) for service, group in _SERVICES.items()}
        self._set(well)

    def _set(self, well: Mapping[str, bool | None]) -> None:
        words = {True: self._words.SERVING, False: self._words.NOT_SERVING, None: self._words.SERVICE_UNKNOWN}
        for service, is_well in well.items():
            status = words[is_well]
            if self._told.get(service) != status:  # whoever watches is told of changes alone
                self._servicer.set(service, status)
                self._told[service] = status
