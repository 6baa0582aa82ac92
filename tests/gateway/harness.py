"""A whole gateway above a simulated plane: memory store, virtual time, no socket.

`gateway_harness` wires the real rooms to `SimulatedPlane`, which keeps the promises of plane/face.pyi as far
as the gateway relies on them. `SimulatedDevice` is one connection: its messages become events of the plane,
and what the gateway sends to it stands in its inbox. Time is Trio's: under MockClock with autojump an hour
takes no time at all; `Harness.jump` leaps over days.

`TestStore` is the memory store with a hand on its commits: they can be held back, fail, or find that another
gateway was faster. When a harness ends without a failure, every invariant of the store is checked.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from otagate import config, plane
from otagate.errors import CommitFailed
from otagate.gateway.clock import Clock
from otagate.gateway.server import Gateway
from otagate.gateway.service import Service
from otagate.gateway.transfers import _Image
from otagate.gateway.views import CreateBatchRequest, CreateProductRequest, RegisterDeviceRequest
from otagate.store.check import check_invariants
from otagate.store.interface import AddFirmware, Change, Outcome, Transition
from otagate.store.memory import MemoryStore
from otagate.upgrade.model import Row
from otagate.wire import messages

NONCE = "00112233445566778899aabbccddeeff"
SECRET = "s" * 32
EPOCH_MS = 1_800_000_000_000
SIZE = 100_000
REST_S = 0.05  # longer than a gathering, a commit and a tick; shorter than a sweep


class TestStore(MemoryStore):
    """Commits that wait while `hold` stands, fail when `broken`, and are seen in `groups`."""

    __test__ = False

    def __init__(self) -> None:
        super().__init__()
        self.groups: list[Sequence[Change]] = []
        self.held: trio.Event | None = None
        self.broken = False
        self.committed = trio.Event()
        self._faster: dict[int, Callable[[Row], Row]] = {}

    def hold(self) -> None:
        """Commits wait from now on."""
        self.held = trio.Event()

    def release(self) -> None:
        """Commits go on."""
        assert self.held is not None
        self.held.set()
        self.held = None

    def be_faster(self, device: int, change: Callable[[Row], Row]) -> None:
        """The next transition of this device finds that another gateway made this of its row."""
        self._faster[device] = change

    async def commit(self, changes: Sequence[Change]) -> list[Outcome]:
        """See the class."""
        if self.held is not None:
            await self.held.wait()
        if self.broken:
            raise CommitFailed("no space left on device")
        self.groups.append(changes)
        for change in changes:
            if isinstance(change, Transition) and change.device in self._faster:
                await self._another_gateway(change.device, change.batch)
        outcomes = await super().commit(changes)
        self.committed.set()
        self.committed = trio.Event()
        return outcomes

    async def _another_gateway(self, device: int, batch: int) -> None:
        upgrade = (await self.upgrades([(device, batch)]))[0]
        assert upgrade is not None
        row = self._faster.pop(device)(upgrade.row)
        await super().commit([Transition(device, batch, upgrade.row.state, upgrade.row.attempt, row)])


class SimulatedPlane:
    """What the gateway sees of a plane: events out, commands in."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.devices: dict[int, SimulatedDevice] = {}
        self.commands: list[tuple[Any, ...]] = []
        self.running: dict[int, int] = {}  # connection → its transfer
        self.digests: dict[int, dict[int, bytes]] = {}  # image → chunk size → table
        self.paths: dict[int, bytes] = {}
        self.listening = True
        self._ready = trio.Event()
        self._last_conn = 0

    @property
    def pending(self) -> bool:
        return False

    @property
    def streams(self) -> list[tuple[Any, ...]]:
        """Every STREAM so far, without the kind."""
        return [command[1:] for command in self.commands if command[0] == plane.STREAM]

    def put(self, *event: Any) -> None:
        self.events.append(event)
        self._ready.set()

    async def wait_ready(self, wait_ms: int) -> None:
        with trio.move_on_after(wait_ms / 1000):
            await self._ready.wait()

    def drain(self) -> list[tuple[Any, ...]]:
        self._ready = trio.Event()
        events, self.events = self.events, []
        return events

    def apply(self, commands: Sequence[tuple[Any, ...]]) -> None:
        for command in commands:
            self.commands.append(command)
            kind, number, *rest = command
            if kind == plane.IMAGE:
                self.paths[number], self.digests[number] = rest[0], {}
            elif kind == plane.DIGESTS:
                self.digests.get(number, {})[rest[0]] = rest[1]
            elif kind == plane.DROP_IMAGE:
                del self.paths[number], self.digests[number]
            elif number in self.devices:
                self.devices[number].command(kind, rest)
            elif kind == plane.ADMIT:
                self.put(plane.CLOSED, number, rest[0], plane.LOST)

    def stream(self, device: "SimulatedDevice", transfer: int, image: int, chunk_bytes: int) -> None:
        self.end(device, plane.REPLACED)
        if chunk_bytes in self.digests.get(image, {}):
            self.running[device.conn] = transfer
        else:
            self.put(plane.ENDED, device.conn, device.number, transfer, plane.FAILED)

    def start(self, device: "SimulatedDevice") -> None:
        """The first byte of its transfer left."""
        self.put(plane.STARTED, device.conn, device.number, self.running[device.conn])

    def end(self, device: "SimulatedDevice", reason: int) -> None:
        """Its transfer is over, if it has one."""
        transfer = self.running.pop(device.conn, None)
        if transfer is not None:
            self.put(plane.ENDED, device.conn, device.number, transfer, reason)

    def last_seen_ms(self, conn: int) -> int:
        return 0 if conn in self.devices else -1

    def unlisten(self) -> None:
        self.listening = False

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
        self.may_retry = False
        self._changed = trio.Event()

    def command(self, kind: int, rest: Sequence[Any]) -> None:
        if kind == plane.SEND:
            self.inbox.append(messages.decode_gateway_message(rest[0]))
        elif kind == plane.ADMIT:
            self.number = rest[0]
        elif kind == plane.RETRY_HELLO:
            self.may_retry = True
        elif kind == plane.STREAM:
            self.plane.stream(self, rest[0], rest[1], rest[4])
        elif kind == plane.STOP and self.plane.running.get(self.conn) == rest[0]:
            self.plane.end(self, plane.STOPPED)
        elif kind == plane.CLOSE:
            self.closed = rest[0]
            self.lose()
        self._changed.set()

    def lose(self) -> None:
        """The connection is gone."""
        self.plane.running.pop(self.conn, None)
        if self.plane.devices.pop(self.conn, None) is not None and self.number:
            self.plane.put(plane.CLOSED, self.conn, self.number, plane.LOST)

    def send_raw(self, payload: bytes) -> None:
        assert self.number, "not admitted yet"
        self.plane.put(plane.MESSAGE, self.conn, self.number, payload)

    def send(self, *several: messages.DeviceMessage) -> None:
        """Messages that are read in one drain."""
        for message in several:
            self.send_raw(messages.encode(message))

    def send_hello_raw(self, payload: bytes) -> None:
        self.plane.put(plane.HELLO, self.conn, payload, NONCE.encode(), b"")

    def send_hello(
        self, version: str = "1.0", secret: str = SECRET, product: str = "lamp", **fields: Any
    ) -> None:
        mac = messages.login_mac(secret, NONCE, product, self.identifier)
        hello = {"product": product, "device": self.identifier, "version": version, "mac": mac} | fields
        self.send_hello_raw(messages.encode(messages.Hello(**hello)))

    async def receive(self, kind: type[Any] | None = None, within_s: float = 3600) -> Any:
        """The next message of the gateway, which must be of this kind."""
        with trio.fail_after(within_s):
            while not self.inbox:
                self._changed = trio.Event()
                await self._changed.wait()
        message = self.inbox.popleft()
        assert kind is None or isinstance(message, kind), message
        return message

    async def receive_all(self) -> list[Any]:
        """Everything that came until the gateway rests."""
        await trio.sleep(REST_S)
        found = list(self.inbox)
        self.inbox.clear()
        return found

    async def expect_silence(self, seconds: float = REST_S) -> None:
        """Nothing comes within this much virtual time."""
        await trio.sleep(seconds)
        assert not self.inbox, self.inbox


class Harness:
    """A gateway and its operators."""

    def __init__(self, gateway: Gateway, plane_: SimulatedPlane, store: TestStore) -> None:
        self.gateway = gateway
        self.plane = plane_
        self.store = store
        self.service = Service(gateway, NoBlobs())
        self.wall_step_ms = 0
        self.asleep_ms = 0

    @property
    def now_ms(self) -> int:
        return self.gateway.clock.now_ms()

    async def rest(self) -> None:
        """Let everything settle that was begun."""
        await trio.sleep(REST_S)

    async def jump(self, seconds: float) -> None:
        """Leap ahead: what fell due meanwhile happens at once."""
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, MockClock)
        clock.jump(seconds)
        await self.rest()

    async def sleep_machine(self, seconds: float) -> None:
        """The machine sleeps for so long, and wakes."""
        self.asleep_ms += round(seconds * 1000)
        await self.jump(seconds)

    async def log_in(self, identifier: str, version: str = "1.0", **fields: Any) -> SimulatedDevice:
        """A device on a new connection, welcomed."""
        device = SimulatedDevice(self.plane, identifier)
        device.send_hello(version, **fields)
        await device.receive(messages.Welcome)
        return device

    async def set_up(self, *identifiers: str, target: str = "2.0", sha256: str = "0" * 64) -> None:
        """Product `lamp`, these devices (each has logged in once), firmware f1."""
        await self.service.create_product(CreateProductRequest("lamp", "Lamp"))
        await self.add_firmware(target, sha256=sha256)
        for identifier in identifiers:
            await self.add_device(identifier)
        await self.rest()

    async def add_device(self, identifier: str) -> None:
        """A device that has logged in once, with version 1.0."""
        await self.service.register_device("lamp", RegisterDeviceRequest(identifier, secret=SECRET))
        device = await self.log_in(identifier)
        device.lose()

    async def add_firmware(self, version: str, size: int = SIZE, sha256: str = "0" * 64) -> None:
        await self.gateway.journal.write(
            AddFirmware(
                product="lamp",
                name=f"fw-{version}",
                version=version,
                file_name="fw.bin",
                description="",
                size=size,
                md5="0" * 32,
                sha256=sha256,
                at_ms=self.now_ms,
            )
        )

    def have_image(self, chunk_bytes: int = 65536) -> None:
        """As if the digests of firmware f1 had been computed: its downloads begin at once."""
        image = _Image(1, Path(), SIZE)
        image.ready.add(chunk_bytes)
        self.gateway.transfers._images["0" * 64] = image
        self.gateway.transfers._last_number = 1
        self.plane.apply([(plane.IMAGE, 1, b"", SIZE), (plane.DIGESTS, 1, chunk_bytes, b"")])

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

    async def details(self, batch: str, identifier: str) -> Any:
        return await self.service.get_upgrade(batch, identifier)

    async def state(self, batch: str, identifier: str) -> str:
        return (await self.details(batch, identifier)).state

    async def wait_state(self, batch: str, identifier: str, state: str, within_s: float = 60) -> Any:
        """Wait until the device upgrade is in this state; its details."""
        with trio.fail_after(within_s):
            while True:
                details = await self.details(batch, identifier)
                if details.state == state:
                    return details
                await self.store.committed.wait()


class NoBlobs:
    """There are no bytes here."""

    def __init__(self) -> None:
        self.unlinked: list[str] = []

    def check_room(self) -> None:
        pass

    async def unlink_if_unused(self, sha256: str) -> None:
        self.unlinked.append(sha256)


PathOf = Callable[[str], Path]


@asynccontextmanager
async def gateway_harness(
    store: TestStore | None = None, *, path_of: PathOf = Path, wall_ms: int = EPOCH_MS, **sections: Any
) -> AsyncIterator[Harness]:
    """A running gateway on virtual time; `store` to start on one that has been used before."""
    configuration = config.Configuration(
        **{name: getattr(config, name.capitalize())(**values) for name, values in sections.items()}
    )
    store = store or TestStore()
    plane_ = SimulatedPlane()

    def elapsed_ms() -> int:
        return round(trio.current_time() * 1000)

    def wall() -> int:
        return wall_ms + elapsed_ms() + (harness.wall_step_ms if harness else 0)

    def asleep() -> int:
        return harness.asleep_ms if harness else 0

    harness: Harness | None = None
    floor_ms = await store.newest_time_ms()
    clock = Clock(floor_ms, wall_ms=wall, elapsed_ms=elapsed_ms, asleep_ms=asleep)
    async with trio.open_nursery() as nursery:
        gateway = Gateway(configuration, store, plane_, clock, path_of, nursery)
        await gateway.take_up()
        nursery.start_soon(gateway.run, plane_.wait_ready)
        harness = Harness(gateway, plane_, store)
        try:
            yield harness
        finally:
            if store.held is not None:
                store.release()  # nobody can cancel a commit
            nursery.cancel_scope.cancel()
        assert check_invariants(store) == []


# -- ways into a state -------------------------------------------------------------------------------


async def _nothing(harness: Harness, device: SimulatedDevice, batch: str) -> None:
    pass


async def _acknowledge(harness: Harness, device: SimulatedDevice, batch: str) -> None:
    device.send(messages.Received(batch=batch, attempt=1, id="ack"))
    assert (await device.receive(messages.Ack)).id == "ack"


async def _begin(harness: Harness, device: SimulatedDevice, batch: str) -> None:
    await _acknowledge(harness, device, batch)
    device.send(progress(batch, 10, id="begin"))
    assert (await device.receive(messages.Ack)).id == "begin"


async def _fail(harness: Harness, device: SimulatedDevice, batch: str) -> None:
    device.send(failure(batch, id="fail"))
    assert (await device.receive(messages.Ack)).id == "fail"


async def _succeed(harness: Harness, device: SimulatedDevice, batch: str) -> None:
    device.send(messages.Version(version="2.0", id="succeed"))
    assert (await device.receive(messages.Ack)).id == "succeed"


_WAYS: dict[str, Callable[[Harness, SimulatedDevice, str], Awaitable[None]]] = {
    "pushed": _nothing,
    "to_be_upgraded": _acknowledge,
    "upgrading": _begin,
    "to_be_retried": _fail,
    "failed": _fail,
    "succeeded": _succeed,
}
RUNNING = ("pushed", "to_be_upgraded", "upgrading")
OPEN = ("to_be_pushed", *RUNNING, "to_be_retried")
ENDED = ("succeeded", "failed")


async def reach(harness: Harness, state: str, **parameters: Any) -> tuple[SimulatedDevice, str]:
    """Device d1 in this state of a new batch, and the batch; d2 of it stays offline, so it goes on.

    In to_be_pushed d1 has gone offline again; else it is online, and has read everything.
    """
    await harness.set_up("d1", "d2")
    if state == "to_be_retried":
        parameters = {"retries": 1, "retry_interval_minutes": 5} | parameters
    device = await harness.log_in("d1")
    if state == "to_be_pushed":
        device.lose()
        await harness.rest()
    batch = await harness.create_batch(**parameters)
    if state != "to_be_pushed":
        await device.receive(messages.Upgrade)
        await _WAYS[state](harness, device, batch)
    assert (await harness.details(batch, "d1")).state == state
    return device, batch


def progress(batch: str, percent: int, attempt: int = 1, **fields: Any) -> messages.Progress:
    """A report of downloading."""
    return messages.Progress(
        **{"batch": batch, "attempt": attempt, "stage": "downloading", "percent": percent} | fields
    )


def failure(batch: str, reason: str = "burn_failed", attempt: int = 1, **fields: Any) -> messages.Result:
    """A report of failure."""
    return messages.Result(batch=batch, attempt=attempt, outcome="failed", reason=reason, **fields)


def success(batch: str, attempt: int = 1, **fields: Any) -> messages.Result:
    """A claim of success."""
    return messages.Result(batch=batch, attempt=attempt, outcome="succeeded", **fields)


def kinds(found: Sequence[Any]) -> list[str]:
    """The types of messages, in order."""
    return [type(message).__name__.lower() for message in found]
