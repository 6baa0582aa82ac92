"""Listening sockets: rest at the bound and without descriptors, several, none; slots and their numbers."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from otagate import plane

from .rig import PREFACE, TEXT, Rig, frame


def test_rest_at_the_bound_and_rouse_when_one_leaves(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(connections_max=3)
    peers = [rig.login("tcp") for _ in range(3)]
    late = rig.connect("tcp")
    late.send_raw(PREFACE)
    rig.settle()
    late.receive()
    assert (late.unread, rig.plane.statistics()["resting"]) == (b"", 1)
    assert rig.plane.statistics()["connections"] == 3
    peers[0].close()
    rig.turn()
    assert rig.readable()  # at once, not with the next tick
    rig.turn()
    assert rig.plane.statistics()["accepted"] == 4
    assert b"challenge" in late.next_frame()[1]
    rig.settle()
    assert rig.plane.statistics()["connections"] == 3


def test_at_the_bound_it_does_not_spin(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(connections_max=1)
    rig.login("tcp")
    rig.connect("tcp")
    rig.settle()
    assert rig.plane.statistics()["resting"] == 1
    assert rig.plane.drain() == []
    assert not rig.plane.pending
    rig.turn()  # within a tick of the timer nothing makes the descriptor readable
    assert not rig.readable()


EMFILE = """
import resource, socket, sys
from otagate.plane import Plane
plane = Plane(connections_max=100, transfers_max=1, heartbeat_timeout_ms=0, echo=True)
listener = socket.create_server(("127.0.0.1", 0))
plane.listen(listener.fileno())
peers = [socket.create_connection(listener.getsockname()) for _ in range(6)]
spare = [socket.socket() for _ in range(3)]
highest = max(s.fileno() for s in spare)
resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
plane.drain()
found = plane.statistics()
assert (found["connections"], found["resting"], found["accept_failures"]) == (0, 1, 1), found
for _ in range(100):
    plane.drain()
assert plane.statistics()["accept_failures"] <= 3, "it spins"
# Descriptors come back from elsewhere: the tick finds them.
for s in spare[:2]:
    s.close()
import select
while plane.statistics()["accepted"] < 2:
    assert select.select([plane.fileno()], [], [], 20)[0]
    plane.drain()
while not plane.statistics()["resting"]:
    plane.drain()
assert plane.statistics()["connections"] == 2
# And when a connection ends, at once.
for peer in peers[:2]:
    peer.close()
while plane.statistics()["accepted"] < 4:
    assert select.select([plane.fileno()], [], [], 20)[0]
    plane.drain()
print("good")
"""


def test_without_descriptors_listeners_rest() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EMFILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("good\n", "")


def test_unlisten_keeps_connections(rig: Rig) -> None:
    peer = rig.login("tcp")
    rig.plane.unlisten()
    rig.connect("tcp")  # into the backlog of the test's own descriptor
    rig.settle()
    assert rig.plane.statistics()["accepted"] == 1
    peer.send(TEXT, b"still here")
    assert rig.wait_event(plane.MESSAGE)[3] == b"still here"


def test_unlisten_while_resting(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(connections_max=1)
    peer = rig.login("tcp")
    rig.connect("tcp")
    rig.settle()
    rig.plane.unlisten()
    peer.close()
    rig.wait_count("connections", 0)
    rig.settle()
    assert rig.plane.statistics()["accepted"] == 1


def test_several_listeners_and_ipv6(rig: Rig) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as second:
        rig.plane.listen(second.fileno())
        with socket.create_connection(second.getsockname()[:2]) as peer:
            peer.sendall(PREFACE + bytes([TEXT, 0, 0, 2]) + b"hi")
            _, conn, payload, *_ = rig.wait_event(plane.HELLO)
            assert payload == b"hi"
            host, port = peer.getsockname()[:2]
            assert rig.plane.connection_info(conn) == (plane.TCP, f"[{host}]:{port}")


def test_connection_info(rig: Rig) -> None:
    for link, number in (("tcp", plane.TCP), ("websocket", plane.WEBSOCKET)):
        peer = rig.greet(link)
        host, port = peer.socket.getsockname()
        assert rig.plane.connection_info(peer.conn) == (number, f"{host}:{port}")


def test_nagle_is_off(rig: Rig) -> None:
    """Connections inherit it from the listener."""
    rig.login("tcp")
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                if copy.getsockname() == rig.address and not copy.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                ):
                    found.append(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:
            continue
    assert found == [1]


def test_close_closes_every_descriptor() -> None:
    before = set(os.listdir("/proc/self/fd"))
    rig = Rig()
    for _ in range(5):
        rig.login("tcp")
    rig.apply((plane.IMAGE, 1, __file__.encode(), 1))
    rig.close()
    assert set(os.listdir("/proc/self/fd")) == before
    rig.plane.close()  # twice is once


def test_slots_are_used_again_under_new_numbers(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(connections_max=4)
    seen = set()
    for round_ in range(50):
        peers = [rig.login("tcp", device=round_) for _ in range(4)]
        seen |= {peer.conn for peer in peers}
        for peer in peers:
            peer.close()
        rig.wait_count("connections", 0)
    assert len(seen) == 200
    assert all(0 < conn < 2**52 for conn in seen)
    assert len({conn & 0xFFFFF for conn in seen}) <= 4


def test_a_slot_is_used_again_while_it_waits_for_a_turn(make_rig: Callable[..., Rig]) -> None:
    """Its place in the line is the new connection's, once: taken twice, it would cut the line."""
    rig = make_rig(turn_messages_max=1, drain_events_max=1)
    ended, other = rig.login("tcp", device=1), rig.login("tcp", device=2)
    rig.settle()
    for peer in (ended, other):
        peer.send_raw(frame("tcp", TEXT, b"here") * 3)
    rig.wait_event(plane.MESSAGE)  # they stand in line for the rest
    rig.apply((plane.SEND, ended.conn, bytes(1 << 20)))  # above the bound, and so the end
    begun = rig.connect()
    begun.send_raw(PREFACE + frame("tcp", TEXT, b"hello"))
    hello = rig.wait_event(plane.HELLO)[1]
    assert hello & 0xFFFFF == ended.conn & 0xFFFFF
    rig.apply((plane.ADMIT, hello, 3))
    for peer in (begun, other):
        peer.send(TEXT, b"last")
    for device in (2, 3):
        rig.wait(lambda device=device: (device, b"last") in [event[2:] for event in rig.events])
    for _ in range(20):
        rig.turn()
    assert not rig.plane.pending


def test_many_arrive_at_once(make_rig: Callable[..., Rig]) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1_000, soft // 4)  # all in the listener's backlog
    rig = make_rig(connections_max=count)
    for _ in range(count):
        rig.connect("tcp").socket.send(PREFACE + bytes([TEXT, 0, 0, 1]) + b"x")
    rig.wait(lambda: len(rig.events) == count)
    assert {event[0] for event in rig.events} == {plane.HELLO}
    assert len({event[1] for event in rig.events}) == count


def test_more_listeners_than_there_is_room_for(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for _ in range(7):
            rig.plane.listen(listener.fileno())
        with pytest.raises(OSError, match="No space left"):
            rig.plane.listen(listener.fileno())
