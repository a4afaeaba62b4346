"""
SdNotify, against a real datagram socket that stands for systemd's.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
import socket

import descriptors
import pytest

from selfheal.resources import SdNotify
from selfheal.testing import simulate


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    address = f"@selfheal-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address.replace("@", "\0"))
        receiver.setblocking(False)
        yield receiver, address


def received(systemd) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_what_is_told_arrives_as_systemd_wants_it(systemd):
    """
    Each method sends one message in the words of sd_notify(3), to a path and to an abstract address.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address})
    assert notify.ready()
    assert notify.status("two\nlines")
    assert notify.extend_timeout(dt.timedelta(seconds=1.5))
    assert notify.stopping()
    assert ["READY=1", "STATUS=two lines", "EXTEND_TIMEOUT_USEC=1500000", "STOPPING=1"] == received(receiver)


def test_a_status_that_is_no_text_is_told_as_well_as_can_be(systemd):
    """
    What cannot be encoded, as the name of a file that is not UTF-8, is written out: it neither raises nor is lost.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address})
    assert notify.status("reading " + os.fsdecode(b"caf\xe9.log"))
    assert ["STATUS=reading caf\\udce9.log"] == received(receiver)


def test_signs_of_life_come_at_half_of_the_watchdogs_time(systemd):
    """
    A healer that turns gives a sign at half of WATCHDOG_USEC; over 60 s with a watchdog of 10 s these are twelve or so.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": str(os.getpid())})
    assert 10.0 == notify.watchdog
    check = notify.check()
    assert (5.0, 0) == (check.policy.interval, check.policy.jitter)
    simulate([check], until=60)
    assert {"WATCHDOG=1"} == set(messages := received(receiver))
    assert len(messages) in {11, 12, 13}


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
def test_no_sign_is_sent_that_nobody_wants(systemd, watchdog):
    """
    Without a watchdog, or with one that is meant for another process, the check sends nothing.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address, **watchdog})
    assert notify.watchdog is None
    asyncio.run(notify.check().probe())
    assert [] == received(receiver)


@pytest.mark.parametrize("address", [None, "", "/nobody/listens/here", "vsock:2:1234", "@" + "x" * 500])
def test_without_systemd_nothing_happens(address):
    """
    Where no socket is given, or nobody listens at it, nothing is sent and nothing is raised.
    """
    notify = SdNotify({} if address is None else {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notify.ready()
    asyncio.run(notify.check().probe())


def test_signs_of_life_need_no_further_descriptor(systemd):
    """
    A process that has used up its file descriptors still tells that its healer turns.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notify.ready()
    with descriptors.used_up(), pytest.raises(StopIteration):
        notify.check().probe().send(None)  # a loop would need descriptors itself
    assert ["READY=1", "WATCHDOG=1"] == received(receiver)


def test_a_socket_that_others_have_closed_is_made_again(systemd):
    """
    Where all descriptors were closed, as a daemon does at its start, and the number is somebody else's by now, the next
    message goes out all the same, and the other one's descriptor is neither written to nor closed.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address})
    notify.ready()
    fd = notify._sender().fileno()
    os.close(fd)
    assert notify.status("closed")
    fd = notify._sender().fileno()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.dup2(ours.fileno(), fd)
        with socket.socket(fileno=fd) as taken:
            assert notify.status("taken")
            theirs.setblocking(False)
            with pytest.raises(BlockingIOError):
                theirs.recv(100)
            taken.send(b"still open")
    assert ["READY=1", "STATUS=closed", "STATUS=taken"] == received(receiver)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_and_its_parent_both_tell(systemd):
    """
    A child may tell something by the socket that it has inherited, and end; its parent goes on. None is left to a program
    that is executed.
    """
    receiver, address = systemd
    notify = SdNotify({"NOTIFY_SOCKET": address})
    notify.ready()
    child = os.fork()
    if not child:
        os._exit(0 if notify.status("child") else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert notify.status("parent")
    assert ["READY=1", "STATUS=child", "STATUS=parent"] == received(receiver)
    assert not os.get_inheritable(notify._sender().fileno())


def test_the_socket_is_closed_with_its_owner(systemd):
    """
    What nobody refers to any more keeps no descriptor, and warns of none.
    """
    notify = SdNotify({"NOTIFY_SOCKET": systemd[1]})
    notify.ready()
    fd = notify._sender().fileno()
    del notify
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_full_queue_loses_the_message_and_does_not_wait(systemd):
    """
    When systemd does not read, what cannot be queued is lost at once.
    """
    notify = SdNotify({"NOTIFY_SOCKET": systemd[1]})
    assert not all(notify.ready() for _ in range(100_000))
