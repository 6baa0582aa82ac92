"""The Python face: what is refused, how, and what stays done."""

from collections.abc import Callable
from typing import Any

import pytest

from otagate import plane
from otagate.plane import Plane

from .rig import TEXT, Rig

MALFORMED: list[tuple[Any, type[Exception]]] = [
    ((), ValueError),
    ((99, 1), ValueError),
    ((0, 1), ValueError),
    ((-1, 1), ValueError),
    ((plane.SEND, 1), ValueError),
    ((plane.SEND, 1, b"", b""), ValueError),
    ((plane.SEND, 1, "text"), TypeError),
    ((plane.SEND, "1", b""), TypeError),
    ((plane.SEND, -1, b""), OverflowError),
    (("SEND", 1, b""), TypeError),
    ([plane.SEND, 1, b""], TypeError),
    ((plane.ADMIT, 1, -1), OverflowError),
    ((plane.CLOSE, 1, 70_000, b""), OverflowError),
    ((plane.IMAGE, 1, "path", 1), TypeError),
    ((plane.DIGESTS, 1, 300, b""), ValueError),
    ((plane.STREAM, 1, 1, 1, 0, 1, 300, 0, 0), ValueError),
    ((plane.STREAM, 1, 1, 1, 0, 1, 128, 0, 0), ValueError),
    ((plane.STREAM, 1, 1, 1, 0, 1, 2**19, 0, 0), ValueError),
    ((plane.STREAM, 1, 2**32, 1, 0, 1, 256, 0, 0), OverflowError),
    ((plane.STREAM, 1, 1, 1, 0, 1, 256), ValueError),
]


@pytest.mark.parametrize(("command", "error"), MALFORMED)
def test_malformed_commands(rig: Rig, command: Any, error: type[Exception]) -> None:
    peer = rig.login("tcp")
    with pytest.raises(error):
        rig.apply((plane.SEND, peer.conn, b"before"), command, (plane.SEND, peer.conn, b"after"))
    assert peer.next_frame() == (TEXT, b"before")


def test_digests_must_fit_the_image(rig: Rig) -> None:
    rig.apply((plane.IMAGE, 1, b"/nonexistent", 257))
    for table in (b"", b"1234", b"1234" * 3):
        with pytest.raises(ValueError, match="does not fit"):
            rig.apply((plane.DIGESTS, 1, 256, table))
    rig.apply((plane.DIGESTS, 1, 256, b"12345678"))
    with pytest.raises(ValueError, match="there already"):
        rig.apply((plane.IMAGE, 1, b"/nonexistent", 1))


def test_made_up_numbers_are_harmless(rig: Rig) -> None:
    for conn in (0, 1, 5, 2**20, 2**52, 2**63, 2**64 - 1):
        rig.apply(
            (plane.SEND, conn, b"x"),
            (plane.CLOSE, conn, 1000, b""),
            (plane.STOP, conn, -1),
            (plane.DIGESTS, conn, 256, b"1234"),
            (plane.DROP_IMAGE, conn),
        )
        assert rig.plane.last_seen_ms(conn) == -1
        assert rig.plane.connection_info(conn) is None
    assert rig.turn() == []


def test_a_closed_plane() -> None:
    closed = Plane(connections_max=1, transfers_max=1, heartbeat_timeout_ms=0)
    closed.close()
    closed.close()
    calls: list[Callable[[], Any]] = [
        closed.drain,
        closed.fileno,
        closed.unlisten,
        closed.statistics,
        lambda: closed.apply([]),
        lambda: closed.listen(0),
        lambda: closed.pending,
        lambda: closed.last_seen_ms(1),
        lambda: closed.connection_info(1),
        lambda: closed.advance_clock(1),
        lambda: closed.limit_writes(1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_listening_on_what_is_no_socket(rig: Rig) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        rig.plane.listen(10_000)


def test_sizes_of_messages_are_bounded_by_the_link(make_rig: Callable[..., Rig]) -> None:
    """A length of 24 bits cannot say more; such a message must not garble the stream."""
    rig = make_rig(echo=True, connection_output_bytes_max=2**26)
    peer = rig.open("tcp")
    peer.send(TEXT, b"")
    conn = rig.wait_event(plane.MESSAGE)[1]
    rig.apply((plane.SEND, conn, b"x" * 2**24))
    assert rig.wait_event(plane.CLOSED)[3] == plane.OVERFLOWED


def test_statistics(rig: Rig) -> None:
    peers = [rig.login(link) for link in ("tcp", "websocket", "websocket")]
    for peer in peers:
        peer.send(TEXT, b"report")
        rig.wait_event(plane.MESSAGE)
        rig.apply((plane.SEND, peer.conn, b"ack"))
        assert peer.next_frame() == (TEXT, b"ack")
    found = rig.plane.statistics()
    wanted = {
        "connections": 3,
        "connections_tcp": 1,
        "connections_websocket": 2,
        "accepted": 3,
        "opened_websocket": 2,
        "messages_in": 6,
        "messages_out": 3,
    }
    assert {name: found[name] for name in wanted} == wanted
    peers[0].close()
    rig.wait_count("connections_tcp", 0)
    found = rig.plane.statistics()
    assert (found["connections"], found["ended_lost"]) == (2, 1)
    assert sum(count for name, count in found.items() if name.startswith("ended_")) == 1
