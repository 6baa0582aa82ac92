"""The listener below TLS: curl, openssl s_client, and peers that do what no client should."""

import base64
import hashlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from otagate import config, limits
from otagate.cli import certs
from otagate.gateway.tls import operators_context

from .conftest import IMAGE, Server, serving
from .fake import TOKEN, FakeService
from .test_server import HEAD, UPLOAD, V1, grow, read_all, read_answer

HSTS = b"strict-transport-security: max-age=31536000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `otagate certs dev`."""
    made = tmp_path_factory.mktemp("certs")
    assert list(certs.make(made))
    return made


def context_of(folder: Path) -> ssl.SSLContext:
    """What the gateway makes of its configuration."""
    files = {"admin.certificate": folder / "server.pem", "admin.key": folder / "server.key"}
    flags = {"admin.tls": "true"} | {name: str(path) for name, path in files.items()}
    context = operators_context(config.load(flags=flags))
    assert context is not None
    return context


@pytest.fixture
async def secured(service: FakeService, folder: Path) -> AsyncIterator[Server]:
    context = context_of(folder)
    async with serving(service, lambda: context) as server:
        yield server


async def connect(server: Server, folder: Path) -> trio.SSLStream[trio.SocketStream]:
    """A client that insists on close_notify."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    stream = trio.SSLStream(await server.connect(), context, server_hostname="127.0.0.1")
    await stream.do_handshake()
    return stream


async def still_serves(server: Server, folder: Path) -> bool:
    return await server.curl("--cacert", str(folder / "ca.pem"), f"{server.url}/livez") != b""


@pytest.mark.parametrize("arguments", [["--tls-max", "1.2"], ["--tlsv1.3"], ["--http2"], ["--http1.0"]])
async def test_curl(
    secured: Server, folder: Path, arguments: list[str], no_log: pytest.LogCaptureFixture
) -> None:
    trusting = ["--cacert", str(folder / "ca.pem"), *arguments]
    image = bytes(range(256)) * 10_000
    digest = base64.b64encode(hashlib.md5(image).digest()).decode()
    upload = ["--data-binary", "@-", "-H", f"Content-MD5: {digest}", secured.url + UPLOAD]
    answer = await secured.curl(*trusting, *upload, input=image)
    assert json.loads(answer)["sha256"] == hashlib.sha256(image).hexdigest()
    assert await secured.curl(*trusting, f"{secured.url}{V1}/firmware/f1/content") == IMAGE
    rows = await secured.curl(*trusting, "-H", "Accept: text/csv", f"{secured.url}{V1}/products/lamp/devices")
    assert len(rows.splitlines()) == 3


async def test_browsers_are_told_to_stay_with_tls(
    secured: Server, server: Server, folder: Path, no_log: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"token": TOKEN})
    for at, is_secure in ((secured, True), (server, False)):
        json_type = ["-H", "Content-Type: application/json"]
        log_in = ["-i", "--cacert", str(folder / "ca.pem"), "-d", body, *json_type]
        head = (await at.curl(*log_in, f"{at.url}{V1}/session")).partition(b"\r\n\r\n")[0].lower()
        assert (b"; secure" in head, HSTS in head) == (is_secure, is_secure), head
        for path in ("/", "/nowhere", "/livez"):
            head = await at.curl("-I", "--cacert", str(folder / "ca.pem"), at.url + path)
            assert (HSTS in head.lower()) == is_secure
        head = await at.curl("-I", "-H", "Host:", "--cacert", str(folder / "ca.pem"), at.url)
        assert (b"400" in head, HSTS in head.lower()) == (True, is_secure)  # not read as a request at all


async def test_an_unknown_authority_is_not_trusted_by_curl(secured: Server) -> None:
    command = ["curl", "-sS", f"{secured.url}/livez"]
    done = await trio.run_process(command, check=False, capture_stderr=True)
    assert done.returncode == 60


async def test_answers_end_with_close_notify(secured: Server, folder: Path) -> None:
    """One that lasts until the close is known to be whole."""
    async with await connect(secured, folder) as stream:
        await stream.send_all(f"GET {V1}/firmware/f1/content HTTP/1.0\r\n{HEAD}\r\n".encode())
        assert (await read_all(stream)).endswith(IMAGE)  # type: ignore[arg-type]


async def test_keep_alive(secured: Server, folder: Path) -> None:
    async with await connect(secured, folder) as stream:
        assert stream.selected_alpn_protocol() is None
        for _ in range(3):
            await stream.send_all(f"GET {V1}/products/lamp HTTP/1.1\r\n{HEAD}\r\n".encode())
            assert (await read_answer(stream))[0] == 200  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", bytes(100), b"\x16\x03\x01\x02\x00"]
)
async def test_what_is_no_handshake(
    secured: Server, folder: Path, data: bytes, no_log: pytest.LogCaptureFixture
) -> None:
    async with await secured.connect() as stream:
        await stream.send_all(data)
        await stream.send_eof()
        assert b"HTTP" not in await read_all(stream)
    assert await still_serves(secured, folder)


async def test_a_slow_handshake_is_cut(
    service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch, no_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "admin_idle_timeout_s", 0.05)
    context = context_of(folder)
    async with serving(service, lambda: context) as server, await server.connect() as stream:
        await stream.send_all(b"\x16\x03\x01")
        assert await read_all(stream) == b""


async def test_shutdown_waits_for_no_handshake(
    service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "admin_graceful_timeout_ms", 3_600_000)
    asked = trio.Event()
    context = context_of(folder)

    def tls() -> ssl.SSLContext:
        asked.set()
        return context

    async with serving(service, tls) as server, await server.connect() as stream:
        await asked.wait()
        server.shutdown.set()
        with trio.fail_after(60):
            await server.ended.wait()
        assert await read_all(stream) == b""


async def test_shutdown_does_not_wait_for_a_reader_that_stopped(
    secured: Server,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_log: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(limits, "admin_graceful_timeout_ms", 100)
    monkeypatch.setattr(limits, "admin_close_ms", 100)
    grow(secured.service, tmp_path)
    stream = await connect(secured, folder)
    await stream.send_all(f"GET {V1}/firmware/f1/content HTTP/1.1\r\n{HEAD}\r\n".encode())
    assert await stream.receive_some(1)
    secured.shutdown.set()
    with trio.fail_after(60):
        await secured.ended.wait()
    await trio.aclose_forcefully(stream)


async def test_a_new_certificate_is_for_new_connections(
    service: FakeService, folder: Path, tmp_path: Path
) -> None:
    assert list(certs.make(tmp_path))
    now = context_of(folder)
    async with serving(service, lambda: now) as server, await connect(server, folder) as before:
        now = context_of(tmp_path)
        assert await still_serves(server, tmp_path)
        await before.send_all(f"GET {V1}/products/lamp HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert (await read_answer(before))[0] == 200  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        ["-tls1"],
        ["-tls1_1"],
        ["-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"],
        ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"],  # no AEAD
    ],
)
async def test_nothing_older_is_spoken(secured: Server, arguments: list[str]) -> None:
    where = ["-connect", f"127.0.0.1:{secured.port}"]
    command = ["openssl", "s_client", *where, *arguments]
    if "-cipher" not in arguments:
        command += ["-cipher", "ALL:@SECLEVEL=0"]
    done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
    assert done.returncode != 0
    assert b"Cipher is (NONE)" in done.stdout
