"""Operators: they create, abort, register, rotate and delete, and remember what they were told."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from otagate.errors import NotFound, RequestError
from otagate.gateway.upgrades import number_of
from otagate.gateway.views import (
    BatchView,
    CreateBatchRequest,
    CreateProductRequest,
    FirmwareMetadata,
    RegisterDeviceRequest,
)
from otagate.store.sealing import about_device
from otagate.upgrade.model import BatchStatus
from tests.simulation.devices import SimulatedDevice
from tests.simulation.plan import DAY_MS, HOUR_MS, MINUTE_MS
from tests.simulation.plane import IMAGE, IMAGE_BYTES
from tests.simulation.store import Killed

if TYPE_CHECKING:
    from tests.simulation.world import World

MD5 = hashlib.md5(IMAGE, usedforsecurity=False).hexdigest()


class Operators:
    """See the module. `left`: acts that are not done yet."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._chance = world.source("operators")
        self.firmware: list[str] = []
        self.batches: dict[int, BatchView] = {}
        self.aborted: set[int] = set()
        self.left = 0
        self.refused = 0

    async def set_up(self) -> None:
        """Products, firmware, devices."""
        world, chance = self._world, self._chance
        for number in range(world.plan.products):
            await world.service.create_product(CreateProductRequest(f"p{number}", "A product"))
            for version in ("2.0", "3.0"):
                await self._add_firmware(f"p{number}", version)
        for number in range(world.plan.devices):
            await self._register(f"p{chance.randrange(world.plan.products)}", f"d{number}")

    async def _add_firmware(self, product: str, version: str) -> None:
        number = len(self.firmware)
        metadata = FirmwareMetadata(product, f"firmware-{product}-{version}", version, "image.bin")
        sha256 = f"{number % 2:064x}"
        view = await self._world.service.add_firmware(metadata, IMAGE_BYTES, MD5, sha256)
        self.firmware.append(view.id)

    async def _register(self, product: str, identifier: str) -> None:
        world = self._world
        secret = f"secret-of-{identifier}-{'x' * 16}"
        view = await world.service.register_device(product, RegisterDeviceRequest(identifier, secret=secret))
        assert view.secret == secret
        device = SimulatedDevice(world, product, identifier, secret)
        world.devices[identifier] = device
        if self._chance.random() < 0.95:
            device.connect_in(self._chance.randint(0, 5_000))

    def schedule(self) -> None:
        """All that they will do, from now on."""
        plan, chance = self._world.plan, self._chance
        for number in range(plan.batches):
            at_ms = 10_000 if not number else chance.randint(10_000, plan.busy_ms)
            self._plan(at_ms, self._create)
        others = (self._rotate, self._delete_device, self._register_one, self._delete_firmware, self._look)
        for _ in range(plan.acts):
            self._plan(chance.randint(10_000, plan.busy_ms), chance.choice(others))

    def _plan(self, in_ms: int, act: Callable[[], Awaitable[None]]) -> None:
        self.left += 1
        self._world.at(self._world.now_ms + in_ms, self._begin, act)

    def _begin(self, act: Callable[[], Awaitable[None]]) -> None:
        if self._world.down:
            self._world.at(self._world.now_ms + 20 * MINUTE_MS, self._begin, act)
        else:
            self._world.nursery.start_soon(self._act, act)

    async def _act(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Killed:
            self._world.trace("not answered", act.__name__)
        except RequestError as error:
            self.refused += 1
            self._world.trace("refused", act.__name__, error.message)
            if act == self._create and self.refused < 4:
                self._plan(self._chance.randint(1_000, HOUR_MS), act)
        self.left -= 1

    # -- acts ------------------------------------------------------------------------------------

    async def _create(self) -> None:
        world, chance = self._world, self._chance
        firmware = chance.choice(self.firmware)
        names = None
        if chance.random() < 0.4:
            product = (await world.service.get_firmware(firmware)).product
            names = [name for name, device in world.devices.items() if device.product == product]
            names = [name for name in names if world.devices[name].sessions or chance.random() < 0.05]
            names = chance.sample(names, (len(names) + 1) // 2)
        retries = chance.choice((0, 1, 2, 3, 5))
        request = CreateBatchRequest(
            firmware=firmware,
            range="all" if names is None else "directed",
            validity_days=chance.choice((1, 1, 1, 2, 7)),
            policy=chance.choice(("standard", "standard", "silent")),
            timeout_minutes=chance.choice((1, 5, 30, 600)),
            retries=retries,
            devices=names,
            retry_interval_minutes=chance.choice((1, 5, 60, 700)) if retries else None,
        )
        world.aim(1_000)
        sleeps = world.sleeps
        view = await world.service.create_batch(request)
        number = number_of(view.id)
        self.batches[number] = view
        known = world.ledger.batches.get(number)
        if known is None:
            world.violate("durability", f"the creation of {view.id} was answered and is not durable")
        elif world.wall_is_known and world.sleeps == sleeps and known.status == BatchStatus.IN_PROGRESS:
            days_ms = known.expires_at_ms - world.wall_ms
            # It counts from before its commit, which waits for the one under way; each pauses twice.
            if abs(days_ms - known.validity_days * DAY_MS) > world.wall_slack_ms + world.plan.commit_ms * 4:
                world.violate("validity", f"{view.id} expires in {days_ms} ms")
        if chance.random() < 0.3:
            self._plan(
                chance.randint(0, chance.choice((2_000, 60_000, HOUR_MS))), lambda: self._abort(number)
            )

    async def _abort(self, number: int) -> None:
        world = self._world
        world.aim(1_000)
        view = await world.service.abort_batch(f"b{number}")
        self.aborted.add(number)
        if world.ledger.batches[number].status != BatchStatus.ABORTED or view.status != "aborted":
            world.violate("durability", f"the abort of batch {number} was answered and is not durable")

    async def _rotate(self) -> None:
        device = self._any_device()
        async with self._found_out(device):
            await self._world.service.rotate_secret(device.product, device.identifier)

    async def _delete_device(self) -> None:
        device = self._any_device()
        async with self._found_out(device):
            await self._world.service.delete_device(device.product, device.identifier)

    @asynccontextmanager
    async def _found_out(self, device: SimulatedDevice) -> AsyncIterator[None]:
        """What became of a device and its secret, whether the action was answered or not."""
        world = self._world
        device.secret_ms = None
        try:
            yield
        except Killed:
            await trio.sleep(1)  # the store may have it although nobody hears of it
            raise
        finally:
            found = (await world.store.lookup_devices([(device.product, device.identifier)]))[0]
            device.deleted = found is None
            if found is not None:
                about = about_device(found.product, found.identifier)
                device.agent._secret = world.store.sealer.open(found.sealed, about)
            device.secret_ms = world.now_ms

    async def _register_one(self) -> None:
        await self._register("p0", f"late{len(self._world.devices)}")

    async def _delete_firmware(self) -> None:
        await self._world.service.delete_firmware(self._chance.choice(self.firmware))

    async def _look(self) -> None:
        for number in list(self.batches):
            await self._world.service.get_batch(f"b{number}")

    def _any_device(self) -> SimulatedDevice:
        devices = self._world.devices
        return devices[self._chance.choice(list(devices))]

    # -- what they remember ----------------------------------------------------------------------

    async def check(self) -> None:
        """What they were told must still hold."""
        world = self._world
        for number, told in self.batches.items():
            try:
                view = await world.service.get_batch(told.id)
            except NotFound:
                world.violate("durability", f"{told.id} was created and is gone")
                continue
            if (view.counts.total, view.expires_at) != (told.counts.total, told.expires_at):
                world.violate("durability", f"{told.id} was told as {told}, is {view}")
            if number in self.aborted and view.status != "aborted":
                world.violate("durability", f"the abort of {told.id} was answered, it is {view.status}")
