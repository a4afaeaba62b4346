"""
A push of configuration breaks a service, and is rolled back. Beside it a twin that nobody heals.

    python examples/config_push.py
"""

from __future__ import annotations

import pathlib
import socketserver
import stat
import tempfile
import threading
import time
import tomllib

from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler

from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.records import tell
from selfheal.resources import ConfigFiles, RollbackConfig


class Prices(BaseHTTPRequestHandler):
    """The server that the services ask."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"42")

    def log_message(self, *_args: object) -> None:
        pass


class Shop:
    """A service: its file says where the prices are."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.load()

    def load(self) -> None:
        self.settings = tomllib.loads(self.path.read_text())

    def price(self) -> int:
        """What its users ask for."""
        connection = HTTPConnection("127.0.0.1", self.settings["prices"]["port"], timeout=1)
        try:
            connection.request("GET", "/")
            return int(connection.getresponse().read())
        finally:
            connection.close()

    def can_sell(self) -> None:  # the probe: raises = unhealthy
        self.price()

    def is_open(self) -> bool:
        try:
            return self.price() == 42
        except OSError:
            return False


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=2, fall=2, rise=2, verify_within=5, probation=1)


def push(shop: Shop, text: str) -> None:
    """What a deployment does: write the file, have it read."""
    shop.path.write_text(text)
    shop.load()


def wait_until(claim: Callable[[], bool], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not claim():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def run(folder: pathlib.Path, port: int) -> None:
    shops = {}
    for name in ("healed", "unhealed"):
        path = folder / f"{name}.toml"
        path.write_text(f"[prices]\nport = {port}\n")
        path.chmod(0o640)
        shops[name] = Shop(path)
    shop = shops["healed"]
    before = shop.path.read_bytes()

    config = ConfigFiles(shop.path, reload=shop.load, healthy_for=1, name="shop_toml")
    check = HealthCheck(config.watching(shop.can_sell), name="shop", policy=POLICY, recovery=RollbackConfig(config))

    def open_shops() -> str:
        return ", ".join(f"{name}: {'open' if each.is_open() else 'closed'}" for name, each in shops.items())

    with Healer([check]) as healer:
        wait_until(lambda: config.good is not None)
        print(open_shops())

        for each in shops.values():
            push(each, "[prices]\nport = 1  # a slip of the finger\n")
        print("a push;", open_shops())

        pushed = time.monotonic()
        wait_until(shop.is_open)
        print(f"{time.monotonic() - pushed:.1f} s later;", open_shops())

        wait_until(lambda: bool(healer.incidents()))

    print("the file is what it was:", shop.path.read_bytes() == before, stat.filemode(shop.path.stat().st_mode))
    (kept,) = set(config.versions) - {config.good}
    config.restore(kept)
    print("the push is kept:", shop.path.read_text().splitlines()[1])
    print(tell(healer.incidents()[0]))


def main() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Prices) as server, tempfile.TemporaryDirectory() as folder:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        run(pathlib.Path(folder), server.server_address[1])
        server.shutdown()


if __name__ == "__main__":
    main()
