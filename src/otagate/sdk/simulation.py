"""Simulated devices for trying things, demonstrations and load: unreliable links, nothing kept."""

import random
import re
from dataclasses import dataclass

import trio

from otagate.sdk.links import Dial, dial_tcp

UNITS_BYTES = {"B": 1, "KB": 1000, "MB": 1000**2, "KiB": 1024, "MiB": 1024**2}


@dataclass(frozen=True, slots=True)
class Drops:
    """How long a connection lives: on average so many seconds, or so many received bytes."""

    seconds: float = float("inf")
    size: float = float("inf")  # bytes

    @classmethod
    def parse(cls, text: str) -> "Drops":
        """`30s`, `500KB`, `2MiB`, or both as `30s,2MiB`; ValueError for anything else."""
        limits = {}
        for part in text.split(","):
            match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(s|B|KB|MB|KiB|MiB)", part)
            if match is None or float(match[1]) <= 0:
                raise ValueError(text)
            if match[2] == "s":
                limits["seconds"] = float(match[1])
            else:
                limits["size"] = float(match[1]) * UNITS_BYTES[match[2]]
        return cls(**limits)

    def dial(self, source: random.Random, dial: Dial = dial_tcp) -> Dial:
        """A way to the gateway whose connections break after half to one and a half of that."""

        async def dial_unreliable(host: str, port: int) -> trio.abc.Stream:
            stream = await dial(host, port)
            return UnreliableStream(
                stream,
                breaks_at=trio.current_time() + self.seconds * source.uniform(0.5, 1.5),
                bytes_left=self.size * source.uniform(0.5, 1.5),
            )

        return dial_unreliable


class UnreliableStream(trio.abc.Stream):
    """A stream that breaks at a time, or after so many received bytes."""

    def __init__(self, stream: trio.abc.Stream, *, breaks_at: float, bytes_left: float) -> None:
        self._stream = stream
        self._breaks_at = breaks_at
        self._bytes_left = bytes_left

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Received bytes, as long as the stream lives."""
        if self._bytes_left <= 0:
            await self._break()
        data: bytes | bytearray = b""
        with trio.move_on_at(self._breaks_at) as life:
            data = await self._stream.receive_some(max_bytes)
        if life.cancelled_caught:
            await self._break()
        self._bytes_left -= len(data)
        return bytes(data)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the stream below."""
        await self._stream.aclose()

    async def _break(self) -> None:
        await trio.aclose_forcefully(self._stream)
        raise trio.BrokenResourceError("simulated: the network is gone")
