"""A whole gateway above a simulated plane: memory store, virtual time, no socket.

`Harness` wires the real rooms to `SimulatedPlane`; `SimulatedDevice` is one connection, whose messages are
put into the plane's events and whose answers are read back. Time is Trio's: under MockClock with autojump
an hour takes no time at all.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from otagate import config, plane
from otagate.errors import RequestError
from otagate.gateway.clock import Clock
from otagate.gateway.server import Gateway
from otagate.gateway.service import Service
from otagate.gateway.views import CreateBatchRequest, CreateProductRequest, RegisterDeviceRequest
from otagate.store.interface import AddFirmware, Store
from otagate.store.memory import MemoryStore
from otagate.wire import messages

NONCE = "00112233445566778899aabbccddeeff"
SECRET = "s" * 32
EPOCH_MS = 1_800_000_000_000
SIZE = 100_000


class SimulatedPlane:
    """What the gateway sees of a plane: events out, commands in."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.devices: dict[int, SimulatedDevice] = {}
        self.streams: list[tuple[Any, ...]] = []
        self.commands: list[tuple[Any, ...]] = []
        self._ready = trio.Event()
        self._last_conn = 0

    @property
    def pending(self) -> bool:
        return False

    def put(self, *event: Any) -> None:
        self.events.append(event)
        self._ready.set()

    async def wait_ready(self) -> None:
        await self._ready.wait()

    def drain(self) -> list[tuple[Any, ...]]:
        self._ready = trio.Event()
        events, self.events = self.events, []
        return events

    def apply(self, commands: Sequence[tuple[Any, ...]]) -> None:
        for command in commands:
            self.commands.append(command)
            kind, *rest = command
            device = self.devices.get(rest[0])
            if kind in (plane.IMAGE, plane.DIGESTS, plane.DROP_IMAGE):
                continue
            if kind == plane.STREAM:
                self.streams.append(tuple(rest))
            elif kind == plane.ADMIT and device is None:
                self.put(plane.CLOSED, rest[0], rest[1], 1006)
            elif device is not None:
                device.command(kind, rest[1:])

    def last_seen_ms(self, conn: int) -> int:
        return 0

    def unlisten(self) -> None:
        pass

    def connect(self) -> int:
        self._last_conn += 1
        return self._last_conn


class SimulatedDevice:
    """One connection of a device."""

    def __init__(self, plane_: SimulatedPlane, identifier: str) -> None:
        self.plane = plane_
        self.identifier = identifier
        self.conn = plane_.connect()
        plane_.devices[self.conn] = self
        self.number = 0
        self.inbox: deque[Any] = deque()
        self.closed: int | None = None
        self._changed = trio.Event()

    def command(self, kind: int, rest: Sequence[Any]) -> None:
        if kind == plane.SEND:
            self.inbox.append(messages.decode_gateway_message(rest[0]))
        elif kind == plane.ADMIT:
            self.number = rest[0]
        elif kind == plane.CLOSE:
            self.closed = rest[0]
            self.lose()
        self._changed.set()

    def lose(self) -> None:
        """The connection is gone."""
        if self.plane.devices.pop(self.conn, None) is not None and self.number:
            self.plane.put(plane.CLOSED, self.conn, self.number, 1006)

    def send_raw(self, payload: bytes) -> None:
        assert self.number, "not admitted yet"
        self.plane.put(plane.MESSAGE, self.conn, self.number, payload)

    def send(self, message: messages.DeviceMessage) -> None:
        self.send_raw(messages.encode(message))

    def send_hello(self, version: str, secret: str = SECRET, **fields: Any) -> None:
        mac = messages.login_mac(secret, NONCE, "lamp", self.identifier)
        hello = messages.Hello(product="lamp", device=self.identifier, version=version, mac=mac, **fields)
        self.plane.put(plane.HELLO, self.conn, messages.encode(hello), NONCE.encode())

    async def receive(self, kind: type[Any] | None = None, within_s: float = 3600) -> Any:
        """The next message of the gateway, which must be of this kind."""
        with trio.fail_after(within_s):
            while not self.inbox:
                self._changed = trio.Event()
                await self._changed.wait()
        message = self.inbox.popleft()
        assert kind is None or isinstance(message, kind), message
        return message

    async def expect_silence(self, seconds: float) -> None:
        """Nothing comes within this much virtual time."""
        await trio.sleep(seconds)
        assert not self.inbox, self.inbox


class Harness:
    """A gateway and its operators."""

    def __init__(self, gateway: Gateway, plane_: SimulatedPlane, store: Store) -> None:
        self.gateway = gateway
        self.plane = plane_
        self.store = store
        self.service = Service(gateway, NoBlobs(), b"")

    @property
    def now_ms(self) -> int:
        return self.gateway.clock.now_ms()

    async def log_in(self, identifier: str, version: str = "1.0", **fields: Any) -> SimulatedDevice:
        """A device on a new connection, welcomed."""
        device = SimulatedDevice(self.plane, identifier)
        device.send_hello(version, **fields)
        await device.receive(messages.Welcome)
        return device

    async def set_up(self, *identifiers: str, target: str = "2.0") -> None:
        """Product `lamp`, these devices (each has logged in once), firmware f1."""
        await self.service.create_product(CreateProductRequest("lamp", "Lamp"))
        await self.add_firmware(target)
        for identifier in identifiers:
            await self.service.register_device("lamp", RegisterDeviceRequest(identifier, secret=SECRET))
            device = await self.log_in(identifier)
            device.lose()
        await trio.sleep(0.1)

    async def add_firmware(self, version: str) -> None:
        await self.gateway.journal.write(
            AddFirmware(
                product="lamp",
                name=f"fw-{version}",
                version=version,
                file_name="fw.bin",
                description="",
                size=SIZE,
                md5="0" * 32,
                sha256="0" * 64,
                at_ms=self.now_ms,
            )
        )

    async def create_batch(self, firmware: str = "f1", **parameters: Any) -> str:
        defaults = {
            "range": "all",
            "validity_days": 1,
            "policy": "standard",
            "timeout_minutes": 10,
            "retries": 0,
        }
        request = CreateBatchRequest(firmware=firmware, **(defaults | parameters))
        return (await self.service.create_batch(request)).id

    async def state(self, batch: str, identifier: str) -> str:
        return (await self.service.get_upgrade(batch, identifier)).state

    async def wait_state(self, batch: str, identifier: str, state: str, within_s: float = 3600) -> Any:
        """Wait, in virtual time, until the device upgrade is in this state; its details."""
        with trio.fail_after(within_s):
            while True:
                details = await self.service.get_upgrade(batch, identifier)
                if details.state == state:
                    return details
                await trio.sleep(0.05)


class NoBlobs:
    """There are no bytes here."""

    def check_room(self) -> None:
        pass


def digests(path: Path, size: int, chunk_bytes: int) -> bytes:
    return bytes(4 * (size // chunk_bytes + 1))


@asynccontextmanager
async def gateway_harness(store: Store | None = None, **sections: Any) -> AsyncIterator[Harness]:
    """A running gateway on virtual time; `store` to start on one that has been used before."""
    configuration = config.Configuration(
        **{name: getattr(config, name.capitalize())(**values) for name, values in sections.items()}
    )
    store = store or MemoryStore()
    plane_ = SimulatedPlane()

    def elapsed_ms() -> int:
        return int(trio.current_time() * 1000)

    clock = Clock(
        await store.newest_time_ms(), wall_ms=lambda: EPOCH_MS + elapsed_ms(), elapsed_ms=elapsed_ms
    )
    async with trio.open_nursery() as nursery:
        gateway = Gateway(configuration, store, plane_, clock, lambda sha256: Path(sha256), nursery)
        await gateway.take_up()
        nursery.start_soon(gateway.run, plane_.wait_ready)
        yield Harness(gateway, plane_, store)
        nursery.cancel_scope.cancel()


__all__ = ["Harness", "RequestError", "SimulatedDevice", "gateway_harness", "msgspec"]
