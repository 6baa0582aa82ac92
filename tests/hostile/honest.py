"""Honest devices in a process of their own, which say how long the gateway let them wait.

Some are online and report their progress each second; others log in and leave, so many a second, whether or
not the ones before have got in (so nobody's waiting is left out because the gateway was slow). Either link in
turn.

A wait ends when the kernel notes that the answer arrived (SO_TIMESTAMPNS), not when this process was
scheduled to look: what its own core is busy with is no lateness of the gateway. A login's wait is that from
connecting to the challenge, and that from the hello to the welcome.

Run as `python -m tests.hostile.honest HOST PORT REPORTERS LOGINS_PER_SECOND`. Each line on stdin is answered
by one line of JSON (`Window`): what happened since the last one. Ends when stdin does.
"""

import itertools
import json
import os
import struct
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import trio

from tests.end_to_end.device import CLOSE, SECRET, TEXT, encode, mac, tcp_frame, websocket_frame
from tests.hostile.attacks import HEAD

REPORTER, VISITOR = "r{}", "h{}"
VISITORS = 600  # devices that log in and leave, in turn
REPORT_INTERVAL_S = 1.0
PATIENCE_S = 20.0
VISITS_MAX = 1_000  # at a time; more would be another attack
SO_TIMESTAMPNS = 35
TIMES = struct.Struct("qq")
READ_BYTES = 65_536


class Ended(Exception):  # noqa: N818 - what happened
    """The gateway has ended the connection; the argument says how."""


@dataclass
class Window:
    """What honest devices saw. Waits in nanoseconds."""

    login_ns: list[int] = field(default_factory=list)
    report_ns: list[int] = field(default_factory=list)
    sent_away: int = 0  # logins answered with `overloaded`
    failed: list[str] = field(default_factory=list)  # logins that were not answered, or ended
    cut_off: list[str] = field(default_factory=list)  # sessions that ended


class Link:
    """A connection that knows when its bytes came."""

    def __init__(self, identifier: str, websocket: bool) -> None:
        self.identifier = identifier
        self.websocket = websocket
        self._socket = trio.socket.socket()
        self._socket.setsockopt(trio.socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        self._unread = b""
        self._came_ns = 0

    async def connect(self, address: tuple[str, int], source: str) -> None:
        """As far as the first bytes."""
        await self._socket.bind((source, 0))
        await self._socket.connect(address)
        if not self.websocket:
            await self.send_bytes(b"OTG\x01")
            return
        await self.send_bytes(HEAD)
        while b"\r\n\r\n" not in self._unread:
            await self._receive()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise Ended(head[:40].decode())

    async def send_bytes(self, data: bytes) -> None:
        """All of them."""
        view = memoryview(data)
        while view:
            view = view[await self._socket.send(view) :]

    async def send(self, message: bytes) -> int:
        """One message; when it was sent."""
        sent_ns = time.time_ns()
        await self.send_bytes(websocket_frame(TEXT, message) if self.websocket else tcp_frame(TEXT, message))
        return sent_ns

    async def message(self) -> tuple[dict[str, Any], int]:
        """The next one, and when it came. Ended."""
        while True:
            for opcode, payload in self._frames():
                if opcode == TEXT:
                    return json.loads(payload), self._came_ns
                if opcode == CLOSE:
                    raise Ended(f"close {int.from_bytes(payload[:2], 'big')}")
            await self._receive()

    async def answer(self, name: str) -> int:
        """When the answer to this question came."""
        while True:
            message, came_ns = await self.message()
            if message.get("id") == name:
                if message["type"] != "ack":
                    raise Ended(str(message))
                return came_ns

    def close(self) -> None:
        """FIN."""
        self._socket.close()

    async def _receive(self) -> None:
        data, ancillary, _, _ = await self._socket.recvmsg(READ_BYTES, 128)
        if not data:
            raise Ended("closed")
        self._unread += data
        self._came_ns = time.time_ns()
        for level, kind, value in ancillary:
            if (level, kind) == (trio.socket.SOL_SOCKET, SO_TIMESTAMPNS):
                seconds, nanoseconds = TIMES.unpack_from(value)
                self._came_ns = seconds * 10**9 + nanoseconds

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        while len(self._unread) >= 4:
            head, size = (
                (2, self._unread[1]) if self.websocket else (4, int.from_bytes(self._unread[1:4], "big"))
            )
            if self.websocket and size == 126:
                head, size = 4, int.from_bytes(self._unread[2:4], "big")
            if len(self._unread) < head + size:
                return
            opcode, payload = self._unread[0] & 0x0F, self._unread[head : head + size]
            self._unread = self._unread[head + size :]
            yield opcode, payload


class Honest:
    """All devices of this process."""

    def __init__(self, address: tuple[str, int], reporters: int, logins_per_s: float) -> None:
        self._address = address
        self._reporters = reporters
        self._logins_per_s = logins_per_s
        self._window = Window()
        self._visiting = 0
        self._online = 0
        self._reporting: set[str] = set()  # those whose report was answered, ever

    async def run(self) -> None:
        """Live until stdin ends."""
        async with trio.open_nursery() as nursery:
            for number in range(self._reporters):
                nursery.start_soon(self._report_for_ever, number)
            nursery.start_soon(self._visit_for_ever, nursery)
            await self._answer_commands()
            nursery.cancel_scope.cancel()

    async def _answer_commands(self) -> None:
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as commands:
            async for piece in commands:
                for _ in range(piece.count(b"\n")):
                    told, self._window = self._window, Window()
                    now = {"online": self._online, "reporting": len(self._reporting)}
                    print(json.dumps({**asdict(told), **now}), flush=True)

    @asynccontextmanager
    async def _log_in(self, identifier: str, number: int) -> AsyncIterator[Link]:
        """A session; Ended. What was waited is noted."""
        link = Link(identifier, websocket=number % 2 == 0)
        try:
            begun_ns = time.time_ns()
            await link.connect(self._address, f"127.2.0.{1 + number % 250}")
            challenge, came_ns = await link.message()
            proof = mac(SECRET, challenge["nonce"], "lamp", identifier)
            sent_ns = await link.send(
                encode("hello", product="lamp", device=identifier, version="1.0", mac=proof)
            )
            answer, answered_ns = await link.message()
            if answer.get("code") == "overloaded":
                self._window.sent_away += 1
                raise Ended("overloaded")
            if answer["type"] != "welcome":
                raise Ended(str(answer))
            self._window.login_ns.append(came_ns - begun_ns + answered_ns - sent_ns)
            yield link
        except OSError as error:
            raise Ended(str(error)) from error
        finally:
            link.close()

    async def _visit_for_ever(self, nursery: trio.Nursery) -> None:
        due_s = trio.current_time()
        for number in itertools.count():
            await trio.sleep_until(due_s)
            due_s += 1 / self._logins_per_s
            if self._visiting < VISITS_MAX:
                nursery.start_soon(self._visit, number % VISITORS)
            else:
                self._window.failed.append("a thousand logins wait already")

    async def _visit(self, number: int) -> None:
        self._visiting += 1
        try:
            with trio.fail_after(PATIENCE_S):
                async with self._log_in(VISITOR.format(number), number):
                    pass
        except Ended as ended:
            if str(ended) != "overloaded":
                self._window.failed.append(f"{VISITOR.format(number)}: {ended}")
        except trio.TooSlowError:
            self._window.failed.append(f"{VISITOR.format(number)}: not answered within {PATIENCE_S:.0f} s")
        finally:
            self._visiting -= 1

    async def _report_for_ever(self, number: int) -> None:
        identifier = REPORTER.format(number)
        await trio.sleep(number / self._reporters * REPORT_INTERVAL_S)
        while True:
            try:
                async with self._log_in(identifier, number) as link:
                    self._online += 1
                    try:
                        await self._report(link)
                    finally:
                        self._online -= 1
            except Ended as ended:
                self._window.cut_off.append(f"{identifier}: {ended}")
                await trio.sleep(REPORT_INTERVAL_S)

    async def _report(self, link: Link) -> None:
        """The upgrade that it is offered, for ever at one stage."""
        offer, _ = await link.message()
        about = {"batch": offer["batch"], "attempt": offer["attempt"]}
        await link.send(encode("received", id="received", **about))
        await link.answer("received")
        for number in itertools.count():
            name = f"p{number}"
            sent_ns = await link.send(
                encode("progress", id=name, stage="downloading", percent=10 + number % 90, **about)
            )
            self._window.report_ns.append(await link.answer(name) - sent_ns)
            self._reporting.add(link.identifier)
            await trio.sleep(REPORT_INTERVAL_S)


if __name__ == "__main__":
    host, port, reporters, logins_per_s = sys.argv[1:]
    trio.run(Honest((host, int(port)), int(reporters), float(logins_per_s)).run)
