"""What a device costs that is merely there, and what it costs to come."""

import time

from .. import machine
from ..fleet import Fleet
from ..measure import Bench, Result, World

SETTLE_S = 1.0
LINKS = ("websocket", "tcp")


def idle(
    bench: Bench, *, low: int = 5_000, high: int = 19_000, links: tuple[str, ...] = LINKS
) -> list[Result]:
    """Private memory of the gateway per idle, logged-in device: the slope between `low` and `high`."""
    results = []
    for link in links:
        with bench.world(high) as world, world.fleet(high, links=[link]) as fleet:
            result = Result("idle", "gateway", {"link": link, "low": low, "high": high})
            meter = world.meter(fleet)
            none = machine.private_bytes(world.pids())
            bench.say(f"{link}: {low} devices log in")
            world.log_in(fleet, low, work="idle")
            few, kernel_few = _settled_bytes(world), machine.slab_bytes()
            bench.say(f"{link}: {high} devices are logged in")
            world.log_in(fleet)
            many = _settled_bytes(world)
            meter.read(result)
            result.limit = ""
            slab = (machine.slab_bytes() - kernel_few) / (high - low)
            result.figure("kernel_bytes_both_ends", slab, "B")
            if world.pids():
                result.figure("bytes_per_device", (many - few) / (high - low), "B")
                result.figure("private_memory", many / 2**20, "MiB")
                result.figure("private_memory_empty", none / 2**20, "MiB")
            else:
                result.remarks.append("the gateway's memory is not known without --pid")
            results.append(result)
    return results


def _settled_bytes(world: World) -> int:
    time.sleep(SETTLE_S)  # memory of the logins themselves is given back
    return machine.private_bytes(world.pids())


def login(bench: Bench, *, devices: int = 19_000, opening: int = 512) -> list[Result]:
    """A storm of logins: all for the first time (each noted durably), and all again after a restart."""
    with bench.world(devices) as world, world.fleet(devices) as fleet:
        fleet.configure(world.gateway.device_port, work="idle", opening_max=opening)
        results = [_storm(bench, world, fleet, "new")]
        fleet.disconnect()
        serving_s = None
        if world.gateway.process is not None:
            bench.say("restarting the gateway")
            serving_s = world.restart()
            fleet.configure(world.gateway.device_port, work="idle", opening_max=opening)
        fleet.reset()
        results.append(_storm(bench, world, fleet, "returning"))
        if serving_s is not None:
            results[-1].figure("restart_to_serving", serving_s, "s")
    return results


def _storm(bench: Bench, world: World, fleet: Fleet, kind: str) -> Result:
    result = Result("login", "gateway", {"devices": fleet.count, "kind": kind})
    bench.say(f"{fleet.count} {kind} devices log in")
    meter = world.meter(fleet)
    started_ns = time.monotonic_ns()
    fleet.connect()
    counters = fleet.wait(lambda counters: counters["logged_in"].count, fleet.count, "logins")
    meter.read(result)
    seconds = (counters["logged_in"].last_ns - started_ns) / 1e9
    result.figure("all_back", seconds, "s")
    result.figure("logins", fleet.count / seconds, "/s")
    if result.server_cpu_s:
        result.figure("logins_per_cpu_s", fleet.count / result.server_cpu_s, "/CPU-s")
    result.latency("connect to welcome", fleet.histogram("login"))
    if counters["connect_errors"] or counters["protocol_errors"]:
        result.remarks.append(
            f"{counters['connect_errors']} connections failed at first: {counters['last_error']}"
        )
    return result
