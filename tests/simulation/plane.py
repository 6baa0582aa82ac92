"""The plane of one incarnation: links that are slow, break at any moment, and go on speaking when closed.

It keeps the promises of otagate/plane/face.pyi. What a device sends arrives in order on its link after a
random latency, and so does what the gateway sends; nothing is in order between links. Beyond the promises,
what a device has sent on a link still comes out as messages for a while after the gateway closed it: a
gateway that has let go of a session must not hear them.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import trio

from otagate import limits, plane
from otagate.hashing import xxh32
from otagate.wire import messages

if TYPE_CHECKING:
    from tests.simulation.devices import SimulatedDevice
    from tests.simulation.judge import Question
    from tests.simulation.world import World

NONCE = b"00112233445566778899aabbccddeeff"
CHUNK_BYTES = 1024
SILENT_MS = int(limits.heartbeats_missed * limits.heartbeat_s * 1000)


class Link:
    """One connection, seen from the plane (`there`) and from its device (`alive`)."""

    def __init__(self, plane_: "SimulatedPlane", device: "SimulatedDevice", conn: int) -> None:
        self.plane = plane_
        self.device = device
        self.conn = conn
        self.number = 0
        self.there = True
        self.alive = True
        self.superseded = False
        self.greeting = False  # a hello is with the gateway
        self.backlog: deque[tuple[bytes, messages.DeviceMessage]] = deque()
        self.up_ms = self.down_ms = 0  # when the last message of either way arrives
        self.transfer: Transfer | None = None
        # the judge's
        self.questions: dict[str, deque[Question]] = {}
        self.told: tuple[int, int] | None = None
        self.delivered_ms: int | None = None
        self.welcomed_ms: int | None = None


class Transfer:
    """A download on a link: waits for a slot, then streams."""

    __slots__ = ("end", "link", "number", "offset", "pair", "running", "started")

    def __init__(self, link: Link, number: int, offset: int, end: int) -> None:
        self.link = link
        self.number = number
        self.offset = offset
        self.end = end
        self.running = False
        self.started = False
        self.pair: tuple[int, int, int] | None = None  # device, batch, attempt, by the judge


class SimulatedPlane:
    """See the module."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._random = world.source("plane")
        self._events: list[tuple[Any, ...]] = []
        self._heard: list[tuple[Link, messages.DeviceMessage]] = []
        self._ready = trio.Event()
        self.links: dict[int, Link] = {}
        self._gone_links: dict[int, Link] = {}
        self.images: dict[int, set[int]] = {}
        self._running = 0
        self._waiting: deque[Transfer] = deque()
        self.dead = False
        self.listening = True

    # -- what the gateway sees -------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return False

    def put(self, *event: Any) -> None:
        """An event for the next drain."""
        if not self.dead:
            self._world.active()
            self._events.append(event)
            self._ready.set()

    async def wait_ready(self, wait_ms: int) -> None:
        with trio.move_on_after(wait_ms / 1000):
            await self._ready.wait()

    def drain(self, budget_ns: int = 0) -> list[tuple[Any, ...]]:
        """Events in order."""
        if not self._events:
            return []
        self._ready = trio.Event()
        events, self._events = self._events, []
        heard, self._heard = self._heard, []
        for event in events:
            self._world.trace("event", *event[:3])
        for link, message in heard:
            self._world.judge.heard(link, message)
        return events

    def apply(self, commands: Sequence[tuple[Any, ...]]) -> None:
        """Commands in order."""
        if self.dead:
            return
        world = self._world
        world.active()
        for command in commands:
            kind, number, *rest = command
            if kind == plane.IMAGE:
                self.images[number] = set()
            elif kind == plane.DIGESTS:
                self.images.get(number, set()).add(rest[0])
            elif kind == plane.DROP_IMAGE:
                del self.images[number]
            elif number in self.links:
                self._command(self.links[number], kind, rest)
            elif kind == plane.ADMIT:
                self._gone_links[number].number = rest[0]
                self.put(plane.CLOSED, number, rest[0], plane.LOST)
            elif kind == plane.SEND and number in self._gone_links:
                message = messages.decode_gateway_message(rest[0])
                world.judge.passed_over(self._gone_links[number], message)
        world.judge.applied()

    def last_seen_ms(self, conn: int) -> int:
        return 0 if conn in self.links else -1

    def unlisten(self) -> None:
        self.listening = False

    def _command(self, link: Link, kind: int, rest: Sequence[Any]) -> None:
        world = self._world
        if kind == plane.SEND:
            message = messages.decode_gateway_message(rest[0])
            world.trace("sent", link.conn, rest[0])
            world.judge.sent(link, message)
            self._down(link, link.device.receive, message)
        elif kind == plane.ADMIT:
            link.number = rest[0]
            while link.backlog:
                self._hear(link, *link.backlog.popleft())
        elif kind == plane.RETRY_HELLO:
            link.greeting = False
        elif kind == plane.STREAM:
            self._stream(link, *rest)
        elif kind == plane.STOP and link.transfer is not None and link.transfer.number == rest[0]:
            self._end(link.transfer, plane.STOPPED)
        elif kind == plane.CLOSE:
            self._close(link, rest[0])

    # -- links -----------------------------------------------------------------------------------

    def connect(self, device: "SimulatedDevice") -> Link:
        """A new connection; its challenge is on its way."""
        link = Link(self, device, self._world.next_conn())
        self.links[link.conn] = link
        self._down(link, device.receive, messages.Challenge(nonce=NONCE.decode(), protocol=[1]))
        return link

    def _latency_ms(self) -> int:
        most = self._world.plan.latency_ms
        chance = self._random
        return chance.randint(0, most) if most and chance.random() < 0.5 else min(most, 10)

    def _down(self, link: Link, call: Any, *arguments: Any) -> None:
        """Towards the device, in order."""
        if not link.alive:
            return
        link.down_ms = max(link.down_ms, self._world.now_ms + self._latency_ms())
        self._world.at(link.down_ms, self._reach, link, call, arguments)

    def _reach(self, link: Link, call: Any, arguments: tuple[Any, ...]) -> None:
        if link.alive and not self.dead:
            call(link, *arguments)

    def up(self, link: Link, message: messages.DeviceMessage, *, later_ms: int = 0) -> None:
        """Towards the gateway, in order (unless it is to come later)."""
        arrives_ms = max(link.up_ms, self._world.now_ms + self._latency_ms())
        if not later_ms:
            link.up_ms = arrives_ms
        self._world.at(arrives_ms + later_ms, self._arrive, link, messages.encode(message), message)

    def _arrive(self, link: Link, payload: bytes, message: messages.DeviceMessage) -> None:
        if self.dead or (not link.there and not link.superseded):
            return
        if link.number:
            self._hear(link, payload, message)
        elif link.greeting:
            link.backlog.append((payload, message))
        else:
            link.greeting = True
            self.put(plane.HELLO, link.conn, payload, NONCE, b"")
            self._heard.append((link, message))

    def _hear(self, link: Link, payload: bytes, message: messages.DeviceMessage) -> None:
        if link.superseded and self._world.plan.rivals:
            return  # a decision that is made again keeps its session: no telling then who was heard
        self.put(plane.MESSAGE, link.conn, link.number, payload)
        self._heard.append((link, message))

    def lose(self, link: Link, *, silently: bool = False) -> None:
        """The device's end is gone; the gateway hears of it at once, or only by the missing heartbeats."""
        link.alive = False
        at_ms = self._world.now_ms + SILENT_MS if silently else link.up_ms
        self._world.at(max(at_ms, self._world.now_ms), self._gone, link)

    def _close(self, link: Link, code: int) -> None:
        link.superseded = code in (4001, 4002)  # the gateway has let go of it
        self._down(link, link.device.closed, code)
        self._stop(link)
        self._world.at(self._world.now_ms + self._latency_ms(), self._gone, link)
        if link.superseded:
            self._world.judge.superseded(link)

    def _gone(self, link: Link) -> None:
        if self.dead or not link.there:
            return
        link.there = False
        self.links.pop(link.conn, None)
        self._gone_links[link.conn] = link
        self._stop(link)
        if link.number:
            self.put(plane.CLOSED, link.conn, link.number, plane.LOST)
        if link.alive and not link.superseded:
            link.device.closed(link, plane.LOST)
        self._world.judge.gone(link)

    def die(self) -> None:
        """The process is gone, and every connection with it."""
        self.dead = True
        for link in list(self.links.values()):
            link.there = False
            if link.alive:
                link.alive = False
                link.device.closed(link, plane.LOST)
        self.links.clear()

    # -- transfers -------------------------------------------------------------------------------

    def _stream(self, link: Link, number: int, image: int, offset: int, end: int, size: int, *_: int) -> None:
        if link.transfer is not None:
            self._end(link.transfer, plane.REPLACED)
        if size not in self.images.get(image, ()):
            self._world.violate("digests", f"a stream of image {image} before its digests")
        transfer = link.transfer = Transfer(link, number, offset, end)
        self._world.judge.streams(transfer)
        self._waiting.append(transfer)
        self._next()

    def _next(self) -> None:
        while self._waiting and self._running < self._world.plan.transfers_max:
            transfer = self._waiting.popleft()
            transfer.running = True
            self._running += 1
            self._world.at(self._world.now_ms + self._latency_ms(), self._chunk, transfer)

    def _chunk(self, transfer: Transfer) -> None:
        link = transfer.link
        if link.transfer is not transfer or not link.there or self.dead:
            return
        if not transfer.started:
            transfer.started = True
            self.put(plane.STARTED, link.conn, link.number, transfer.number)
        self._world.judge.chunk(transfer)
        until = min(transfer.end, (transfer.offset // CHUNK_BYTES + 1) * CHUNK_BYTES)
        self._down(link, link.device.receive_chunk, transfer.number, transfer.offset, until - transfer.offset)
        transfer.offset = until
        if until == transfer.end:
            self._end(transfer, plane.DONE)
        else:
            pause_ms = link.device.chunk_pause_ms()
            self._world.at(self._world.now_ms + pause_ms, self._chunk, transfer)

    def _stop(self, link: Link) -> None:
        if link.transfer is not None:
            self._end(link.transfer, None)

    def _end(self, transfer: Transfer, reason: int | None) -> None:
        link = transfer.link
        link.transfer = None
        if transfer.running:
            self._running -= 1
        else:
            self._waiting.remove(transfer)
        if reason is not None:
            self.put(plane.ENDED, link.conn, link.number, transfer.number, reason)
        self._next()

    def waits_for_slot(self, link: Link) -> bool:
        """Whether the link's download has not begun."""
        return link.transfer is not None and not link.transfer.started


_CHUNKS: dict[tuple[int, int], tuple[int, bytes]] = {}
IMAGE = bytes(range(256)) * 12
IMAGE_BYTES = len(IMAGE)


def chunk(offset: int, size: int) -> tuple[int, bytes]:
    """Digest and data of a piece of the one image that there is."""
    found = _CHUNKS.get((offset, size))
    if found is None:
        data = IMAGE[offset : offset + size]
        found = _CHUNKS[offset, size] = xxh32(data), data
    return found
