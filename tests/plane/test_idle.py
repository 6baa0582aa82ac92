"""What an idle connection costs (its struct and nothing else), and that heartbeats cost no Python."""

import contextlib
import ctypes
import gc
import sys
import tracemalloc
from collections.abc import Callable
from types import FrameType
from typing import Any

from otagate import plane

from .rig import OPENINGS, PING, TEXT, Rig, both_links, frame

IDLE = 1_000
PINGS = 100_000
CONNECTION_BYTES_MAX = 128


def test_a_connection_is_small() -> None:
    assert 0 < plane.CONNECTION_BYTES <= CONNECTION_BYTES_MAX


@both_links
def test_idle_connections_hold_no_python_memory(make_rig: Callable[..., Rig], link: str) -> None:
    """All Python memory between the first login and the thousandth, but for what the test keeps itself."""
    rig = make_rig(connections_max=IDLE)
    sockets = [rig.connect(link).socket for _ in range(IDLE)]
    opening = OPENINGS[link] + frame(link, TEXT, b"hello") + frame(link, PING) + frame(link, TEXT, b"report")
    drain, apply = rig.plane.drain, rig.plane.apply

    def login_all() -> None:
        for socket in sockets:
            socket.send(opening)
        admitted = reported = 0
        while reported < IDLE:
            for event in drain():
                if event[0] == plane.HELLO:
                    apply([(plane.ADMIT, event[1], admitted), (plane.SEND, event[1], b"welcome")])
                    admitted += 1
                elif event[0] == plane.MESSAGE:
                    reported += 1

    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        login_all()
        gc.collect()
        grown = tracemalloc.take_snapshot().compare_to(before, "filename")
    finally:
        tracemalloc.stop()
    assert rig.plane.statistics()["connections"] == IDLE
    ours = [entry for entry in grown if tracemalloc.__file__ not in entry.traceback[0].filename]
    assert sum(entry.count_diff for entry in ours) < IDLE / 20, ours
    assert sum(entry.size_diff for entry in ours) < IDLE * 4, ours


@both_links
def test_a_connection_that_idles_again_has_given_its_memory_back(
    make_rig: Callable[..., Rig], link: str
) -> None:
    """Rounds of messages in parts, answers and pings: the allocator's use stays where it was."""
    rig = make_rig()
    peers = [rig.login(link, device=i) for i in range(50)]

    def round_() -> None:
        for peer in peers:
            data = frame(link, TEXT, b"x" * 4000)
            peer.send_raw(data[:100])
            rig.settle()
            peer.send_raw(data[100:] + frame(link, PING, b"?"))
            rig.settle()
            rig.apply((plane.SEND, peer.conn, b"answer" * 100), (plane.SEND, peer.conn, b"long" * 1000))
        for peer in peers:
            peer.frames(3)
        rig.events.clear()

    before = allocated_bytes()
    grown = []
    for _ in range(10):
        round_()
        gc.collect()
        grown.append(allocated_bytes() - before)
    assert max(grown) < 50 * 48  # half of what is kept of a message in parts


def allocated_bytes() -> int:
    """In use by malloc in this process (glibc's mallinfo2: uordblks)."""

    class Information(ctypes.Structure):
        _fields_ = [
            (name, ctypes.c_size_t)
            for name in (
                *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
                *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
            )
        ]

    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Information
    return int(mallinfo2().uordblks)


def profiled(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What it returned, and the names of the Python functions that ran."""
    ran: list[str] = []

    def profile(running: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            ran.append(running.f_code.co_qualname)

    sys.setprofile(profile)
    try:
        returned = call()
    finally:
        sys.setprofile(None)
    return returned, ran


@both_links
def test_pings_run_no_python(rig: Rig, link: str) -> None:
    peer = rig.login(link)
    rig.settle()
    unsent = frame(link, PING, b"alive?") * PINGS
    unanswered = PINGS * len(b"\x8a\x06alive?" if link == "websocket" else b"\x0a\0\0\x06alive?")
    while unanswered:
        if unsent:
            with contextlib.suppress(BlockingIOError):
                unsent = unsent[peer.socket.send(unsent[:65536]) :]
        assert profiled(rig.plane.drain) == ([], [])
        peer.receive()
        unanswered -= len(peer.unread)
        peer.unread = b""
    assert rig.plane.statistics()["pings"] == PINGS


def test_the_profile_sees_python() -> None:
    assert profiled(lambda: PING) == (PING, ["test_the_profile_sees_python.<locals>.<lambda>"])
