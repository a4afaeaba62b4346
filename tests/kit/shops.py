"""
One healer and every way to mount it: under uvicorn, aiohttp and listeners of our own with ``python -m shops``, under
gunicorn as ``shops:wsgi()``.

Its database is down while there is a file ``down`` in the folder ``$SHOP``. What others could have made it do is written to
``told``, a line each.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import socket

from typing import Any

from django.conf import settings
from django.urls import re_path

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy, names, recovery_action
from selfheal.export.http import Handler, asgi_app, listen, mounted_asgi, mounted_wsgi, wsgi_app
from selfheal.integrations.aiohttp import add_routes
from selfheal.integrations.django import health_view
from selfheal.model import Event


TOKEN = "correct horse battery staple"
FOLDER = pathlib.Path(os.environ["SHOP"])
POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=10, fall=2, rise=2, probation=0.1)


def probe() -> None:
    """What is down says so in words that must not leave the process."""
    if (FOLDER / "down").exists():
        raise Unhealthy("stale", "postgresql://shop:hunter2@db")


@recovery_action
def warm(ctx: object) -> None:
    """What can be asked for."""


def tell(event: Event) -> None:
    """Write it down."""
    with (FOLDER / "told").open("a") as told:
        told.write(f"{event.name} {json.dumps(dict(event.fields), default=str)}\n")


db = HealthCheck(probe, name="db", policy=POLICY)
cache = HealthCheck(
    lambda: None, name="cache", policy=HealingPolicy(interval=0.2, timeout=10, probation=0.1), recovery=warm
)
healer = Healer([db, cache], registry=True)
healer.on_event(
    tell, events={names.ACTION_STARTED, names.REQUEST_ACCEPTED, names.RESOURCE_PAUSED, names.RESOURCE_RESUMED}
)
(FOLDER / "told").touch()


async def hello_asgi(scope: Any, receive: Any, send: Any) -> None:
    """The application beside it."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def hello_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """The application beside it; it says which process has answered."""
    start_response("200 OK", [])
    return [f"hello from {os.getpid()}".encode()]


#: A project that no probe by the address of a pod would get past: it knows its hosts, and redirects to TLS.
settings.configure(
    ALLOWED_HOSTS=["shop.example", "localhost"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    ROOT_URLCONF=__name__,
    SECRET_KEY="secret",
    SECURE_REDIRECT_EXEMPT=[r"^django-view"],
    SECURE_SSL_REDIRECT=True,
)
urlpatterns = [re_path(r"^django-view(?P<below>/.*)?$", health_view(Handler(healer, TOKEN, actions=True)))]


def asgi_apps() -> dict[str, Any]:
    """Each application by the first part of the paths that are its own."""
    import fastapi
    import starlette.applications

    from django.core.asgi import get_asgi_application
    from starlette.routing import Mount

    def app() -> Any:
        return asgi_app(healer, TOKEN, actions=True)

    inside = fastapi.FastAPI()
    inside.mount("/fastapi/health", app())
    return {
        "": app(),
        "around": mounted_asgi(hello_asgi, app(), at="/around/-"),
        "django": mounted_asgi(django := get_asgi_application(), app(), at="/django/selfheal"),
        "django-view": django,
        "fastapi": inside,
        "starlette": starlette.applications.Starlette(routes=[Mount("/starlette", app())]),
    }


def wsgi_apps() -> dict[str, Any]:
    """As above."""
    import flask

    from django.core.wsgi import get_wsgi_application
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    def app(**options: Any) -> Any:
        return wsgi_app(healer, TOKEN, actions=True, **options)

    inside = flask.Flask("hello")
    inside.wsgi_app = DispatcherMiddleware(inside.wsgi_app, {"/flask/selfheal": app()})
    return {
        "": app(),
        "around": mounted_wsgi(hello_wsgi, app(streams=1), at="/around/-"),
        "django": mounted_wsgi(django := get_wsgi_application(), app(), at="/django/selfheal"),
        "django-view": django,
        "flask": inside,
    }


def first_part(path: str) -> str:
    """Whose a path is."""
    return path[1:].partition("/")[0]


def wsgi() -> Any:
    """All of them in one, for gunicorn."""
    apps = wsgi_apps()

    def app(environ: Any, start_response: Any) -> Any:
        return apps.get(first_part(environ["PATH_INFO"]), apps[""])(environ, start_response)

    return app


def asgi() -> Any:
    """All of them in one, for uvicorn."""
    apps = asgi_apps()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await apps.get(first_part(scope["path"]), apps[""])(scope, receive, send)

    return app


async def main() -> None:
    """Serve until the standard input ends."""
    import aiohttp.web
    import uvicorn

    web = aiohttp.web.Application()
    add_routes(web, Handler(healer, TOKEN, actions=True), "/-/health")
    runner = aiohttp.web.AppRunner(web)
    await runner.setup()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    await aiohttp.web.SockSite(runner, sockets[1]).start()
    server = uvicorn.Server(uvicorn.Config(asgi(), log_level="critical", lifespan="off", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=sockets[:1]))  # noqa: TID251 - it is kept until the end
    own = {"port": 0}, {"path": str(FOLDER / "health.sock")}
    with healer, listen(healer, TOKEN, actions=True, **own[0]) as tcp, listen(healer, TOKEN, actions=True, **own[1]):
        await asyncio.to_thread(healer.wait_healthy, "db", timeout=30)
        ports = [listening.getsockname()[1] for listening in sockets]
        print(json.dumps([*ports, int(tcp.address.rpartition(":")[2])]), flush=True)
        await asyncio.to_thread(input)
        server.should_exit = True
        await serving
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
