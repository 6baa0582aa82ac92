"""What devices say while they work: progress, answered at once; transitions, answered once durable."""

import time
from typing import Any

from ..fleet import Fleet
from ..lateness import lateness
from ..measure import Bench, Result, World
from ..processes import wait_until

IMAGE_BYTES = 4096
WARM_UP_S = 0.5
TRANSITIONS = 3  # acknowledged ones of an upgrade: received, first progress, failure


def begin_upgrades(world: World, fleet: Fleet, firmware: str) -> dict[str, Any]:
    """A batch over all devices; back when each has read its upgrade message."""
    fleet.reset()
    batch = world.api.create_batch(firmware)
    fleet.wait(lambda counters: counters["upgrades"].count, fleet.count, "upgrade messages")
    return batch


def report(
    bench: Bench,
    *,
    devices: int = 1_000,
    depths: tuple[int, ...] = (1, 16),
    seconds: float = 4.0,
    links: tuple[str, ...] = ("websocket", "tcp"),
) -> list[Result]:
    """Progress reports of 128 bytes, answered when applied; `devices` connections, `depth` in flight each."""
    results = []
    for link in links:
        with bench.world(devices) as world, world.fleet(devices, links=[link]) as fleet:
            firmware = world.firmware(IMAGE_BYTES)
            world.log_in(fleet, work="report")
            begin_upgrades(world, fleet, firmware)
            fleet.wait(lambda counters: counters["answers"].count, devices, "first reports")
            for depth in depths:
                bench.say(f"{link}: reports, {depth} in flight")
                fleet.configure(world.gateway.device_port, work="report", depth=depth)
                results.append(_reports(world, fleet, link, depth, seconds))
    return results


def _reports(world: World, fleet: Fleet, link: str, depth: int, seconds: float) -> Result:
    result = Result("report", "gateway", {"link": link, "devices": fleet.count, "in_flight": depth})
    fleet.start()
    time.sleep(WARM_UP_S)
    fleet.reset()
    meter = world.meter(fleet)
    world.bench.progress.pass_time(seconds)
    tally = fleet.tally("answers")
    meter.read(result)
    result.latency("answer", fleet.histogram("answer"))
    fleet.stop_work()
    result.figure("reports", tally.count / max(tally.seconds, 1e-9), "/s")
    if result.server_cpu_s:
        result.figure("reports_per_cpu_s", tally.count / result.server_cpu_s, "/CPU-s")
    time.sleep(0.2)  # what is in flight is answered
    problems = fleet.counters()
    if problems["protocol_errors"] or problems["errors"] or problems["lost"]:
        result.remarks.append(f"not all went well: {problems['last_error']}")
    return result


def durable(bench: Bench, *, devices: int = 10_000, rounds: int = 3) -> list[Result]:
    """Transitions, acknowledged after their fdatasync: three of each device, as fast as they go; then again
    at half of the rate that came out."""
    results = []
    with (
        bench.world(devices, **{"upgrade.acknowledge_timeout_s": 120}) as world,
        world.fleet(devices) as fleet,
    ):
        firmware = world.firmware(IMAGE_BYTES)
        world.log_in(fleet, work="transitions")
        full = []
        for number in range(rounds):
            bench.say(f"transitions at full rate, {number + 1} of {rounds}")
            full.append(_transitions(world, fleet, firmware, 0.0))
        half = sorted(result.figures["transitions"].value for result in full)[len(full) // 2] / 2
        results += full
        for number in range(rounds):
            bench.say(f"transitions at {half:.0f}/s, {number + 1} of {rounds}")
            results.append(_transitions(world, fleet, firmware, half))
    return results


def _transitions(world: World, fleet: Fleet, firmware: str, rate: float) -> Result:
    kind = "half" if rate else "full"
    result = Result("durable", "gateway", {"devices": fleet.count, "rate": kind})
    fleet.configure(world.gateway.device_port, work="transitions", rate=rate)
    batch = begin_upgrades(world, fleet, firmware)
    time.sleep(WARM_UP_S)  # the pushes are over
    fleet.reset()
    goal = fleet.count * TRANSITIONS
    with lateness(world) as late:
        meter = world.meter(fleet)
        fleet.start()
        counters = fleet.wait(lambda counters: counters["answers"].count, goal, "acknowledgements")
        meter.read(result)
    fleet.stop_work()
    tally = counters["answers"]
    result.figure("transitions", tally.count / max(tally.seconds, 1e-9), "/s")
    if result.server_cpu_s:
        result.figure("transitions_per_cpu_s", tally.count / result.server_cpu_s, "/CPU-s")
    result.latency("acknowledgement", fleet.histogram("answer"))
    result.latency("lateness of the loop", late.histogram)
    wait_until(lambda: world.api.batch(batch["id"])["status"] != "in_progress", 60.0, "the end of the batch")
    return result
