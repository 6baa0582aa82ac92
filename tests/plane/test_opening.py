"""First bytes to HELLO: which link, handshakes whole and in parts, refusals, the login seam."""

from collections.abc import Callable

import pytest

from otagate import limits, plane

from .rig import BINARY, CLOSE, OPENINGS, PREFACE, REQUEST, TEXT, Rig, both_links, frame

BAD_MESSAGE = b'{"type":"error","code":"bad_message","message":"'


@pytest.mark.parametrize(
    ("first", "cause"),
    [
        (b"\x16\x03\x01\x02\x00", "refused_tls"),
        (b"\r\n\r\n\x00\r\nQUIT\n", "refused_proxy"),
        (b"\x00", "refused_byte"),
        (b"SSH-2.0-x\r\n", "refused_byte"),
        (b"P", "refused_byte"),
        (b"OTG\x02", "refused_byte"),
        (b"OX", "refused_byte"),
    ],
)
def test_other_first_bytes_are_closed_at_once(rig: Rig, first: bytes, cause: str) -> None:
    peer = rig.connect()
    peer.send_raw(first)
    assert peer.wait_end() == []
    assert rig.plane.statistics()[f"ended_{cause}"] == 1
    assert rig.events == []


@both_links
def test_hello_byte_by_byte(rig: Rig, link: str) -> None:
    peer = rig.connect(link)
    for byte in OPENINGS[link][:-1]:
        peer.send_raw(bytes([byte]))
        rig.settle()
        peer.receive()
        assert peer.unread == b""
    peer.send_raw(OPENINGS[link][-1:])
    if link == "websocket":
        while b"\r\n\r\n" not in peer.unread:
            peer.wait_bytes()
        peer.unread = peer.unread.split(b"\r\n\r\n", 1)[1]
    assert peer.next_frame()[1].startswith(b'{"type":"challenge"')
    for byte in frame(link, TEXT, b'{"type":"hello"}'):
        assert rig.events == []
        peer.send_raw(bytes([byte]))
        rig.settle()
    assert [event[2] for event in rig.events] == [b'{"type":"hello"}']


@both_links
def test_hello_in_one_write_with_the_opening(rig: Rig, link: str) -> None:
    peer = rig.connect(link)
    peer.send_raw(OPENINGS[link] + frame(link, TEXT, b"hello") + frame(link, TEXT, b"next"))
    kind, conn, payload, nonce, certificate = rig.wait_event(plane.HELLO)
    assert (kind, payload, len(nonce), certificate) == (plane.HELLO, b"hello", 32, b"")
    rig.apply((plane.ADMIT, conn, 1))
    assert rig.wait_event(plane.MESSAGE) == (plane.MESSAGE, conn, 1, b"next")


@both_links
def test_every_connection_has_a_nonce_of_its_own(rig: Rig, link: str) -> None:
    assert len({rig.greet(link).nonce for _ in range(20)}) == 20


def test_nonces_outlast_what_the_kernel_is_asked_for_at_a_time(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(connections_max=300)
    peers = [rig.connect() for _ in range(300)]
    for peer in peers:
        peer.send_raw(PREFACE)
    assert len({peer.next_frame()[1] for peer in peers}) == 300


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (REQUEST.replace(b"GET /device", b"GET /other"), 404),
        (REQUEST.replace(b"Version: 13", b"Version: 8"), 426),
        (REQUEST.replace(b"otagate.v1", b"other.v1"), 400),
        (b"GET / HTTP/1.1\r\n" + b"X" * 5000, 431),
    ],
)
def test_a_refused_head_is_answered_whole(rig: Rig, request_head: bytes, status: int) -> None:
    peer = rig.connect("websocket")
    peer.send_raw(request_head + b"more bytes that nobody reads" * 100)

    def over() -> bool:
        peer.receive()
        return peer.ended is not None

    rig.wait(over)
    assert peer.unread.startswith(b"HTTP/1.1 %d " % status)
    assert peer.ended == "fin"
    peer.close()
    rig.wait_count("ended_refused_head", 1)
    rig.wait_count("connections", 0)


def test_a_head_of_exactly_the_bound_is_read(rig: Rig) -> None:
    padding = limits.http_head_bytes_max - len(REQUEST) - len(b"X: \r\n")
    head = REQUEST.replace(b"\r\n\r\n", b"\r\nX: " + b"y" * padding + b"\r\n\r\n")
    assert len(head) == limits.http_head_bytes_max
    peer = rig.connect("websocket")
    peer.send_raw(head)
    peer.wait_bytes()
    assert peer.unread.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("sent", [b"", b"G", REQUEST[:-1], b"OTG"])
def test_a_handshake_that_takes_too_long_is_ended(rig: Rig, sent: bytes) -> None:
    peer = rig.connect()
    peer.send_raw(sent)
    rig.wait_count("connections", 1)
    rig.settle()
    rig.plane.advance_clock(limits.handshake_timeout_ms - 1000)
    rig.settle()
    assert rig.plane.statistics()["connections"] == 1
    rig.plane.advance_clock(2000)
    assert peer.wait_end() == []
    assert rig.plane.statistics()["ended_handshake_timeout"] == 1


@both_links
@pytest.mark.parametrize("said_hello", [False, True])
def test_a_login_that_takes_too_long_is_closed_as_unauthorized(rig: Rig, link: str, said_hello: bool) -> None:
    peer = rig.greet(link) if said_hello else rig.open(link)
    rig.settle()
    rig.plane.advance_clock(limits.hello_timeout_ms + 1000)
    frames = peer.wait_end()
    assert frames[-1] == (CLOSE, b"\x0f\xa1")  # 4001
    assert all(opcode == CLOSE or b"challenge" in payload for opcode, payload in frames)
    peer.close()
    rig.wait_count("ended_hello_timeout", 1)
    assert rig.events == []  # never admitted, so Python hears nothing


@both_links
def test_nothing_overtakes_the_answer_to_hello(rig: Rig, link: str) -> None:
    peer = rig.greet(link)
    peer.send(TEXT, b"early")
    rig.settle()
    assert rig.events == []
    rig.apply((plane.SEND, peer.conn, b"welcome"), (plane.ADMIT, peer.conn, 9))
    assert peer.next_frame() == (TEXT, b"welcome")
    assert rig.wait_event(plane.MESSAGE) == (plane.MESSAGE, peer.conn, 9, b"early")


@both_links
def test_a_hello_may_be_refused_and_said_again(rig: Rig, link: str) -> None:
    peer = rig.greet(link)
    rig.apply((plane.SEND, peer.conn, b"no"), (plane.RETRY_HELLO, peer.conn))
    peer.send(TEXT, b"better")
    assert peer.next_frame() == (TEXT, b"no")
    assert rig.wait_event(plane.HELLO) == (plane.HELLO, peer.conn, b"better", peer.nonce, b"")
    rig.plane.advance_clock(limits.hello_timeout_ms + 1000)  # the deadline has not moved
    assert peer.wait_end() == [(CLOSE, b"\x0f\xa1")]


@both_links
def test_who_admits_a_connection_that_is_gone_hears_of_its_end(rig: Rig, link: str) -> None:
    peer = rig.greet(link)
    peer.reset()
    rig.wait_count("ended_lost", 1)  # though nothing is read from it
    assert rig.events == []
    rig.apply((plane.ADMIT, peer.conn, 5), (plane.SEND, peer.conn, b"welcome"))
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 5, plane.LOST)
    rig.settle()
    assert rig.events == []


@both_links
def test_a_login_refused_by_python(rig: Rig, link: str) -> None:
    peer = rig.greet(link)
    rig.apply((plane.SEND, peer.conn, b"error"), (plane.CLOSE, peer.conn, 4001, b"who?"))
    assert peer.wait_end() == [(TEXT, b"error"), (CLOSE, b"\x0f\xa1who?")]
    peer.close()
    rig.wait_count("ended_commanded", 1)
    assert rig.events == []


@both_links
@pytest.mark.parametrize(
    ("opcode", "size", "code"), [(TEXT, limits.hello_bytes_max + 1, 1009), (BINARY, 1, 1003)]
)
def test_a_stranger_is_bounded(rig: Rig, link: str, opcode: int, size: int, code: int) -> None:
    peer = rig.open(link)
    peer.next_frame()
    peer.send_raw(frame(link, opcode, b"x" * 10, length=size))
    error, close = peer.wait_end()
    assert error[1].startswith(BAD_MESSAGE)
    assert close[0] == CLOSE
    assert int.from_bytes(close[1][:2], "big") == code
    assert rig.events == []


@both_links
def test_a_hello_of_exactly_the_bound_is_read(rig: Rig, link: str) -> None:
    peer = rig.open(link)
    peer.send(TEXT, b"h" * limits.hello_bytes_max)
    assert rig.wait_event(plane.HELLO)[2] == b"h" * limits.hello_bytes_max


def test_a_head_of_exactly_the_bound_without_an_end_is_refused(rig: Rig) -> None:
    peer = rig.connect("websocket")
    peer.send_raw(b"GET /device HTTP/1.1\r\nX: ".ljust(limits.http_head_bytes_max, b"x"))
    peer.wait_bytes()
    assert peer.unread.startswith(b"HTTP/1.1 431 ")
