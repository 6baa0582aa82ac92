"""The gateway that is measured: one of our own, on a core, or any that runs already; and its admin API."""

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from .machine import PYTHON
from .processes import BenchError, Process, wait_until

PRODUCT = "bench"
READY_TIMEOUT_S = 60.0
DEFAULT_ADMIN_URL = "http://127.0.0.1:7780"

Json = dict[str, Any]


class Api:
    """Requests to the admin listener. BenchError says what was refused."""

    def __init__(self, url: str, token: str) -> None:
        timeout = httpx.Timeout(30.0, read=300.0, write=300.0)
        self._client = httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False
        )

    def close(self) -> None:
        """No more requests."""
        self._client.close()

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> Json:
        """One request, one JSON answer."""
        if body is not None:
            options["content"] = json.dumps(body).encode()
            options["headers"] = {"content-type": "application/json"}
        try:
            response = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise BenchError(f"{method} {path}: {error or type(error).__name__}") from error
        if response.status_code >= 400:
            raise BenchError(f"{method} {path}: {response.status_code} {response.text[:300]}")
        answer: Json = response.json() if response.content else {}
        return answer

    def register(self, count: int, first: int = 0, product: str = PRODUCT) -> float:
        """Devices by number, as the fleet knows them; returns the seconds it took."""
        started = time.monotonic()
        registered = 0
        with self._client.stream(
            "POST",
            f"/api/v1/products/{product}/devices",
            content=_pieces(
                b'{"identifier":"d%d","name":"device %d","secret":"s%031d"}\n' % (number, number, number)
                for number in range(first, first + count)
            ),
            headers={"content-type": "application/x-ndjson"},
        ) as response:
            if response.status_code >= 400:
                raise BenchError(f"registering: {response.status_code} {response.read()[:300]!r}")
            for piece in response.iter_bytes():
                registered += piece.count(b"\n")
        if registered != count:
            raise BenchError(f"only {registered} of {count} devices were registered")
        return time.monotonic() - started

    def add_product(self, key: str = PRODUCT) -> None:
        """The product that the fleet's devices belong to."""
        self.call("POST", "/api/v1/products", {"key": key, "name": f"Bench {key}"})

    def add_firmware(self, size: int, version: str, product: str = PRODUCT) -> str:
        """Random bytes; returns the id of the firmware."""
        name = f"{product}-{version}"[:50]
        query = {
            "product": product,
            "name": name,
            "version": version,
            "file_name": f"f{secrets.token_hex(4)}.bin",
        }
        answer = self.call(
            "POST",
            "/api/v1/firmware",
            params=query,
            content=_random_pieces(size),
            headers={"content-type": "application/octet-stream", "content-length": str(size)},
        )
        return str(answer["id"])

    def create_batch(
        self, firmware: str, *, retries: int = 0, timeout_minutes: int = 60, directed: int = 0
    ) -> Json:
        """Over all eligible devices, or the first `directed` ones; at once."""
        body: Json = {
            "firmware": firmware,
            "range": "directed" if directed else "all",
            "validity_days": 1,
            "policy": "standard",
            "timeout_minutes": timeout_minutes,
            "retries": retries,
        }
        if directed:
            body["devices"] = [f"d{number}" for number in range(directed)]
        if retries:
            body["retry_interval_minutes"] = 1
        return self.call("POST", "/api/v1/batches", body)

    def batch(self, identity: str) -> Json:
        """As it is now."""
        return self.call("GET", f"/api/v1/batches/{identity}")

    def abort(self, identity: str) -> Json:
        """End a batch."""
        return self.call("POST", f"/api/v1/batches/{identity}/abort")

    def wait_batch(self, identity: str, *, timeout_s: float = 600.0) -> Json:
        """Until it is no more in progress."""
        wait_until(
            lambda: self.batch(identity)["status"] != "in_progress", timeout_s, f"the end of {identity}"
        )
        return self.batch(identity)


class Gateway:
    """A running gateway: ports, API, and its process if it is ours."""

    def __init__(self, device_port: int, api: Api, process: Process | None) -> None:
        self.device_port = device_port
        self.api = api
        self.process = process

    def pids(self) -> list[int]:
        """Of its processes; none if it is not ours."""
        return self.process.pids() if self.process is not None else []

    def stop(self) -> None:
        """End the process, if it is ours, and our requests to it."""
        self.api.close()
        if self.process is not None:
            self.process.stop()

    def __enter__(self) -> "Gateway":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(
    folder: Path,
    *,
    core: int | None,
    devices_max: int = 19_000,
    data: Path | None = None,
    settings: dict[str, Any] | None = None,
) -> Gateway:
    """A gateway of our own on free ports; with `data`, on a store that is there already."""
    data = data or folder / "data"
    device_port, admin_port = free_ports(2)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTAGATE_")}
    environ["OTAGATE_DEVICE__CONNECTIONS_MAX"] = str(devices_max)
    for name, value in (settings or {}).items():
        environ["OTAGATE_" + name.replace(".", "__").upper()] = str(value)
    process = Process(
        [
            *(PYTHON, "-P", "-m", "otagate", "serve", "--data", str(data)),
            *("--device-listen", f"127.0.0.1:{device_port}", "--admin-listen", f"127.0.0.1:{admin_port}"),
        ],
        folder / "gateway.log",
        core=core,
        environ=environ,
    )
    try:
        url = f"http://127.0.0.1:{admin_port}"
        _wait_ready(url, process)
        return Gateway(device_port, Api(url, (data / "admin-token").read_text().strip()), process)
    except BaseException:
        process.stop()
        raise


def attach(url: str, admin_url: str, token: str) -> Gateway:
    """A gateway that somebody else runs, on this machine: `tcp://HOST:PORT` or `ws://HOST:PORT/device`."""
    for address in (url, admin_url):
        host = urlsplit(address).hostname or ""
        if not socket.gethostbyname(host).startswith("127."):
            raise BenchError(f"{address} is not on this machine: the bench speaks to 127.0.0.0/8 only")
    return Gateway(urlsplit(url).port or 7700, Api(admin_url, token), None)


def _wait_ready(url: str, process: Process) -> None:
    def ready() -> bool:
        process.check()
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    wait_until(ready, READY_TIMEOUT_S, "the gateway's start", pause_s=0.01)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def _pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Lines in pieces of some 64 KiB."""
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        gathered.append(line)
        size += len(line)
        if size > 65536:
            yield b"".join(gathered)
            gathered, size = [], 0
    yield b"".join(gathered)


def _random_pieces(size: int) -> Iterator[bytes]:
    while size:
        piece = secrets.token_bytes(min(size, 1 << 20))
        size -= len(piece)
        yield piece
