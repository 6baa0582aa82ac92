"""The scenarios that other servers can do too, by the same fleet as the gateway's."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from otagate.wire.codec import encode_tcp_frame, encode_websocket_frame

from .. import machine
from ..fleet import Fleet
from ..measure import Bench, Meter, Result
from ..processes import Process
from .registry import IMAGE_BYTES, Peer

SETTLE_S = 1.0
WARM_UP_S = 0.5
MQTT_PUBLISH = b"\x30\x96\x03\x00\x04push" + b" " * 400  # PUBLISH, QoS 0


@contextmanager
def running(bench: Bench, peer: Peer, devices: int) -> Iterator[tuple[Process, int, Fleet]]:
    """The server, its port, and a fleet for it."""
    folder = bench.subfolder()
    process, port = peer.start(folder, bench.server_core)
    with (
        process,
        Fleet(
            devices,
            folder,
            core=bench.fleet_core,
            links=[peer.link],
            processes=bench.processes,
            seed=bench.seed,
            on_look=bench.progress.show,
        ) as fleet,
    ):
        fleet.configure(port, work="requests", login=False, request=peer.request.decode("latin-1"))
        yield process, port, fleet


def _connect(fleet: Fleet, count: int | None = None) -> None:
    fleet.connect(count)
    goal = fleet.count if count is None else count
    fleet.wait(lambda counters: counters["online"], goal, "connections")


def idle(bench: Bench, peer: Peer, *, low: int, high: int) -> Result:
    """Private memory per connection, handshake done."""
    with running(bench, peer, high) as (process, _, fleet):
        result = Result("idle", peer.name, {"low": low, "high": high})
        _connect(fleet, low)
        time.sleep(SETTLE_S)
        few = machine.private_bytes(process.pids())
        _connect(fleet)
        time.sleep(SETTLE_S)
        many = machine.private_bytes(process.pids())
        result.figure("bytes_per_device", (many - few) / (high - low), "B")
        return result


def login(bench: Bench, peer: Peer, *, devices: int) -> Result:
    """Connections with their handshake; of HTTP, with a first request."""
    with running(bench, peer, devices) as (process, _, fleet):
        result = Result("login", peer.name, {"devices": devices, "kind": "handshake only"})
        meter = Meter(bench, process.pids(), fleet.pids())
        started_ns = time.monotonic_ns()
        fleet.connect()
        counters = fleet.wait(lambda counters: counters["logged_in"].count, devices, "connections")
        meter.read(result)
        seconds = (counters["logged_in"].last_ns - started_ns) / 1e9
        result.figure("logins", devices / seconds, "/s")
        result.figure("logins_per_cpu_s", devices / result.server_cpu_s, "/CPU-s")
        result.latency("connect to open", fleet.histogram("login"))
        return result


def report(bench: Bench, peer: Peer, *, devices: int, depth: int, seconds: float) -> Result:
    """128 bytes sent, an answer read; `depth` in flight on each connection."""
    with running(bench, peer, devices) as (process, port, fleet):
        result = Result("report", peer.name, {"devices": devices, "in_flight": depth})
        _connect(fleet)
        request = peer.request.decode("latin-1")
        fleet.configure(port, work="requests", login=False, depth=depth, request=request)
        fleet.start()
        time.sleep(WARM_UP_S)
        fleet.reset()
        meter = Meter(bench, process.pids(), fleet.pids())
        bench.progress.pass_time(seconds)
        tally = fleet.tally("answers")
        meter.read(result)
        fleet.stop_work()
        result.figure("reports", tally.count / max(tally.seconds, 1e-9), "/s")
        result.figure("reports_per_cpu_s", tally.count / result.server_cpu_s, "/CPU-s")
        result.latency("answer", fleet.histogram("answer"))
        return result


def stream(bench: Bench, peer: Peer, *, receivers: int, chunk: int, seconds: float) -> Result:
    """A 16 MiB image again and again to each of the receivers, who drop it in their kernel."""
    with running(bench, peer, receivers) as (process, port, fleet):
        result = Result("stream", peer.name, {"receivers": receivers, "chunk": f"{chunk // 1024} KiB"})
        _connect(fleet)
        fleet.configure(
            port, work="stream", login=False, verify=False, discard=True, read_bytes=262_144,
            image_size=IMAGE_BYTES, request=peer.stream_request(chunk).decode("latin-1"),
        )  # fmt: skip
        fleet.start()
        time.sleep(WARM_UP_S)
        fleet.reset()
        meter = Meter(bench, process.pids(), fleet.pids())
        started = time.monotonic()
        bench.progress.pass_time(seconds)
        counters = fleet.counters()
        elapsed = time.monotonic() - started
        meter.read(result)
        result.figure("rate", counters["image_bytes"] / elapsed / 1e6, "MB/s")
        result.figure("rate_per_cpu_s", counters["image_bytes"] / result.server_cpu_s / 1e6, "MB/CPU-s")
        return result


def push(bench: Bench, peer: Peer, *, devices: int) -> Result:
    """A message of 400 bytes to everyone, from the request to the last who has read it; nothing durable."""
    with running(bench, peer, devices) as (process, port, fleet):
        result = Result("push", peer.name, {"devices": devices, "kind": "fan-out only"})
        fleet.configure(port, work="stream", login=False, request="")
        _connect(fleet)
        time.sleep(WARM_UP_S)
        with _speaker(peer, port) as speak:
            fleet.reset()
            fleet.mark()
            meter = Meter(bench, process.pids(), fleet.pids())
            started_ns = time.monotonic_ns()
            speak.sendall(_order(peer))
            counters = fleet.wait(lambda counters: counters["pushes"].count, devices, "pushes", pause_s=0.1)
            meter.read(result)
        result.limit = ""
        result.figure("all_have_read", (counters["pushes"].last_ns - started_ns) / 1e6, "ms")
        result.figure("server_cpu", result.server_cpu_s * 1000, "CPU-ms")
        return result


@contextmanager
def _speaker(peer: Peer, port: int) -> Iterator[socket.socket]:
    """A connection that can order a push."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        if peer.link == "websocket":
            connection.sendall(
                b"GET /device HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            connection.recv(4096)
        elif peer.link == "mqtt":
            connection.sendall(b"\x10\x14\x00\x04MQTT\x04\x02\x02\x58\x00\x08speaker1")
            connection.recv(4)
        yield connection


def _order(peer: Peer) -> bytes:
    if peer.link == "mqtt":
        return MQTT_PUBLISH
    if peer.link == "tcp":
        return encode_tcp_frame(1, b"P")
    return encode_websocket_frame(1, b"P", b"\1\2\3\4")
