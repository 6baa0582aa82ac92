"""How cost grows with the number of devices: in one process, and past its descriptors in several."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .. import machine
from ..fleet import Fleet
from ..measure import Bench, Meter, Result, World
from ..processes import BenchError
from .reports import IMAGE_BYTES
from .upgrades import devices_free

SETTLE_S = 1.0
REPORT_WARM_UP_S = 0.5


def curve(
    bench: Bench,
    *,
    counts: tuple[int, ...] = (1_000, 5_000, 10_000, 19_000),
    gateways: tuple[int, ...] = (2, 4),
    seconds: float = 3.0,
) -> list[Result]:
    """What a device costs with so many of them: memory, a login, a pushed upgrade, a report. `counts` in one
    process, then the largest count in each of several processes with stores of their own, on one core."""
    if bench.attached is not None and bench.attached_pid is None:
        raise BenchError("what a device costs is not known without --pid")
    results = []
    with _ready_worlds(bench, 1, max(counts)) as (worlds, fleets):
        results += _grown(bench, worlds, fleets, sorted(counts), seconds)
    if bench.attached is None:
        for number in gateways:
            with _ready_worlds(bench, number, max(counts)) as (worlds, fleets):
                results += _grown(bench, worlds, fleets, [max(counts)], seconds)
    return results


@contextmanager
def _ready_worlds(bench: Bench, gateways: int, devices: int) -> Iterator[tuple[list[World], list[Fleet]]]:
    """Gateways whose devices were all online once, and their fleets, offline."""
    with ExitStack() as stack:
        worlds, fleets = [], []
        for number in range(gateways):
            bench.say(f"gateway {number + 1} of {gateways}: {devices} devices log in for the first time")
            world = stack.enter_context(bench.world(devices))
            fleet = stack.enter_context(world.fleet(devices))
            world.log_in(fleet, work="report")
            fleet.disconnect()
            worlds.append(world)
            fleets.append(fleet)
        for world, fleet in zip(worlds, fleets, strict=True):
            if world.gateway.process is not None:
                bench.say("restart")
                world.restart()  # what the first logins left in memory is not of this matter
                fleet.configure(world.gateway.device_port, work="report")
        yield worlds, fleets


def _private(worlds: list[World]) -> int:
    time.sleep(SETTLE_S)
    return sum(machine.private_bytes(world.pids()) for world in worlds)


def _meter(bench: Bench, worlds: list[World], fleets: list[Fleet]) -> Meter:
    return Meter(
        bench,
        [pid for world in worlds for pid in world.pids()],
        [pid for fleet in fleets for pid in fleet.pids()],
    )


def _grown(
    bench: Bench, worlds: list[World], fleets: list[Fleet], counts: list[int], seconds: float
) -> list[Result]:
    """First only logins, for what a device costs that is merely there; then upgrades and reports."""
    results = [
        Result("curve", "gateway", {"devices": count * len(worlds), "processes": len(worlds)})
        for count in counts
    ]
    empty = _private(worlds)
    for count, result in zip(counts, results, strict=True):
        result.figure("login", _log_in(bench, worlds, fleets, count), "CPU-µs")
        result.figure("private_memory", (_private(worlds) - empty) / 2**20, "MiB")
    for fleet in fleets:
        fleet.disconnect()
    for count, result in zip(counts, results, strict=True):
        _log_in(bench, worlds, fleets, count)
        batches = _push(bench, worlds, fleets, count, result)
        _report(bench, worlds, fleets, seconds, result)
        for world, fleet, batch in zip(worlds, fleets, batches, strict=True):
            world.api.abort(batch)
            devices_free(world, fleet.count)
    return results


def _log_in(bench: Bench, worlds: list[World], fleets: list[Fleet], count: int) -> float:
    """Until `count` devices of each are online; processor microseconds for each that came."""
    new: int = sum(count - fleet.counters()["online"] for fleet in fleets)
    bench.say(f"{count} devices on each of {len(worlds)} gateways log in")
    meter = _meter(bench, worlds, fleets)
    for world, fleet in zip(worlds, fleets, strict=True):
        world.log_in(fleet, count)
    cost = Result("", "")
    meter.read(cost)
    return cost.server_cpu_s / new * 1e6


def _push(bench: Bench, worlds: list[World], fleets: list[Fleet], count: int, result: Result) -> list[str]:
    bench.say(f"{count} devices of each: an upgrade pushed")
    firmware = [world.firmware(IMAGE_BYTES) for world in worlds]
    for fleet in fleets:
        fleet.reset()
    meter = _meter(bench, worlds, fleets)
    batches = [
        str(world.api.create_batch(identity)["id"]) for world, identity in zip(worlds, firmware, strict=True)
    ]
    for fleet in fleets:
        # the first report's answer is the last that an upgrade sets off by itself
        fleet.wait(lambda counters: counters["answers"].count, count, "first reports")
    cost = Result("", "")
    meter.read(cost)
    result.figure("upgrade_begun", cost.server_cpu_s / (count * len(worlds)) * 1e6, "CPU-µs")
    return batches


def _report(bench: Bench, worlds: list[World], fleets: list[Fleet], seconds: float, result: Result) -> None:
    bench.say("reports, one in flight on each connection")
    for world, fleet in zip(worlds, fleets, strict=True):
        fleet.configure(world.gateway.device_port, work="report", depth=1)
        fleet.start()
    time.sleep(REPORT_WARM_UP_S)
    for fleet in fleets:
        fleet.reset()
    meter = _meter(bench, worlds, fleets)
    bench.progress.pass_time(seconds)
    answered = sum(fleet.tally("answers").count for fleet in fleets)
    meter.read(result)
    for fleet in fleets:
        fleet.stop_work()
    result.figure("report", result.server_cpu_s / max(answered, 1) * 1e6, "CPU-µs")
