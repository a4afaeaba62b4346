"""
The recipes for MySQL's drivers, as the page has them, and SQLAlchemy's engines, on a real MariaDB. Needs Debian's *mariadb-server-core*.
"""

import asyncio
import os
import pathlib
import re
import shutil
import subprocess
import threading
import time

import pytest

from selfheal import Escalate, Healer, HealingPolicy, HealthCheck, Unhealthy, names
from selfheal.integrations.sqlalchemy import DisposeEngine, EngineHealth, engine_ladder
from selfheal.testing.faults import FaultProxy
from selfheal.testing.programs import free_port


pymysql = pytest.importorskip("pymysql")
aiomysql = pytest.importorskip("aiomysql")
sqlalchemy = pytest.importorskip("sqlalchemy")

pytestmark = pytest.mark.skipif(
    shutil.which("mariadbd") is None or os.geteuid() != 0, reason="needs root, and mariadbd of mariadb-server-core"
)

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "other-drivers.md"
POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=3, fall=2)


class MariaDB:
    """
    A server as a direct child of this process, in a folder of its own.
    """

    def __init__(self, folder):
        self.port = free_port()
        self._folder = folder
        self._options = (
            "--no-defaults",
            "--user=root",
            f"--datadir={folder / 'data'}",
            "--innodb-buffer-pool-size=8M",
            "--innodb-log-file-size=4M",
        )
        options = ("--auth-root-authentication-method=normal", "--skip-test-db")
        subprocess.run(["mariadb-install-db", *self._options, *options], check=True, capture_output=True)

    def start(self):
        """Start it and wait until it lets us in."""
        where = (f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self._folder / 'socket'}")
        with (self._folder / "log").open("ab") as log:
            command = ["mariadbd", *self._options, *where, f"--pid-file={self._folder / 'pid'}"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        give_up = time.monotonic() + 20
        while True:
            try:
                self.connect().close()
            except pymysql.OperationalError:
                assert self._process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.05)
            else:
                return self

    def stop(self):
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def connect(self):
        """A connection beside those of the application."""
        return pymysql.connect(host="127.0.0.1", port=self.port, user="root")

    def sessions(self, *, kill=False):
        """How many connections it has but for the one that asks; ended, if that is wanted."""
        own = self.connect()
        with own, own.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE id != connection_id() AND user = 'root'"
            )
            ids = [number for (number,) in cursor.fetchall()]
            for number in ids if kill else ():
                cursor.execute(f"KILL {number}")
        return len(ids)


@pytest.fixture(scope="module")
def _server(tmp_path_factory):
    server = MariaDB(tmp_path_factory.mktemp("mariadb")).start()
    yield server
    server.stop()


@pytest.fixture
def server(_server):
    """A MariaDB that runs."""
    if _server._process.poll() is not None:
        _server.start()
    return _server


def recipe(driver, port, **changes):
    """
    What the page's block on *driver* defines, for a server on another port, perhaps with other time limits.
    """
    (block,) = re.findall(rf"^## {driver}$.*?^```python$(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    block, found = re.subn("3306", str(port), block)
    for name, value in changes.items():
        block, found = re.subn(rf"\b{name}=\d+", f"{name}={value}", block)
    assert 1 == found
    namespace = {}
    exec(block, namespace)
    return namespace


def kind(probe):
    """
    What a probe says.
    """
    try:
        probe()
    except Unhealthy as exc:
        return exc.kind
    return "healthy"


async def akind(probe):
    """
    What an async probe says.
    """
    try:
        await probe()
    except Unhealthy as exc:
        return exc.kind
    return "healthy"


def eventually(condition):
    """
    Whether it comes true: a server takes its time to notice that a client has left.
    """
    give_up = time.monotonic() + 3
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


def actions(healer):
    """
    What a healer begins from now on.
    """
    begun = []
    healer.on_event(lambda event: begun.append(event.fields["action"]), events=[names.ACTION_STARTED])
    return begun


def check_of(page, name):
    """
    The page's check in a hurry.
    """
    check = page[name]
    return HealthCheck(check.probe, name=check.name, policy=POLICY, recovery=check.recovery)


def test_a_lost_connection_of_pymysql_is_replaced(server):
    """
    PyMySQL's connection stays lost once it was killed; with the recipe there is a new one in time.
    """
    page = recipe("PyMySQL", server.port)
    plain = server.connect()
    assert ((1,),) == page["fetch"]("SELECT 1")
    assert server.sessions(kill=True) >= 2
    with plain.cursor() as cursor, pytest.raises(pymysql.OperationalError):
        cursor.execute("SELECT 1")
    for _ in range(2):
        with plain.cursor() as cursor, pytest.raises(pymysql.InterfaceError):
            cursor.execute("SELECT 1")
    assert "stale" == kind(page["mysql"].probe)
    healer = Healer([check_of(page, "mysql")])
    begun = actions(healer)
    with healer:
        healer.wait_healthy("mysql", timeout=4)
        assert ((1,),) == page["fetch"]("SELECT 1")
    assert ["rebuild"] == begun
    assert 2 == page["connection"].generation
    page["connection"].close()


def test_a_mysql_that_is_not_there_is_down_and_nothing_is_rebuilt(server):
    """
    While the server is down the recipes say so and heal nothing; with PyMySQL a new connection is made afterwards.
    """
    page = recipe("PyMySQL", server.port)
    page["fetch"]("SELECT 1")
    server.stop()
    healer = Healer([check_of(page, "mysql")])
    begun = actions(healer)
    with healer:
        time.sleep(1.5)
        assert "down" == healer.status()["mysql"].fault.kind
        assert [] == begun
        server.start()
        healer.wait_healthy("mysql", timeout=4)
    assert ["rebuild"] == begun
    page["connection"].close()


def test_a_read_of_pymysql_ends_with_its_limit_alone(server):
    """
    When the network swallows everything, PyMySQL waits for ever by default, and with the recipe until `read_timeout`.
    """
    with FaultProxy(server.port) as proxy:
        page = recipe("PyMySQL", proxy.port, read_timeout=1)
        page["fetch"]("SELECT 1")
        plain = pymysql.connect(host="127.0.0.1", port=proxy.port, user="root")

        def wait():
            with pytest.raises(pymysql.OperationalError):
                plain.ping(reconnect=False)

        waiting = threading.Thread(target=wait, daemon=True)
        proxy.blackhole()
        waiting.start()
        started = time.monotonic()
        with pytest.raises(pymysql.OperationalError):
            page["fetch"]("SELECT 1")
        assert time.monotonic() - started < 1.5
        waiting.join(1)
        assert waiting.is_alive()
        assert "down" == kind(page["mysql"].probe)
        proxy.heal()
        assert "stale" == kind(page["mysql"].probe)
        page["connection"].rebuild()
        assert "healthy" == kind(page["mysql"].probe)
        page["connection"].close()
    waiting.join(1)
    assert not waiting.is_alive()


def test_aiomysql_heals_killed_connections_itself(server):
    """
    After its connections were killed no request through aiomysql's pool fails, and no action was taken.
    """

    async def test():
        page = recipe("aiomysql", server.port)
        healer = Healer([check_of(page, "mysql_pool")])
        begun = actions(healer)
        async with healer:
            await page["fetch"]("SELECT 1")
            assert server.sessions(kill=True) >= 1
            await asyncio.sleep(0.1)
            for _ in range(4):
                assert ((1,),) == await page["fetch"]("SELECT 1")
            await asyncio.sleep(1.5)
        assert [] == begun
        await page["pool"].aclose()

    asyncio.run(test())


def test_aiomysql_recovers_from_a_hole_if_its_users_have_a_deadline(server):
    """
    When the network swallows everything, requests end with their deadline, and succeed once it is back; nothing is done.
    """

    async def test():
        with FaultProxy(server.port) as proxy:
            page = recipe("aiomysql", proxy.port)
            await page["fetch"]("SELECT 1")
            proxy.blackhole()
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await page["fetch"]("SELECT 1", 0.3)
            assert "down" == await akind(page["pool_answers"])
            proxy.heal()
            assert ((1,),) == await page["fetch"]("SELECT 1")
            assert "healthy" == await akind(page["pool_answers"])
            await page["pool"].aclose()

    asyncio.run(test())


def test_leaked_connections_of_aiomysql_are_healed_by_a_new_pool(server):
    """
    Connections that were never released are not given back by `clear`; the recipe builds a new pool and closes them.
    """

    async def test():
        page = recipe("aiomysql", server.port)
        async with page["pool"].use() as old:
            hoard = [await old.acquire() for _ in range(2)]
            await old.clear()
        assert "exhausted" == await akind(page["pool_answers"])
        healer = Healer([check_of(page, "mysql_pool")])
        begun = actions(healer)
        async with healer:
            await healer.await_healthy("mysql_pool", timeout=8)
            assert ((1,),) == await page["fetch"]("SELECT 1")
        assert ["rebuild"] == begun
        assert [True, True] == [connection.closed for connection in hoard]
        await page["pool"].aclose()
        assert eventually(lambda: server.sessions() == 0)

    asyncio.run(test())


@pytest.fixture
def engine(server):
    """SQLAlchemy's engine on PyMySQL, with two connections."""
    made = sqlalchemy.create_engine(
        f"mysql+pymysql://root@127.0.0.1:{server.port}/mysql",
        pool_size=2,
        max_overflow=0,
        pool_timeout=0.5,
        connect_args={"connect_timeout": 2, "read_timeout": 5},
    )
    yield made
    made.dispose()


def test_sqlalchemy_replaces_killed_connections_of_mysql_itself(server, engine):
    """
    Killed connections cost one error or none, whoever meets them first; and nothing is done.
    """
    probe = EngineHealth(engine, leak_after=1)
    assert "healthy" == kind(probe)
    healer = Healer([HealthCheck(probe, name="mysql", policy=POLICY, recovery=engine_ladder(engine))])
    begun = actions(healer)
    with healer:
        for _ in range(2):
            assert eventually(lambda: server.sessions() >= 1)
            assert server.sessions(kill=True) >= 1
            time.sleep(1.5)
            with engine.connect() as connection:
                assert 1 == connection.scalar(sqlalchemy.text("SELECT 1"))
        assert healer.wait_healthy("mysql", timeout=5)
    assert [] == begun


def test_an_engine_on_mysql_says_that_its_server_is_down_and_comes_back_with_it(server, engine):
    """
    While MariaDB is away the engine's check is down and heals nothing; the first request afterwards succeeds.
    """
    probe = EngineHealth(engine, timeout=2)
    assert "healthy" == kind(probe)
    server.stop()
    assert "down" == kind(probe)
    with pytest.raises(Escalate):
        DisposeEngine(engine).recover(None)
    server.start()
    with engine.connect() as connection:
        assert 1 == connection.scalar(sqlalchemy.text("SELECT 1"))
    assert "healthy" == kind(probe)


def test_leaked_connections_of_an_engine_on_mysql_are_replaced(server, engine):
    """
    An engine whose connections were never given back gets a new pool; what comes back later is closed.
    """
    healer = Healer(
        [HealthCheck(EngineHealth(engine, leak_after=1), name="mysql", policy=POLICY, recovery=engine_ladder(engine))]
    )
    begun = actions(healer)
    leaked = [engine.connect() for _ in range(2)]
    with pytest.raises(sqlalchemy.exc.TimeoutError):
        engine.connect()
    with healer:

        def served():
            try:
                with engine.connect():
                    return True
            except sqlalchemy.exc.TimeoutError:
                return False

        assert any(served() for _ in range(20))
        assert healer.wait_healthy("mysql", timeout=5)
    assert ["dispose_engine"] == begun
    for connection in leaked:
        connection.close()
    assert eventually(lambda: server.sessions() <= 2)
