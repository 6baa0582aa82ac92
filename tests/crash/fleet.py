"""A fleet for the crash loop, in a process that survives: devices that report, download, fail now and then.

    python -m tests.crash.fleet --address HOST:PORT --devices N --seed S --log FILE

Every answer that promised something is written to the log, one JSON object a line, before the device goes on:
    {"device", "batch", "attempt", "kind"}    kind: received, progress, burning, failed, succeeded
    {"device", "resumed": offset}             the first chunk after a lost connection stood where it must
    {"problem": words}                        the gateway broke a promise
"""

import argparse
import hashlib
import json
import os
import random
import socket
import traceback
from typing import Any

import trio

from tests.end_to_end.device import Device, Ended, Message

CHUNK_BYTES = 16_384
RECEIVE_BUFFER_BYTES = 32_768  # small: what a dead gateway has sent is not the whole image
FAILING_ATTEMPTS = 2  # of an upgrade at most; its batch permits more
FAILURE_RATE = 0.15
LOST = (OSError, Ended, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class Job:
    """What a device keeps of an upgrade while it has no connection, and through the gateway's death."""

    def __init__(self, offer: Message) -> None:
        self.offer = offer
        self.offset = 0
        self.digest = hashlib.md5()

    @property
    def about(self) -> dict[str, Any]:
        return {"batch": self.offer["batch"], "attempt": self.offer["attempt"]}


class Member:
    """One device of the fleet."""

    def __init__(self, identifier: str, link: str, address: tuple[str, int], log: int, seed: int) -> None:
        self.identifier = identifier
        self.link = link
        self.version = "1.0"
        self.job: Job | None = None
        self.burned: Job | None = None  # its version is not reported yet
        self._address = address
        self._log = log
        self._random = random.Random(f"{seed} {identifier}")
        self._transfer = 0

    def note(self, **facts: Any) -> None:
        os.write(self._log, json.dumps({"device": self.identifier, **facts}).encode() + b"\n")

    def promise(self, job: Job, kind: str) -> None:
        self.note(kind=kind, **job.about)

    async def run(self) -> None:
        """For ever."""
        while True:
            device = None
            try:
                device = await Device.connect(self._address, self.link, self.identifier)
                device.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                await self._session(device)
            except LOST:
                pass
            except Exception:
                self.note(problem=traceback.format_exc())
                raise
            finally:
                if device is not None:
                    await device.aclose()
            await trio.sleep(self._random.uniform(0.01, 0.1))

    async def _pause(self) -> None:
        await trio.sleep(self._random.expovariate(20))

    async def _session(self, device: Device) -> None:
        await device.log_in(self.version)
        if self.burned is not None:
            self.promise(self.burned, "succeeded")
            self.burned = None
        while True:
            while not device.inbox:
                await device.read()
            message = device.inbox.popleft()
            if message["type"] != "upgrade":
                assert message["type"] in ("cancel", "goodbye"), message
                continue
            if message["firmware"]["version"] == self.version:
                continue
            self._take(message)
            if await self._work(device):
                return  # reboot

    def _take(self, offer: Message) -> None:
        """A new job, or the one at hand: its bytes are kept, whichever attempt it is."""
        if self.job is None or self.job.offer["firmware"]["id"] != offer["firmware"]["id"]:
            self.job = Job(offer)
        self.job.offer = offer

    async def _work(self, device: Device) -> bool:
        """From where the job stands to its reboot; False if this attempt is over."""
        job = self.job
        assert job is not None
        await self._pause()
        if not await self._report(device, "received", "received"):
            return False
        if job.offer["attempt"] <= FAILING_ATTEMPTS and self._random.random() < FAILURE_RATE:
            await self._report(device, "result", "failed", outcome="failed", reason="download_failed")
            return False
        await self._download(device, job)
        if not await self._report(device, "progress", "progress", stage="verifying", percent=100):
            return False
        await self._pause()
        assert job.digest.hexdigest() == job.offer["firmware"]["md5"], "the image is damaged"
        if not await self._report(device, "progress", "burning", stage="burning", percent=0):
            return False
        await self._pause()
        self.version = job.offer["firmware"]["version"]
        self.job, self.burned = None, job
        return True

    async def _report(self, device: Device, type: str, kind: str, **fields: Any) -> bool:
        """A report, and the gateway's promise; False: this attempt is over."""
        job = self.job
        assert job is not None
        answer = await device.ask(type, **job.about, **fields)
        if answer["type"] != "ack":
            assert answer["type"] == "cancel", answer
            return False
        self.promise(job, kind)
        return True

    async def _download(self, device: Device, job: Job) -> None:
        size = job.offer["firmware"]["size"]
        firmware = job.offer["firmware"]["id"]
        if job.offset == size:
            return
        self._transfer += 1
        await device.send(
            "fetch", transfer=self._transfer, firmware=firmware, offset=job.offset, chunk_size=CHUNK_BYTES
        )
        begun_at = job.offset
        while job.offset < size:
            chunk = await device.chunk()
            if chunk.transfer != self._transfer:
                continue
            assert chunk.offset == job.offset, f"chunk at {chunk.offset}, fetched from {job.offset}"
            if begun_at and job.offset == begun_at:
                self.note(resumed=begun_at)
            job.digest.update(chunk.data)
            job.offset += len(chunk.data)
            if self._random.random() < 0.2:
                await self._pause()


async def run_fleet(address: tuple[str, int], devices: int, seed: int, log: int) -> None:
    """Run all of them until the process is told to end."""
    async with trio.open_nursery() as nursery:
        for number in range(devices):
            link = ("websocket", "tcp")[number % 2]
            nursery.start_soon(Member(f"d{number}", link, address, log, seed).run)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", required=True)
    parser.add_argument("--devices", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--log", required=True)
    arguments = parser.parse_args()
    host, _, port = arguments.address.partition(":")
    log = os.open(arguments.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    trio.run(run_fleet, (host, int(port)), arguments.devices, arguments.seed, log)


if __name__ == "__main__":
    main()
