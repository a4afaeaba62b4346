"""
Three services, a loop that looks after them, a restart as the recovery, and a counter that says what it was good for.

    python examples/article.py
"""

from __future__ import annotations

import threading
import time
import urllib.request

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, start_http_server

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, RecoveryContext
from selfheal.records import tell


class Service:
    """A small HTTP server on loopback. When it has crashed, somebody must start it again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0  # any that is free; later the same again

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Healthy)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def crash(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def health(self) -> None:  # the probe: returns = healthy, raises = unhealthy
        urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=0.5).close()


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        pass  # not a line for each probe


class Restart(RecoveryAction):
    def __init__(self, service: Service) -> None:
        self.service = service

    def recover(self, ctx: RecoveryContext) -> None:
        self.service.start()
        ctx.log(f"{self.service.name} listens on port {self.service.port} again")


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=1, fall=2, rise=2, verify_within=5, probation=1)


def main() -> None:
    services = [Service(name) for name in ("orders", "payments", "stock")]
    for service in services:
        service.start()

    registry = CollectorRegistry()
    metrics, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    checks = [
        HealthCheck(service.health, name=service.name, policy=POLICY, recovery=Restart(service)) for service in services
    ]
    with Healer(checks, registry=registry) as healer:
        for service in services:
            healer.wait_healthy(service.name, timeout=10)
        print("payments crashes")
        services[1].crash()

        before = ""
        while not healer.incidents():
            now = "  ".join(f"{name}: {check.state.value}" for name, check in healer.status().items())
            if now != before:
                print(before := now)
            time.sleep(0.02)

    print(tell(healer.incidents()[0]))
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.server_port}/metrics") as page:
        print(*(line for line in page.read().decode().splitlines() if line.startswith("healing_total")))


if __name__ == "__main__":
    main()
