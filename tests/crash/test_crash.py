"""kill -9, briefly; tools/crash_loop does it for as long as one likes."""

import resource
import time
from pathlib import Path

import trio

from otagate.store.check import main as check_store
from tests.crash.__main__ import Many, run
from tests.end_to_end.device import Device
from tests.end_to_end.process import GatewayProcess, Operator
from tests.end_to_end.world import World, open_world
from tests.record import Record

KILLS = 20
FLEET = 1_000
# A device has so long to acknowledge: no load of the machine takes half of it from a thousand of them.
ACKNOWLEDGE_S = 600


def test_twenty_kills(tmp_path: Path) -> None:
    many = Many(KILLS, Record(None, {}))
    assert run(many, tmp_path, jobs=4, devices=30, seed=7) == []
    assert many.totals["cycles"] == KILLS
    assert many.totals["promises"] > 500
    assert many.totals["operators"] > KILLS
    assert many.totals["resumed"] > 0


def test_nobody_fails_by_the_absence_of_the_gateway(tmp_path: Path) -> None:
    """1,000 devices in `pushed`, no retry; the gateway is killed; they come back when their time is over."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    data = tmp_path / "data"
    environment = {"OTAGATE_UPGRADE__ACKNOWLEDGE_TIMEOUT_S": str(ACKNOWLEDGE_S)}
    gateway = GatewayProcess(data, environment=environment)
    gateway.start()
    try:
        with Operator(gateway) as operator:
            operator.create_product()
            operator.register(*names())
            firmware = operator.add_firmware("2.0", bytes(1000))
            batch = trio.run(push_all, gateway, operator, firmware)
    finally:
        gateway.kill()
    trio.run(come_back, data, batch)
    assert check_store([str(data)]) == 0


def names() -> list[str]:
    return [f"d{number}" for number in range(FLEET)]


async def log_in(address: tuple[str, int], identifier: str, into: dict[str, Device]) -> None:
    device = await Device.connect(address, "tcp" if int(identifier[1:]) % 2 else "websocket", identifier)
    await device.log_in("1.0")
    into[identifier] = device


async def log_all_in(address: tuple[str, int]) -> dict[str, Device]:
    devices: dict[str, Device] = {}
    every = names()
    for at in range(0, FLEET, 100):
        async with trio.open_nursery() as nursery:
            for name in every[at : at + 100]:
                nursery.start_soon(log_in, address, name, devices)
    return devices


async def push_all(gateway: GatewayProcess, operator: Operator, firmware: str) -> str:
    """Everybody has the message, nobody has answered, the gateway dies."""
    devices = await log_all_in(gateway.devices)
    batch = await trio.to_thread.run_sync(operator.create_batch, firmware)
    for device in devices.values():
        assert (await device.receive("upgrade"))["attempt"] == 1
    gateway.kill()
    for device in devices.values():
        await device.aclose()
    return batch


async def come_back(data: Path, batch: str) -> None:
    """Later on the same store: everybody is asked again, and has as long again."""
    patience = {"acknowledge_timeout_s": ACKNOWLEDGE_S}
    async with open_world(data, begins_ms=time.time_ns() // 1_000_000, upgrade=patience) as world:
        await world.jump(1.2 * ACKNOWLEDGE_S)
        counts = (await world.service.get_batch(batch)).counts
        assert (counts.pushed, counts.failed) == (FLEET, 0)
        devices = await log_all_in(world.address)
        world.devices += devices.values()
        for device in devices.values():
            assert (await device.receive("upgrade"))["attempt"] == 1
        await world.jump(0.5 * ACKNOWLEDGE_S, alive=False)
        await acknowledge(world, batch)
        counts = (await world.service.get_batch(batch)).counts
        assert (counts.to_be_upgraded, counts.failed) == (FLEET, 0)


async def acknowledge(world: World, batch: str) -> None:
    for device in world.devices:
        await device.send("received", batch=batch, attempt=1, id="r")
    for device in world.devices:
        assert (await device.answer("r"))["type"] == "ack"
