"""A whole gateway in this process, below time that the test moves: real plane, sockets, store and images.

Sockets and the disk keep their pace while a test waits for something that happens; `World.jump` moves the
gateway's clock and the plane's ahead together, without waiting. A jump is made in steps, and in between the
devices ping: so it is not silence that ends their sessions.
"""

import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from otagate import config
from otagate.config_texts import Address
from otagate.gateway.clock import Clock
from otagate.gateway.server import Gateway, listen, make_plane
from otagate.gateway.service import Service
from otagate.gateway.views import (
    CreateBatchRequest,
    CreateProductRequest,
    FirmwareMetadata,
    RegisterDeviceRequest,
    UpgradeDetails,
)
from otagate.store.blobs import Blobs
from otagate.store.check import check_invariants
from otagate.store.lmdb import LmdbStore, open_store
from tests.end_to_end.device import ABNORMAL, SECRET, WITHIN_S, Device, Message

EPOCH_MS = 1_800_000_000_000
HEARTBEAT_S = 600
IMAGE = os.urandom(300_000)
OLD, NEW = "1.0", "2.0"
FIRMWARE = "f1"

RUNNING = ("pushed", "to_be_upgraded", "upgrading")
OPEN = ("to_be_pushed", *RUNNING, "to_be_retried")
ENDED = ("succeeded", "failed")


class World:
    """See the module. Made by `open_world`."""

    def __init__(
        self, path: Path, nursery: trio.Nursery, sections: dict[str, Any], begins_ms: int = EPOCH_MS
    ) -> None:
        self.path = path
        self.configuration = config.Configuration(
            **{name: getattr(config, name.capitalize())(**values) for name, values in sections.items()}
        )
        self.devices: list[Device] = []
        self.gateway: Gateway
        self.service: Service
        self.store: LmdbStore
        self.address: tuple[str, int]
        self._ahead_s = -trio.current_time()
        self._begins_ms = begins_ms
        self._nursery = nursery
        self._waiting = trio.CancelScope()
        self._stop: Callable[[], None]
        self._stopped: trio.Event
        self._transfers = itertools.count(1)

    # -- the gateway -----------------------------------------------------------------------------

    async def start(self) -> None:
        """Run a gateway on the store of this world."""
        self._stopped = trio.Event()
        await self._nursery.start(self._run)

    async def _run(self, task_status: trio.TaskStatus[None]) -> None:
        self.store = open_store(self.path, map_bytes=2**30, reserve_bytes=4096)
        blobs = Blobs(self.path, 0, self.store.image_used)
        await blobs.open()
        listener = listen(Address("127.0.0.1:0"))
        self.address = listener.getsockname()
        plane = make_plane(self.configuration)

        def elapsed_ms() -> int:
            return int((trio.current_time() + self._ahead_s) * 1000)

        async def wait_ready(wait_ms: int) -> None:
            with trio.move_on_after(wait_ms / 1000) as self._waiting:
                await trio.lowlevel.wait_readable(plane.fileno())

        newest_ms = await self.store.newest_time_ms()
        clock = Clock(newest_ms, wall_ms=lambda: self._begins_ms + elapsed_ms(), elapsed_ms=elapsed_ms)
        try:
            async with trio.open_nursery() as nursery:
                self.gateway = Gateway(self.configuration, self.store, plane, clock, blobs.path, nursery)
                self.service = Service(self.gateway, blobs)
                await self.gateway.take_up()
                nursery.start_soon(self.gateway.run, wait_ready)
                plane.listen(listener.fileno())
                self._stop = nursery.cancel_scope.cancel
                task_status.started()
                await trio.sleep_forever()
        finally:
            listener.close()
            plane.close()
            await self.store.close()
            self._stopped.set()

    async def stop(self) -> None:
        """The gateway is gone from one moment to the next, as after kill -9."""
        self._stop()
        await self._stopped.wait()

    async def restart(self, down_s: float = 0) -> None:
        """Gone, and there again after so long."""
        await self.stop()
        for device in self.devices:
            device.closed = device.closed or ABNORMAL
        self._ahead_s += down_s
        await self.start()

    @property
    def now_ms(self) -> int:
        """The gateway's clock."""
        return self.gateway.clock.now_ms()

    async def jump(self, seconds: float, *, alive: bool = True) -> None:
        """Move time ahead; meanwhile devices ping once a heartbeat (`alive`)."""
        while seconds > 0:
            step = min(seconds, HEARTBEAT_S / 2 if alive else seconds)
            seconds -= step
            self._ahead_s += step
            self.gateway.plane.advance_clock(int(step * 1000))
            self._waiting.cancel()  # the pump looks at the clock anew
            if alive:
                for device in self.devices:
                    if device.closed is None:
                        await device.ping()

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until something of the gateway's is so."""
        with trio.fail_after(WITHIN_S):
            while not condition():  # noqa: ASYNC110 - nothing tells of it
                await trio.sleep(0.002)

    # -- operators -------------------------------------------------------------------------------

    async def set_up(self, *identifiers: str) -> None:
        """Product `lamp`, these devices (each has logged in once, with version OLD), firmware FIRMWARE."""
        await self.service.create_product(CreateProductRequest("lamp", "Lamp"))
        await self.add_firmware(NEW)
        for identifier in identifiers:
            await self.service.register_device("lamp", RegisterDeviceRequest(identifier, secret=SECRET))
            device = await self.log_in(identifier, "tcp", OLD)
            await self.leave(device)

    async def add_firmware(self, version: str, image: bytes = IMAGE) -> str:
        """Upload; the id."""
        metadata = FirmwareMetadata("lamp", f"fw-{version}", version, "fw.bin")
        async with self.service.upload_firmware(metadata) as upload:
            await upload.write(image)
            return (await upload.finish()).id

    async def create_batch(self, firmware: str = FIRMWARE, **parameters: Any) -> str:
        """A batch of everybody, for a day, with a time-out of a minute and no retry; the id."""
        defaults: dict[str, Any] = {
            "range": "all",
            "validity_days": 1,
            "policy": "standard",
            "timeout_minutes": 1,
            "retries": 0,
        }
        if parameters.get("retries"):
            defaults["retry_interval_minutes"] = 1
        request = CreateBatchRequest(firmware=firmware, **(defaults | parameters))
        return (await self.service.create_batch(request)).id

    async def details(self, batch: str, identifier: str) -> UpgradeDetails:
        """A device upgrade as operators see it."""
        return await self.service.get_upgrade(batch, identifier)

    async def wait_state(self, batch: str, identifier: str, state: str) -> UpgradeDetails:
        """Until a device upgrade is in this state."""
        details = await self.details(batch, identifier)
        with trio.move_on_after(WITHIN_S):
            while details.state != state:
                await trio.sleep(0.002)
                details = await self.details(batch, identifier)
        assert details.state == state, details
        return details

    async def idle(self) -> None:
        """Until nothing waits for a commit."""
        await self.gateway.journal.wait_idle()

    # -- devices ---------------------------------------------------------------------------------

    async def connect(self, identifier: str, link: str) -> Device:
        """A connection that has read its challenge."""
        device = await Device.connect(self.address, link, identifier)
        self.devices.append(device)
        return device

    async def log_in(self, identifier: str, link: str, version: str = OLD) -> Device:
        """A session."""
        device = await self.connect(identifier, link)
        await device.log_in(version)
        return device

    async def leave(self, device: Device) -> None:
        """The device's connection is lost, and the gateway knows."""
        connections = self.gateway.plane.statistics()["connections"]
        await device.lose()
        await self.wait(lambda: self.gateway.plane.statistics()["connections"] < connections)
        await self.wait(lambda: len(self.gateway.presence) <= self.gateway.plane.statistics()["connections"])

    def transfer(self) -> int:
        """A number for a transfer."""
        return next(self._transfers)

    async def bring_to(self, state: str, batch: str, device: Device, attempt: int = 1) -> None:
        """Lead a device that is online, and whose batch was just created, to a state."""
        if state == "to_be_pushed":
            return
        upgrade = await device.receive("upgrade")
        assert (upgrade["batch"], upgrade["attempt"]) == (batch, attempt)
        about: Message = {"batch": batch, "attempt": attempt}
        if state == "pushed":
            return
        assert (await device.ask("received", **about))["type"] == "ack"
        if state == "upgrading":
            await device.ask("progress", **about, stage="downloading", percent=5)
        elif state == "succeeded":
            await device.ask("version", version=upgrade["firmware"]["version"])
        elif state in ("to_be_retried", "failed"):
            await device.ask("result", **about, outcome="failed", reason="download_failed")
        assert (await self.details(batch, device.identifier)).state == state


@asynccontextmanager
async def open_world(path: Path, *, begins_ms: int = EPOCH_MS, **sections: Any) -> AsyncIterator[World]:
    """A world whose store must keep its invariants to the end; its time begins at `begins_ms`, UTC."""
    sections = {"device": {"heartbeat_s": HEARTBEAT_S} | sections.pop("device", {}), **sections}
    async with trio.open_nursery() as nursery:
        world = World(path, nursery, sections, begins_ms)
        await world.start()
        try:
            yield world
        finally:
            for device in world.devices:
                await device.aclose()
        await world.idle()
        findings = check_invariants(world.store)
        await world.stop()
        assert findings == []
