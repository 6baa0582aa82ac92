"""TLS beside nginx and trio.SSLStream: the same OpenSSL, key, clients and work, in turns on one core.

What is compared is the server's processor time: so many handshakes, or bytes, for each second of it. A rate
on the clock would tell of the clients, whose part of a handshake is the dearer one. One core of them leaves a
third of the server's idle, where nearly each handshake wakes the server alone. What a full core does, as when
a fleet returns, is seen beside a neighbour that never rests: the server has less of its core, and is busy.
"""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from otagate.wire.messages import login_mac

from .. import machine
from ..machine import PYTHON
from ..measure import Bench, Meter, Result, World
from ..peers.registry import HTTP_IMAGE, IMAGE_BYTES, NGINX_TLS, NGINX_TLS_SNDBUF, TRIO_TLS, Peer
from ..processes import BenchError, Process
from ..report import Report, markdown_table, with_spread

MIB = 2**20
CHUNK_BYTES = 262_144
CHUNK_OVERHEAD_BYTES = 20  # frame header 4, chunk header 16 (docs/protocol.md)
READ_BYTES = 262_144
THREADS = 32
SETTLE_S = 1.0
PREFACE = b"OTG\x01"
REQUEST = b"GET /ok HTTP/1.1\r\nHost: x\r\n\r\n"
DEVICE = "bench/d0"
FILES = (("certificate", "pem"), ("key", "key"))
FULL, RESUMED, FULL_MUTUAL = "full handshakes", "resumptions", "full handshakes, mutual"
FULL_BUSY, RESUMED_BUSY = "full handshakes, busy core", "resumptions, busy core"
NEIGHBOUR = (PYTHON, "-c", "while True: pass")
STREAMING = "streaming"
IDLE, IDLE_MUTUAL = "idle", "idle, with a client certificate, before the login"
ROWS = (
    ("full handshakes, on a core that is busy", FULL_BUSY, "per_cpu_s"),
    ("resumptions, on a core that is busy", RESUMED_BUSY, "per_cpu_s"),
    ("full handshakes, on a core that has nothing else to do", FULL, "per_cpu_s"),
    ("resumptions, on a core that has nothing else to do", RESUMED, "per_cpu_s"),
    ("streaming", STREAMING, "per_cpu_s"),
    ("full handshakes with client certificates", FULL_MUTUAL, "per_cpu_s"),
    ("private memory of an idle connection, logged in", IDLE, "bytes_per_connection"),
    ("the same, with a client certificate, before the login", IDLE_MUTUAL, "bytes_per_connection"),
)


@dataclass
class Server:
    """The gateway or nginx. `request` is answered at once: by then a session ticket is here, too."""

    name: str
    port: int
    pids: Callable[[], list[int]]
    request: bytes
    context: ssl.SSLContext

    def connect(self, session: ssl.SSLSession | None = None) -> tuple[ssl.SSLSocket, bytes]:
        """Through the handshake, and the first answer."""
        raw = socket.create_connection(("127.0.0.1", self.port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secured = self.context.wrap_socket(raw, server_hostname="localhost", session=session)
        secured.sendall(self.request)
        return secured, secured.recv(READ_BYTES)

    def private_bytes(self) -> int:
        """Of its processes, at rest."""
        time.sleep(SETTLE_S)
        return machine.private_bytes(self.pids())


class Device:
    """One device of the world, on the raw link."""

    def __init__(self, server: Server, number: int) -> None:
        self.socket, self._unread = server.connect()
        nonce = self.receive()["nonce"]
        device, secret = f"d{number}", f"s{number:031d}"
        mac = login_mac(secret, nonce, "bench", device)
        hello = {"type": "hello", "product": "bench", "device": device, "version": "1.0", "mac": mac}
        self.send(hello)
        welcome = self.receive()
        if welcome["type"] != "welcome":
            raise BenchError(f"{device}: {welcome}")

    def send(self, message: dict[str, Any]) -> None:
        """A text message."""
        payload = json.dumps(message).encode()
        self.socket.sendall(b"\x01" + len(payload).to_bytes(3, "big") + payload)

    def receive(self) -> Any:
        """The next message."""
        while len(self._unread) < 4 or len(self._unread) < 4 + int.from_bytes(self._unread[1:4], "big"):
            self._unread += self.socket.recv(READ_BYTES)
        size = 4 + int.from_bytes(self._unread[1:4], "big")
        message, self._unread = self._unread[4:size], self._unread[size:]
        return json.loads(message)


def in_threads(work: list[Callable[[], Any]]) -> None:
    """All at once. Raises what one of them raised."""
    failures: list[BaseException] = []

    def guarded(part: Callable[[], Any]) -> None:
        try:
            part()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(part,)) for part in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def tls(
    bench: Bench,
    *,
    handshakes: int = 2_560,
    streams: int = 4,
    rounds: int = 16,
    turns: int = 3,
    idle: int = 3_000,
) -> list[Result]:
    """TLS beside nginx: handshakes, resumptions and bytes for each second of the server's processor, and
    private memory for each idle connection."""
    folder = bench.subfolder()
    command = [PYTHON, "-P", "-m", "otagate", "certs", "dev", str(folder / "certs"), "--devices", DEVICE]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    trusting = ssl.create_default_context(cafile=folder / "certs/ca.pem")
    settings = {"device.tls": "required"}
    settings |= {f"tls.{name}": str((folder / f"certs/server.{end}").absolute()) for name, end in FILES}
    results = []
    with (
        bench.world(idle, **settings) as world,
        _peer(bench, folder, trusting, NGINX_TLS) as nginx,
        _peer(bench, folder, trusting, NGINX_TLS_SNDBUF) as nginx_sndbuf,
        _peer(bench, folder, trusting, TRIO_TLS) as slow,
    ):
        server = Server("gateway", world.gateway.device_port, world.pids, PREFACE, trusting)
        for kind in (FULL, RESUMED, FULL_BUSY, RESUMED_BUSY):
            with _neighbour(bench) if kind in (FULL_BUSY, RESUMED_BUSY) else nullcontext():
                for _ in range(turns):
                    results += _compare([_shake(bench, one, handshakes, kind) for one in (server, nginx)])
                results.append(_shake(bench, slow, handshakes // 4, kind))
        for _ in range(turns):
            results += _compare(_stream(bench, world, [server, nginx, nginx_sndbuf], streams, rounds))
        logged_in = _idle(bench, server, idle, IDLE, lambda number: Device(server, number))
        others = [
            _idle(bench, peer, idle, IDLE, lambda _, peer=peer: peer.connect()) for peer in (nginx, slow)
        ]
        results += _compare([logged_in, *others], "bytes_per_connection")
    settings |= {"tls.client_ca": str((folder / "certs/ca.pem").absolute()), "device.hello_timeout_s": "600"}
    settings["tls.client_certificates"] = "required"
    mutual = ssl.create_default_context(cafile=folder / "certs/ca.pem")
    mutual.load_cert_chain(*(folder / f"certs/devices/{DEVICE}.{end}" for _, end in FILES))
    with bench.world(1, **settings) as world:
        server = Server("gateway", world.gateway.device_port, world.pids, PREFACE, mutual)
        results.append(_shake(bench, server, handshakes, FULL_MUTUAL))
        results.append(_idle(bench, server, idle, IDLE_MUTUAL, lambda _: server.connect()))
    return results


def tls_table(report: Report) -> list[str]:
    """What was measured, as Markdown: a row for each kind of work, a column for each server."""

    def told(work: str, subject: str, figure: str) -> str:
        for result in report.results:
            if (result.parameters["work"], result.subject) == (work, subject) and figure in result.figures:
                return with_spread(result.figures[figure])
        return ""

    others = (NGINX_TLS.name, NGINX_TLS_SNDBUF.name, TRIO_TLS.name)
    cells = [
        (
            name,
            told(work, "gateway", figure),
            told(work, "gateway", f"to_{others[0]}"),
            *(told(work, other, figure) for other in others),
        )
        for name, work, figure in ROWS
    ]
    facts = report.facts
    return [
        *markdown_table(("", "gateway", f"to {others[0]}", *others), cells),
        "",
        f"{facts['processor']}, one of them for the server; {facts['openssl']}, Linux {facts['kernel']}, "
        f"Python {facts['python']}; {facts['measured']}. Medians, with the smallest and the largest.",
    ]


@contextmanager
def _peer(bench: Bench, folder: Path, trusting: ssl.SSLContext, peer: Peer) -> Iterator[Server]:
    place = bench.subfolder()
    shutil.copytree(folder / "certs", place / "certs")
    process, port = peer.start(place, bench.server_core)
    with process:
        yield Server(peer.name, port, process.pids, REQUEST, trusting)


@contextmanager
def _neighbour(bench: Bench) -> Iterator[None]:
    """A process on the server's core that takes whatever it gets. None where there is no such core."""
    if bench.server_core is None:
        yield
        return
    with Process(NEIGHBOUR, bench.subfolder() / "neighbour.log", core=bench.server_core):
        yield


def _shake(bench: Bench, server: Server, count: int, kind: str) -> Result:
    """So many connections, one after the other in each of THREADS."""
    resume = kind in (RESUMED, RESUMED_BUSY)
    bench.say(f"{server.name}: {count} {kind}")

    def work() -> None:
        session = None
        if resume:
            first, _ = server.connect()
            session = first.session
            first.close()
        for _ in range(count // THREADS):
            secured, _ = server.connect(session)
            if secured.session_reused != resume:
                raise BenchError(f"{server.name}: {kind}, but session_reused is {not resume}")
            session = secured.session if resume else None
            secured.close()

    result = Result("tls", server.name, {"work": kind, "connections": count // THREADS * THREADS})
    meter = Meter(bench, server.pids(), [])
    in_threads([work] * THREADS)
    meter.read(result)
    result.limit = ""
    result.figure("per_cpu_s", result.parameters["connections"] / result.server_cpu_s, "/CPU-s")
    return result


def _stream(bench: Bench, world: World, servers: list[Server], streams: int, rounds: int) -> list[Result]:
    """An image to several receivers, again and again."""
    firmware = world.firmware(IMAGE_BYTES)
    devices = [Device(servers[0], number) for number in range(streams)]
    batch = world.api.create_batch(firmware)
    for device in devices:
        device.receive()  # the upgrade message
    fetch = {"type": "fetch", "firmware": firmware, "offset": 0, "chunk_size": CHUNK_BYTES}
    streamed = IMAGE_BYTES + -(-IMAGE_BYTES // CHUNK_BYTES) * CHUNK_OVERHEAD_BYTES

    def download(device: Device) -> None:
        for transfer in range(1, rounds + 1):
            device.send({**fetch, "transfer": transfer})
            _swallow(device.socket, streamed)

    def get(nginx: Server) -> None:
        connection, _ = nginx.connect()
        with connection:
            for _ in range(rounds):
                connection.sendall(HTTP_IMAGE)
                head = connection.recv(READ_BYTES)
                _swallow(connection, head.index(b"\r\n\r\n") + 4 + IMAGE_BYTES - len(head))

    results = []
    for server in servers:
        ours = server is servers[0]
        work = [partial(download, device) if ours else partial(get, server) for device in devices]
        bench.say(f"{server.name}: {IMAGE_BYTES // MIB} MiB to {streams}, {rounds} times")
        result = Result("tls", server.name, {"work": STREAMING, "receivers": streams})
        meter = Meter(bench, server.pids(), [])
        in_threads(work)
        meter.read(result)
        result.limit = ""
        megabytes = streams * rounds * IMAGE_BYTES / 1e6
        result.figure("per_cpu_s", megabytes / result.server_cpu_s, "MB/CPU-s")
        result.figure("rate", megabytes / result.wall_s, "MB/s")
        results.append(result)
    world.api.abort(batch["id"])
    for device in devices:
        device.socket.close()
    return results


def _swallow(connection: ssl.SSLSocket, size: int) -> None:
    buffer = bytearray(READ_BYTES)
    while size > 0:
        received = connection.recv_into(buffer)
        if received == 0:
            raise BenchError("the stream ended")
        size -= received


def _idle(bench: Bench, server: Server, count: int, kind: str, enter: Callable[[int], Any]) -> Result:
    """Private memory for each connection: the slope between a third of them and all."""
    few = count // 3
    bench.say(f"{server.name}: {count} {kind}")
    held = [enter(number) for number in range(few)]
    at_few = server.private_bytes()
    held += [enter(number) for number in range(few, count)]
    result = Result("tls", server.name, {"work": kind, "low": few, "high": count})
    result.figure("bytes_per_connection", (server.private_bytes() - at_few) / (count - few), "B")
    for connection in held:
        (connection.socket if isinstance(connection, Device) else connection[0]).close()
    return result


def _compare(results: list[Result], figure: str = "per_cpu_s") -> list[Result]:
    """The gateway and others, with its ratios to them."""
    ours, *others = results
    for other in others:
        ratio = ours.figures[figure].value / other.figures[figure].value
        ours.figure(f"to_{other.subject}", ratio, "×")
    return results
