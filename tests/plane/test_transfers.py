"""Downloads: chunks at any offset and size, any break of a write, STOP, REPLACED, the line, broken images."""

import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash

from otagate import limits, plane

from .rig import BINARY, CLOSE, LINKS, PING, PONG, TEXT, Peer, Rig, both_links

SIZE = 300_000
CONTENT = random.Random(1).randbytes(SIZE)
IMAGE = 4
Chunk = tuple[int, int, bytes]  # transfer, offset, data


def table(content: bytes, chunk_size: int) -> bytes:
    digests = (
        xxhash.xxh32_digest(content[at : at + chunk_size]) for at in range(0, len(content), chunk_size)
    )
    return b"".join(digests)


def load(
    rig: Rig, folder: Path, content: bytes = CONTENT, sizes: tuple[int, ...] = (256, 4096, 65536)
) -> Path:
    path = folder / "image"
    path.write_bytes(content)
    rig.apply(
        (plane.IMAGE, IMAGE, bytes(path), len(content)),
        *((plane.DIGESTS, IMAGE, size, table(content, size)) for size in sizes),
    )
    return path


def stream(
    conn: int, transfer: int, offset: int, end: int, chunk_size: int, content: bytes = CONTENT
) -> tuple[int, ...]:
    """The command with the digests of irregular chunks, as the gateway computes them."""
    first_stop = min((offset // chunk_size + 1) * chunk_size, end)
    last_start = max((end - 1) // chunk_size * chunk_size, offset)
    head = xxhash.xxh32_intdigest(content[offset:first_stop])
    tail = xxhash.xxh32_intdigest(content[last_start:end])
    return (plane.STREAM, conn, transfer, IMAGE, offset, end, chunk_size, head, tail)


def parse_chunk(payload: bytes) -> Chunk:
    """Checks the digest against the bytes."""
    transfer, digest, offset = struct.unpack(">IIQ", payload[:16])
    assert digest == xxhash.xxh32_intdigest(payload[16:])
    return transfer, offset, payload[16:]


def chunks_until(rig: Rig, peer: Peer, end: int) -> list[Chunk]:
    """Chunks up to the one that ends at `end`; nothing else may come."""
    found: list[Chunk] = []
    while not found or found[-1][1] + len(found[-1][2]) < end:
        opcode, payload = peer.next_frame()
        assert opcode == BINARY
        found.append(parse_chunk(payload))
    return found


def expected(transfer: int, offset: int, end: int, chunk_size: int, content: bytes = CONTENT) -> list[Chunk]:
    found = []
    while offset < end:
        stop = min((offset // chunk_size + 1) * chunk_size, end)
        found.append((transfer, offset, content[offset:stop]))
        offset = stop
    return found


@both_links
@pytest.mark.parametrize("chunk_size", [256, 4096, 65536])
@pytest.mark.parametrize(
    ("offset", "end"),
    [
        (0, SIZE),
        (0, 1),
        (1, SIZE),
        (0, SIZE - 1),
        (SIZE - 1, SIZE),
        (65_536, 131_072),
        (65_535, 131_073),
        (100, 200),
        (255, 257),
        (299_900, SIZE),
        (4096, 12_000),
    ],
)
def test_any_part_in_any_chunks(
    rig: Rig, link: str, tmp_path: Path, chunk_size: int, offset: int, end: int
) -> None:
    load(rig, tmp_path)
    peer = rig.login(link)
    rig.apply(stream(peer.conn, 77, offset, end, chunk_size))
    assert chunks_until(rig, peer, end) == expected(77, offset, end, chunk_size)
    assert rig.wait_event(plane.STARTED) == (plane.STARTED, peer.conn, 7, 77)
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 77, plane.DONE)
    assert rig.plane.statistics()["bytes_streamed"] == end - offset
    assert rig.plane.statistics()["transfers_running"] == 0
    assert rig.events == []


@pytest.mark.parametrize("chunk_size", [256 << i for i in range(11)])
def test_every_chunk_size(rig: Rig, tmp_path: Path, chunk_size: int) -> None:
    load(rig, tmp_path, sizes=(chunk_size,))
    peer = rig.login("websocket")
    rig.apply(stream(peer.conn, 2**32 - 1, 300, SIZE, chunk_size))
    assert chunks_until(rig, peer, SIZE) == expected(2**32 - 1, 300, SIZE, chunk_size)


@both_links
@pytest.mark.parametrize("limit", [*range(1, 30), 300])
def test_writes_may_stop_at_any_byte_of_a_chunk(rig: Rig, link: str, tmp_path: Path, limit: int) -> None:
    content = CONTENT[:1500]
    load(rig, tmp_path, content, (256,))
    peer = rig.login(link)
    rig.settle()
    rig.plane.limit_writes(limit)
    rig.apply(stream(peer.conn, 1, 100, 1500, 256, content))
    assert chunks_until(rig, peer, 1500) == expected(1, 100, 1500, 256, content)
    assert rig.wait_event(plane.ENDED)[4] == plane.DONE
    assert [event[0] for event in rig.events] == [plane.STARTED]


@both_links
def test_the_kernel_may_stop_it_anywhere(rig: Rig, link: str, tmp_path: Path) -> None:
    """A small receive buffer, read in odd pieces: every stop is the kernel's own."""
    load(rig, tmp_path)
    peer = rig.login(link, rcvbuf=2048)
    rig.apply(stream(peer.conn, 1, 0, SIZE, 4096))
    step = 1
    while rig.plane.statistics()["transfers_ended"] == 0:
        peer.receive(step)
        step = step % 1777 + 13
        rig.turn()
    assert chunks_until(rig, peer, SIZE) == expected(1, 0, SIZE, 4096)


@both_links
def test_messages_and_pongs_go_between_chunks(rig: Rig, link: str, tmp_path: Path) -> None:
    load(rig, tmp_path)
    peer = rig.login(link)
    rig.plane.limit_writes(1000)
    rig.apply(stream(peer.conn, 1, 0, SIZE, 4096))
    sent, got, found = 0, [], []
    offset = 0
    while offset < SIZE:
        opcode, payload = peer.next_frame()
        if opcode == BINARY:
            found.append(parse_chunk(payload))
            offset = found[-1][1] + len(found[-1][2])
            if sent < 20:
                rig.apply((plane.SEND, peer.conn, b"text %d" % sent))
                peer.send(PING, b"ping %d" % sent)
                sent += 1
        else:
            got.append((opcode, payload))
    assert found == expected(1, 0, SIZE, 4096)
    assert sorted(got) == sorted(
        frame for i in range(20) for frame in ((TEXT, b"text %d" % i), (PONG, b"ping %d" % i))
    )


@both_links
def test_messages_are_heard_while_streaming(rig: Rig, link: str, tmp_path: Path) -> None:
    load(rig, tmp_path)
    peer = rig.login(link, rcvbuf=4096)
    rig.apply(stream(peer.conn, 1, 0, SIZE, 65536))
    rig.settle()
    peer.send(TEXT, b"progress")
    assert rig.wait_event(plane.MESSAGE)[3] == b"progress"
    assert rig.plane.statistics()["transfers_running"] == 1


def begin_chunk(rig: Rig, link: str, folder: Path) -> Peer:
    """A peer within the first chunk of transfer 1."""
    load(rig, folder)
    peer = rig.login(link)
    rig.settle()
    rig.plane.limit_writes(10)
    rig.apply(stream(peer.conn, 1, 0, SIZE, 4096))
    rig.wait_event(plane.STARTED)
    return peer


@both_links
@pytest.mark.parametrize("wanted", [1, -1])
def test_stop_is_at_a_chunk_boundary(rig: Rig, link: str, tmp_path: Path, wanted: int) -> None:
    peer = begin_chunk(rig, link, tmp_path)
    rig.apply((plane.STOP, peer.conn, 2), (plane.STOP, peer.conn, wanted), (plane.SEND, peer.conn, b"after"))
    assert parse_chunk(peer.next_frame()[1]) == (1, 0, CONTENT[:4096])
    assert peer.next_frame() == (TEXT, b"after")
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 1, plane.STOPPED)
    rig.settle()
    assert (rig.events, rig.plane.statistics()["transfers_running"]) == ([], 0)


@both_links
def test_a_replacement_begins_at_a_chunk_boundary(rig: Rig, link: str, tmp_path: Path) -> None:
    peer = begin_chunk(rig, link, tmp_path)
    rig.apply(stream(peer.conn, 2, 5, 6, 256), stream(peer.conn, 3, 8000, SIZE, 65536))
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 2, plane.REPLACED)  # had not begun
    rig.plane.limit_writes(0)
    assert parse_chunk(peer.next_frame()[1]) == (1, 0, CONTENT[:4096])
    assert chunks_until(rig, peer, SIZE) == expected(3, 8000, SIZE, 65536)
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 1, plane.REPLACED)
    assert rig.wait_event(plane.STARTED) == (plane.STARTED, peer.conn, 7, 3)
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 3, plane.DONE)


@pytest.mark.parametrize(
    ("stops", "ends"),
    [
        ((2,), [(2, plane.STOPPED), (1, plane.REPLACED)]),
        ((1,), [(1, plane.STOPPED), (2, plane.DONE)]),
        ((-1,), [(2, plane.STOPPED), (1, plane.STOPPED)]),
        ((2, 1), [(2, plane.STOPPED), (1, plane.STOPPED)]),
    ],
)
def test_stop_and_replacement_within_a_chunk(
    rig: Rig, tmp_path: Path, stops: tuple[int, ...], ends: list[tuple[int, int]]
) -> None:
    peer = begin_chunk(rig, "tcp", tmp_path)
    rig.apply(stream(peer.conn, 2, 0, 256, 256), *((plane.STOP, peer.conn, stop) for stop in stops))
    rig.plane.limit_writes(0)
    rig.wait_count("transfers_running", 0)
    assert [(event[3], event[4]) for event in rig.events if event[0] == plane.ENDED] == ends
    assert parse_chunk(peer.next_frame()[1])[:2] == (1, 0)


def test_a_transfer_that_waits_keeps_its_place_when_replaced(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(transfers_max=1)
    load(rig, tmp_path)
    first, second, third = (rig.login("tcp", device=i, rcvbuf=4096) for i in range(3))
    for i, peer in enumerate((first, second, third)):
        rig.apply(stream(peer.conn, i, 0, SIZE, 65536))
    rig.settle()
    assert [rig.plane.statistics()[f"transfers_{name}"] for name in ("running", "waiting")] == [1, 2]
    rig.apply(stream(second.conn, 10, 0, 100, 256))
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, second.conn, 1, 1, plane.REPLACED)
    assert chunks_until(rig, first, SIZE) == expected(0, 0, SIZE, 65536)
    assert chunks_until(rig, third, SIZE) == expected(2, 0, SIZE, 65536)
    assert chunks_until(rig, second, 100) == expected(10, 0, 100, 256)
    order = [event[3] for event in rig.events if event[0] == plane.STARTED]
    assert order == [0, 10, 2]


@pytest.mark.parametrize("way", ["stop", "close", "lose"])
def test_the_next_in_line_starts_when_one_goes(
    make_rig: Callable[..., Rig], tmp_path: Path, way: str
) -> None:
    rig = make_rig(transfers_max=2)
    load(rig, tmp_path)
    peers = [rig.login("websocket", device=i, rcvbuf=4096) for i in range(5)]
    rig.apply(*(stream(peer.conn, i, 0, SIZE, 4096) for i, peer in enumerate(peers)))
    rig.settle()
    # One that waits goes, then one that runs.
    for i in (2, 0):
        if way == "stop":
            rig.apply((plane.STOP, peers[i].conn, -1))
        elif way == "close":
            rig.apply((plane.CLOSE, peers[i].conn, 1000, b""))
        else:
            peers[i].reset()
    for i in (1, 3, 4):
        assert chunks_until(rig, peers[i], SIZE) == expected(i, 0, SIZE, 4096)
    assert [event[3] for event in rig.events if event[0] == plane.STARTED] == [0, 1, 3, 4]

    def over() -> bool:
        if way == "stop":  # it has to read to the end of the chunk that it is in
            peers[0].receive()
        return rig.plane.statistics()["transfers_running"] == 0

    rig.wait(over)
    assert rig.plane.statistics()["transfers_waiting"] == 0


@both_links
def test_close_cuts_a_transfer_at_a_chunk_boundary(rig: Rig, link: str, tmp_path: Path) -> None:
    peer = begin_chunk(rig, link, tmp_path)
    rig.apply((plane.SEND, peer.conn, b"bye"), (plane.CLOSE, peer.conn, 4005, b""))
    chunk, *rest = peer.wait_end()
    assert parse_chunk(chunk[1]) == (1, 0, CONTENT[:4096])
    assert rest == [(TEXT, b"bye"), (CLOSE, b"\x0f\xa5")]
    assert rig.plane.statistics()["transfers_running"] == 0  # another may have the place by now
    peer.close()
    assert rig.wait_event(plane.CLOSED)[3] == 4005
    assert rig.events == []  # CLOSED says that the transfer is over, too


@both_links
def test_close_with_code_0_cuts_a_transfer_too(rig: Rig, link: str, tmp_path: Path) -> None:
    peer = begin_chunk(rig, link, tmp_path)
    rig.apply((plane.CLOSE, peer.conn, 0, b""))
    (chunk,) = peer.wait_end()
    assert parse_chunk(chunk[1]) == (1, 0, CONTENT[:4096])
    assert rig.plane.statistics()["transfers_running"] == 0


@both_links
def test_a_closing_device_gets_its_chunk_whole(rig: Rig, link: str, tmp_path: Path) -> None:
    peer = begin_chunk(rig, link, tmp_path)
    peer.send(CLOSE, b"\x03\xe8")
    chunk, close = peer.wait_end()
    assert parse_chunk(chunk[1]) == (1, 0, CONTENT[:4096])
    assert close == (CLOSE, b"\x03\xe8")
    assert rig.wait_event(plane.CLOSED)[3] == 1000


@both_links
@pytest.mark.parametrize("cut_to", [0, 5000])
def test_an_image_truncated_under_us(rig: Rig, link: str, tmp_path: Path, cut_to: int) -> None:
    path = load(rig, tmp_path)
    peer = rig.login(link)
    os.truncate(path, cut_to)
    rig.apply(stream(peer.conn, 1, 0, SIZE, 4096))
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 1, plane.FAILED)
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.IMAGE_UNREADABLE)
    assert rig.plane.statistics()["connections"] == 0


def failing(rig: Rig, peer: Peer, command: tuple[int, ...]) -> None:
    rig.apply(command)
    assert rig.wait_event(plane.ENDED) == (plane.ENDED, peer.conn, 7, 1, plane.FAILED)
    rig.apply((plane.SEND, peer.conn, b"still open"))
    assert peer.next_frame() == (TEXT, b"still open")


@pytest.mark.parametrize("fault", ["no image", "no file", "too short", "no digests", "dropped", "outside"])
def test_what_cannot_be_streamed_fails(rig: Rig, tmp_path: Path, fault: str) -> None:
    peer = rig.login("tcp")
    command = stream(peer.conn, 1, 0, SIZE, 256)
    if fault == "no file":
        rig.apply(
            (plane.IMAGE, IMAGE, b"/nonexistent", SIZE), (plane.DIGESTS, IMAGE, 256, table(CONTENT, 256))
        )
    elif fault == "too short":
        (tmp_path / "image").write_bytes(CONTENT[:-1])
        rig.apply(
            (plane.IMAGE, IMAGE, bytes(tmp_path / "image"), SIZE),
            (plane.DIGESTS, IMAGE, 256, table(CONTENT, 256)),
        )
    elif fault == "no digests":
        load(rig, tmp_path, sizes=(512,))
    elif fault == "dropped":
        load(rig, tmp_path)
        rig.apply((plane.DROP_IMAGE, IMAGE))
    elif fault == "outside":
        load(rig, tmp_path)
        command = stream(peer.conn, 1, 0, SIZE + 1, 256)
    failing(rig, peer, command)


def test_a_dropped_image_lives_until_its_last_transfer(rig: Rig, tmp_path: Path) -> None:
    path = load(rig, tmp_path)

    def is_open() -> bool:
        links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
        return any(os.path.realpath(link) == str(path) for link in links if os.path.exists(link))

    peer = rig.login("tcp", rcvbuf=4096)
    rig.apply(stream(peer.conn, 1, 0, SIZE, 4096))
    rig.settle()
    rig.apply((plane.DROP_IMAGE, IMAGE))
    assert is_open()
    # The number may be given again meanwhile.
    rig.apply((plane.IMAGE, IMAGE, b"/nonexistent", 1))
    assert chunks_until(rig, peer, SIZE) == expected(1, 0, SIZE, 4096)
    rig.wait_event(plane.ENDED)
    assert not is_open()


def test_downloads_share_turns(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    """One may not run to its end while another waits for its first chunk."""
    rig = make_rig(connection_sndbuf_bytes=limits.connection_sndbuf_bytes)
    content = CONTENT * 10
    load(rig, tmp_path, content, (256 * 1024,))
    peers = [rig.login(LINKS[i % 2], device=i) for i in range(4)]
    rig.settle()
    rig.apply(*(stream(peer.conn, i, 0, len(content), 262_144, content) for i, peer in enumerate(peers)))
    rig.plane.drain(budget_ns=1)  # one turn, of one connection
    assert rig.plane.statistics()["bytes_streamed"] <= limits.turn_sendfile_bytes_max
    for _ in range(3):
        rig.plane.drain(budget_ns=1)
    assert rig.plane.statistics()["transfers_started"] == 4
    for i, peer in enumerate(peers):
        assert chunks_until(rig, peer, len(content)) == expected(i, 0, len(content), 262_144, content)


def test_a_message_waits_for_a_slice_of_downloads_not_for_each(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(connection_sndbuf_bytes=limits.connection_sndbuf_bytes, drain_stream_ns=0)
    content = CONTENT * 10
    load(rig, tmp_path, content, (256 * 1024,))
    peers = [rig.login(LINKS[i % 2], device=i) for i in range(10)]
    honest = rig.login("tcp", device=10)
    rig.settle()
    rig.apply(*(stream(peer.conn, i, 0, len(content), 262_144, content) for i, peer in enumerate(peers)))
    honest.send(TEXT, b"report")
    events = rig.plane.drain(budget_ns=1)  # a slice of no time is one turn; and one turn for who speaks
    assert [event[1] for event in events if event[0] == plane.MESSAGE] == [honest.conn]
    assert 0 < rig.plane.statistics()["bytes_streamed"] <= limits.turn_sendfile_bytes_max
    assert rig.plane.pending
    for i, peer in enumerate(peers):
        assert chunks_until(rig, peer, len(content)) == expected(i, 0, len(content), 262_144, content)


def sndbuf_of(peer: Peer) -> int:
    """What the kernel says of the plane's end (it doubles what was asked for)."""
    with socket.socket(fileno=os.dup(peer.socket.fileno())) as here:
        address = here.getsockname()
    folder = Path("/proc/self/fd")
    for name in os.listdir(folder):
        if not (folder / name).is_socket():
            continue
        with socket.socket(fileno=os.dup(int(name))) as end, contextlib.suppress(OSError):
            if end.family == socket.AF_INET and end.getpeername() == address:
                return end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2
    raise AssertionError("the plane has no such connection")


def test_downloads_share_what_is_under_way(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    """One has all it may have; the more there are, the less each, down to what any connection has."""
    rig = make_rig(
        connection_sndbuf_bytes=40_000, streaming_sndbuf_bytes=90_000, connection_output_bytes_max=16_384
    )
    load(rig, tmp_path, CONTENT * 20, (65536,))
    peers = [rig.login("tcp", device=i, rcvbuf=4096) for i in range(8)]
    assert {sndbuf_of(peer) for peer in peers} == {16_384}
    for i, peer in enumerate(peers):
        rig.apply(stream(peer.conn, i, 0, SIZE * 20, 65536, CONTENT * 20))
    assert [sndbuf_of(peer) for peer in peers] == [40_000, 40_000, 30_000, 22_500, 18_000] + 3 * [16_384]


@both_links
@pytest.mark.parametrize("rcvbuf", [4_096, 65_536])
def test_a_slow_device_gets_the_largest_chunk_whole(
    make_rig: Callable[..., Rig], link: str, tmp_path: Path, rcvbuf: int
) -> None:
    """5 KB a second, over what TCP's window opens seldom: each time that half of a buffer is free, or so."""
    rig = make_rig(connection_sndbuf_bytes=limits.connection_sndbuf_bytes)
    content = CONTENT * 60
    load(rig, tmp_path, content, (limits.chunk_bytes_max,))
    peer = rig.login(link, rcvbuf=rcvbuf)
    rig.apply(stream(peer.conn, 1, 0, len(content), limits.chunk_bytes_max, content))
    while len(peer.unread) < 3 * limits.chunk_bytes_max:
        rig.plane.advance_clock(1000)
        rig.settle()
        peer.receive(5_000)
        assert not [event for event in rig.events if event[0] == plane.CLOSED]


@both_links
@pytest.mark.parametrize(
    ("order", "code"),
    [((plane.CLOSE, 4002, b""), 4002), ((plane.STOP, 1), plane.STALLED)],
    ids=["a close", "a stop"],
)
def test_an_end_waits_for_a_slow_chunk_but_not_for_ever(
    rig: Rig, link: str, tmp_path: Path, order: tuple[Any, ...], code: int
) -> None:
    """Who takes some of it again and again is not stuck, and would keep its place among the downloads."""
    load(rig, tmp_path, CONTENT * 20, (limits.chunk_bytes_max,))
    peer = rig.login(link, rcvbuf=4096)
    rig.apply(stream(peer.conn, 1, 0, SIZE * 20, limits.chunk_bytes_max, CONTENT * 20))
    rig.settle()
    rig.apply((order[0], peer.conn, *order[1:]))
    rig.events.clear()
    waited_ms = 0
    while not rig.events:
        assert rig.plane.statistics()["transfers_running"] == 1
        peer.receive(4096)
        rig.plane.advance_clock(5_000)
        waited_ms += 5_000
        rig.settle()
    assert rig.events == [(plane.CLOSED, peer.conn, 7, code)]
    assert 0 <= waited_ms - 4 * limits.write_stall_timeout_ms <= 5_000
    assert rig.plane.statistics()["transfers_running"] == 0


@both_links
def test_a_stop_that_comes_again_gives_no_more_time(rig: Rig, link: str, tmp_path: Path) -> None:
    """Nor does a fetch after it."""
    load(rig, tmp_path, CONTENT * 20, (limits.chunk_bytes_max,))
    peer = rig.login(link, rcvbuf=4096)
    rig.apply(stream(peer.conn, 1, 0, SIZE * 20, limits.chunk_bytes_max, CONTENT * 20))
    rig.settle()
    rig.apply((plane.STOP, peer.conn, 1))
    rig.events.clear()
    waited_ms = 0
    while not any(event[0] == plane.CLOSED for event in rig.events):
        peer.receive(4096)
        rig.plane.advance_clock(5_000)
        waited_ms += 5_000
        rig.settle()
        number = 1 + waited_ms // 5_000
        rig.apply(stream(peer.conn, number, 0, SIZE, limits.chunk_bytes_max, CONTENT * 20))
        rig.apply((plane.STOP, peer.conn, number))
    assert waited_ms <= 4 * limits.write_stall_timeout_ms + 5_000
    assert rig.plane.statistics()["transfers_running"] == 0


@both_links
def test_a_reader_stuck_within_a_chunk(rig: Rig, link: str, tmp_path: Path) -> None:
    load(rig, tmp_path, CONTENT * 20, (65536,))
    peer = rig.login(link, rcvbuf=4096)
    rig.apply(stream(peer.conn, 1, 0, SIZE * 20, 65536, CONTENT * 20))
    rig.settle()
    rig.plane.advance_clock(limits.write_stall_timeout_ms + 1000)
    assert rig.wait_event(plane.CLOSED) == (plane.CLOSED, peer.conn, 7, plane.STALLED)
    assert rig.plane.statistics()["transfers_running"] == 0
