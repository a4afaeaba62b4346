"""
A Django project in one file, with Django's own psycopg pool. Its server processes freeze, and with them each request
that waits for them.

    python examples/django_service.py
"""

from __future__ import annotations

import socketserver
import sys
import threading
import time
import urllib.error
import urllib.request

from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import Error, connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.integrations.django import DatabaseHealth, database_ladder
from selfheal.records import tell
from selfheal.testing.servers import Postgres


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=1, fall=2, rise=2, verify_within=5, probation=1)


def order(request: HttpRequest) -> HttpResponse:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return HttpResponse(status=503)
    return HttpResponse("taken")


urlpatterns = [path("order", order)]


def configure(port: int) -> None:
    """settings.py."""
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": "postgres",
                "USER": "postgres",
                "HOST": "127.0.0.1",
                "PORT": port,
                "OPTIONS": {"pool": {"min_size": 2, "max_size": 2, "timeout": 5}},
            }
        },
        # Needed where there is no pool, and harmless where there is: it closes stale connections in their own threads.
        MIDDLEWARE=["selfheal.integrations.django.FreshConnectionsMiddleware"],
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        # They would report each connection that the pool loses, and each answer 503.
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "loggers": {name: {"level": "CRITICAL"} for name in ("psycopg.pool", "django.request")},
        },
    )


def build() -> tuple[Any, Healer]:
    """wsgi.py: the place for a healer. A process that serves imports it; AppConfig.ready runs in every command."""
    application = get_wsgi_application()
    check = HealthCheck(DatabaseHealth(), name="orders_db", policy=POLICY, recovery=database_ladder())
    return application, Healer([check])


# -- a small server, and users -----------------------------------------------------------------------------------------


class Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass  # not a line for each request


def ask(port: int) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/order", timeout=20) as page:
            return int(page.status)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code


def run(server: Postgres) -> bool:
    configure(server.port)
    django.setup()
    application, healer = build()
    with make_server("127.0.0.1", 0, application, Server, Quiet) as http, healer:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        healer.wait_healthy("orders_db", timeout=10)
        print("an order:", ask(http.server_port))

        print("server processes that freeze:", len(server.freeze_backends()))
        asked = time.monotonic()
        status = ask(http.server_port)
        print(f"an order, {time.monotonic() - asked:.1f} s later: {status}")
        print("an order:", last := ask(http.server_port))
        while not healer.incidents():
            time.sleep(0.05)
        (incident,) = healer.incidents()
        http.shutdown()
    print(tell(incident))
    connection.close_pool()
    return last == 200 and incident.result is not None and incident.result.value == "healed"


def main() -> None:
    with Postgres() as server:
        sys.exit(not run(server))


if __name__ == "__main__":
    main()
