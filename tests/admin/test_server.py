"""The real listener: curl against it, and raw sockets that do what no client should."""

import base64
import hashlib
import json
import logging
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from otagate import limits
from otagate.errors import NotFound

from .conftest import IMAGE, Server, serving
from .fake import TOKEN, FakeService

V1 = "/api/v1"
UPLOAD = f"{V1}/firmware?product=lamp&name=n&version=2.0&file_name=a.bin"
HEAD = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"
BIG = 3_000_000


async def read_all(stream: trio.SocketStream) -> bytes:
    """What comes until the other side closes."""
    received = b""
    while True:
        try:
            data = await stream.receive_some()
        except trio.BrokenResourceError:  # a reset, for what we sent after its close
            return received
        if not data:
            return received
        received += data


async def read_answer(stream: trio.SocketStream) -> tuple[int, dict[str, str], bytes]:
    """One answer with a Content-Length: status, headers, body."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some(1)
    lines = received.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
    body = b""
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive_some(int(headers["content-length"]) - len(body))
    return int(lines[0].split()[1]), headers, body


# -- curl ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data-binary", "@-"],
        ["--data-binary", "@-", "-H", "Expect: 100-continue"],
        ["--data-binary", "@-", "-H", "Expect:"],
        ["-T", "-", "-X", "POST"],  # chunked
        ["-T", "-", "-X", "POST", "-H", "Content-Type: text/csv"],
        ["--http1.0", "--data-binary", "@-", "-H", "Expect:"],
        ["--http2", "--data-binary", "@-"],
    ],
)
async def test_upload(server: Server, arguments: list[str], no_log: pytest.LogCaptureFixture) -> None:
    image = bytes(range(256)) * (BIG // 256)
    digest = base64.b64encode(hashlib.md5(image).digest()).decode()
    answer = await server.curl(*arguments, "-H", f"Content-MD5: {digest}", server.url + UPLOAD, input=image)
    assert json.loads(answer)["sha256"] == hashlib.sha256(image).hexdigest()
    assert server.service.largest_write <= 2 * 2**16


async def test_download_whole_and_in_parts(
    server: Server, tmp_path: Path, no_log: pytest.LogCaptureFixture
) -> None:
    url = f"{server.url}{V1}/firmware/f1/content"
    assert await server.curl(url) == IMAGE
    assert await server.curl("-r", "10-19", url) == IMAGE[10:20]
    assert await server.curl("-r", "-5", url) == IMAGE[-5:]
    (tmp_path / "part").write_bytes(IMAGE[:400])
    await server.curl("-C", "-", "-o", str(tmp_path / "part"), url)
    assert (tmp_path / "part").read_bytes() == IMAGE
    await server.curl("-OJ", "--output-dir", str(tmp_path), url)
    assert (tmp_path / "_ 1.bin").read_bytes() == IMAGE
    head = await server.curl("-I", url)
    assert b"content-length: 1000\r\n" in head


async def test_a_file_shorter_than_its_record_breaks_off(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "f1").write_bytes(IMAGE[:500])
    async with await server.connect() as stream:
        await stream.send_all(f"GET {V1}/firmware/f1/content HTTP/1.1\r\n{HEAD}\r\n".encode())
        answer = await read_all(stream)
    assert b"content-length: 1000\r\n" in answer
    assert answer.endswith(IMAGE[:500])
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_bulk(server: Server, no_log: pytest.LogCaptureFixture) -> None:
    count = 30_000
    body = b"".join(b"n%d,a name,\r\n" % number for number in range(count))
    url = f"{server.url}{V1}/products/lamp/devices"
    answer = await server.curl(
        *("-T", "-", "-X", "POST", "-H", "Content-Type: text/csv", url),
        input=b"identifier,name,secret\r\n" + body,
    )
    lines = [json.loads(line) for line in answer.splitlines()]
    assert [line["line"] for line in lines] == list(range(2, count + 2))
    assert len(server.service.devices) == 2 + count


async def test_too_large_is_said_before_a_byte_is_sent(
    server: Server, no_log: pytest.LogCaptureFixture
) -> None:
    async with await server.connect() as stream:
        size = limits.image_bytes_max + 1
        head = f"POST {UPLOAD} HTTP/1.1\r\n{HEAD}Content-Length: {size}\r\nExpect: 100-continue\r\n\r\n"
        await stream.send_all(head.encode())
        status, headers, body = await read_answer(stream)
        assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
        assert headers["connection"] == "close"
        assert await read_all(stream) == b""


async def test_continue_is_said_when_the_body_is_wanted(server: Server) -> None:
    async with await server.connect() as stream:
        head = f"POST {UPLOAD} HTTP/1.1\r\n{HEAD}Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        await stream.send_all(head.encode())
        assert (await read_answer(stream))[0] == 100
        await stream.send_all(b"abc")
        assert (await read_answer(stream))[0] == 201
        await stream.send_all(f"GET /livez HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert (await read_answer(stream))[0] == 200


@pytest.mark.parametrize("length", ["Content-Length: 50000000", "Transfer-Encoding: chunked"])
async def test_refusal_is_read_by_a_client_that_sends_first(
    server: Server, no_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, length: str
) -> None:
    """No token: the answer is there although all of the body was pushed at a server that wants none of it."""
    monkeypatch.setattr(limits, "admin_linger_ms", 120_000)  # a busy machine takes its time
    async with await server.connect() as stream:
        await stream.send_all(f"POST {UPLOAD} HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        block = bytes(500_000)
        for _ in range(100):
            await stream.send_all(b"7A120\r\n%b\r\n" % block if "chunked" in length else block)
        if "chunked" in length:
            await stream.send_all(b"0\r\n\r\n")
        status, _, body = await read_answer(stream)
        assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")


async def test_a_client_that_never_stops_sending_is_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch, no_log: pytest.LogCaptureFixture
) -> None:
    """Refused when the queue of its body is full and nobody will ever take from it."""
    monkeypatch.setattr(limits, "admin_linger_ms", 0)
    decided = trio.Event()

    async def get_product(key: str) -> None:
        await decided.wait()
        raise NotFound("No such product.")

    monkeypatch.setattr(server.service, "get_product", get_product)

    async def send_for_ever(stream: trio.SocketStream) -> None:
        head = f"POST {UPLOAD} HTTP/1.1\r\n{HEAD}Content-Length: {limits.image_bytes_max}\r\n\r\n"
        await stream.send_all(head.encode())
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(bytes(limits.image_bytes_max - 1))

    async with await server.connect() as stream, trio.open_nursery() as nursery:
        nursery.start_soon(send_for_ever, stream)
        await trio.testing.wait_all_tasks_blocked(0.05)
        decided.set()


async def test_an_upload_takes_little_memory(server: Server, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(bytes(20_000_000))
    tracemalloc.start()
    try:
        await server.curl("--data-binary", f"@{tmp_path}/image", server.url + UPLOAD)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert server.service.firmware["f2"].size == 20_000_000
    assert peak < 3_000_000


# -- connections -----------------------------------------------------------------------------------------


async def test_keep_alive_and_pipelining(server: Server) -> None:
    async with await server.connect() as stream:
        request = f"GET {V1}/products/lamp HTTP/1.1\r\n{HEAD}\r\n".encode()
        await stream.send_all(request * 3)
        for _ in range(3):
            assert (await read_answer(stream))[0] == 200
        body = b'{"key":"k","name":"n","x":1}'
        post = f"POST {V1}/products HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n".encode()
        await stream.send_all(post + body + request)
        assert (await read_answer(stream))[0] == 422
        assert (await read_answer(stream))[0] == 200


async def test_small_unwanted_body_ends_the_connection_in_good_order(server: Server) -> None:
    async with await server.connect() as stream:
        await stream.send_all(f"POST /nowhere HTTP/1.1\r\n{HEAD}Content-Length: 3\r\n\r\nabc".encode())
        status, headers, _ = await read_answer(stream)
        assert (status, headers["connection"]) == (404, "close")
        assert await read_all(stream) == b""


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100) + b"\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"40"),
        (b"GET /" + b"a" * limits.admin_head_bytes_max, b"431"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"a" * limits.admin_head_bytes_max, b"431"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
         b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
         b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", b"200"),
        (b"GET /%ff%00/../x HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"\xff / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"", b""),
        (b"GET / HT", b"400"),
    ],
)  # fmt: skip
async def test_bad_http(server: Server, no_log: pytest.LogCaptureFixture, sent: bytes, status: bytes) -> None:
    async with await server.connect() as stream:
        await stream.send_all(sent)
        await stream.send_eof()
        answer = await read_all(stream)
    assert answer.partition(b" ")[2][: len(status) or 1] == status
    if status >= b"4":
        assert b'{"error":{"code":' in answer
    assert b"server:" not in answer.lower()
    assert await still_serves(server)


async def still_serves(server: Server) -> bool:
    async with await server.connect() as stream:
        await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await read_answer(stream))[0] == 200


def reset(stream: trio.SocketStream) -> None:
    """Close with RST."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.socket.close()


async def leave(stream: trio.SocketStream) -> None:
    await stream.aclose()


async def leave_by_reset(stream: trio.SocketStream) -> None:
    reset(stream)


async def leave_half(stream: trio.SocketStream) -> None:
    await stream.send_eof()
    await read_all(stream)
    await stream.aclose()


@pytest.mark.parametrize("length", ["Content-Length: 50000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("go", [leave, leave_by_reset, leave_half])
async def test_a_client_that_leaves_in_its_upload_leaves_nothing(
    server: Server,
    no_log: pytest.LogCaptureFixture,
    go: Callable[[trio.SocketStream], Awaitable[None]],
    length: str,
) -> None:
    stream = await server.connect()
    await stream.send_all(f"POST {UPLOAD} HTTP/1.1\r\n{HEAD}{length}\r\n\r\n".encode())
    await stream.send_all(b"3E8\r\n" + bytes(1000))
    await server.service.first_write.wait()
    assert server.service.partial.exists()
    await go(stream)
    await server.service.upload_ended.wait()
    assert not server.service.partial.exists()
    assert await still_serves(server)


@pytest.mark.parametrize("go", [leave, leave_by_reset])
async def test_a_client_that_leaves_its_download(
    server: Server,
    tmp_path: Path,
    no_log: pytest.LogCaptureFixture,
    go: Callable[[trio.SocketStream], Awaitable[None]],
) -> None:
    grow(server.service, tmp_path)
    stream = await server.connect()
    await stream.send_all(f"GET {V1}/firmware/f1/content HTTP/1.1\r\n{HEAD}\r\n".encode())
    assert await stream.receive_some()
    await go(stream)
    assert await still_serves(server)
    server.shutdown.set()
    await server.ended.wait()


def grow(service: FakeService, folder: Path) -> None:
    """Make the firmware's image larger than the kernel's buffers."""
    size = 64 * 2**20
    with (folder / "f1").open("wb") as file:
        file.truncate(size)
    old = service.firmware["f1"]
    values = {name: getattr(old, name) for name in old.__struct_fields__}
    service.firmware["f1"] = type(old)(**values | {"size": size})


# -- bounds on time and number, and the end ------------------------------------------------------------------


async def test_slow_head_is_cut(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "admin_idle_timeout_s", 0.05)
    async with serving(service) as server, await server.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost")
        assert await read_all(stream) == b""


async def test_idle_after_a_streamed_answer_is_cut(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "admin_idle_timeout_s", 0.05)
    async with serving(service) as server, await server.connect() as stream:
        head = f"GET {V1}/products/lamp/devices HTTP/1.1\r\n{HEAD}Accept: text/csv\r\n\r\n"
        await stream.send_all(head.encode())
        with trio.fail_after(10):
            assert (await read_all(stream)).endswith(b"\r\n0\r\n\r\n")


async def test_stalled_body_is_refused(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, no_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "admin_body_stall_ms", 50)
    monkeypatch.setattr(limits, "admin_linger_ms", 50)
    async with serving(service) as server, await server.connect() as stream:
        head = f"POST {V1}/products HTTP/1.1\r\n{HEAD}Content-Length: 30\r\n\r\n"
        await stream.send_all(head.encode() + b"{")
        status, _, body = await read_answer(stream)
        assert (status, json.loads(body)["error"]["code"]) == (408, "timeout")
        assert await read_all(stream) == b""


async def test_too_many_connections_are_closed(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "admin_connections_max", 2)
    async with serving(service) as server:
        held = [await server.connect(), await server.connect()]
        for stream in held:  # with a token: strangers would make room
            await stream.send_all(f"GET {V1}/products/lamp HTTP/1.1\r\n{HEAD}\r\n".encode())
            assert (await read_answer(stream))[0] == 200
        async with await server.connect() as refused:
            assert await read_all(refused) == b""
        await held[0].aclose()
        while True:  # its place is free as soon as the server has seen that it left
            async with await server.connect() as stream:
                try:
                    await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                    if await stream.receive_some():
                        break
                except trio.BrokenResourceError:
                    pass
        await held[1].aclose()


async def test_shutdown_ends_idle_connections_and_finishes_requests(server: Server) -> None:
    idle, busy = await server.connect(), await server.connect()
    await idle.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await read_answer(idle))[0] == 200
    await busy.send_all(f"POST {UPLOAD} HTTP/1.1\r\n{HEAD}Content-Length: 6\r\n\r\nabc".encode())
    await server.service.first_write.wait()
    server.shutdown.set()
    assert await read_all(idle) == b""
    assert not server.ended.is_set()
    await busy.send_all(b"def")
    assert (await read_answer(busy))[0] == 201
    await server.ended.wait()
    for stream in (idle, busy):
        await stream.aclose()
    with pytest.raises(OSError, match=r"connect"):
        await server.connect()


@pytest.mark.parametrize("timeout_ms", [0, 100])
async def test_shutdown_does_not_wait_for_a_reader_that_stopped(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_log: pytest.LogCaptureFixture,
    timeout_ms: int,
) -> None:
    monkeypatch.setattr(limits, "admin_graceful_timeout_ms", timeout_ms)
    grow(server.service, tmp_path)
    async with await server.connect() as stream:
        await stream.send_all(f"GET {V1}/firmware/f1/content HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert await stream.receive_some(1)
        server.shutdown.set()
        await server.ended.wait()


async def test_shutdown_does_not_wait_for_a_writer_that_stopped(
    server: Server, monkeypatch: pytest.MonkeyPatch, no_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "admin_graceful_timeout_ms", 0)
    async with await server.connect() as stream:
        await stream.send_all(f"POST {UPLOAD} HTTP/1.1\r\n{HEAD}Content-Length: 6\r\n\r\nabc".encode())
        await server.service.first_write.wait()
        server.shutdown.set()
        await server.ended.wait()
        assert not server.service.partial.exists()


async def test_a_reader_that_stopped_is_cut_by_the_kernel(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "admin_tcp_user_timeout_ms", 100)
    monkeypatch.setattr(limits, "admin_graceful_timeout_ms", 60_000)
    grow(service, tmp_path)
    async with serving(service) as server, await server.connect() as stream:
        await stream.send_all(f"GET {V1}/firmware/f1/content HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert await stream.receive_some(1)
        server.shutdown.set()
        await server.ended.wait()
