"""Large numbers: a product of a million devices, and everything at once."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .. import machine
from ..fleet import Fleet
from ..lateness import lateness
from ..measure import Bench, Result, World
from ..processes import BenchError, wait_until

WAVE_DEVICES = 15_000
OTHERS = 200  # devices that report a version now and then, while the big things happen
OTHERS_RATE = 200.0
MIB = 2**20
UPLOAD_BYTES = 100 * MIB
FREE_TIMEOUT_S = 180.0


def activate(world: World, first: int, count: int) -> None:
    """Each device logs in once and goes: only such a device can be upgraded."""
    for start in range(first, first + count, WAVE_DEVICES):
        wave = min(WAVE_DEVICES, first + count - start)
        world.bench.say(f"devices log in for the first time: {start - first} of {count}")
        with world.fleet(wave, first=start) as fleet:
            world.log_in(fleet, work="idle")
            fleet.disconnect()


@contextmanager
def others(world: World) -> Iterator[Fleet]:
    """A few devices of another product that go on reporting versions, each acknowledged once durable."""
    with world.fleet(OTHERS, product=world.side_product(OTHERS), processes=1) as fleet:
        world.log_in(fleet, work="versions", rate=OTHERS_RATE)
        fleet.start()
        time.sleep(1.0)
        fleet.reset()
        yield fleet
        fleet.stop_work()


def big(bench: Bench, *, devices: int = 1_000_000, in_progress: int = 100_000) -> list[Result]:
    """A product of a million devices: registered, activated, a batch over all of them created and aborted
    while others report; then a restart with `in_progress` upgrades of another batch under way."""
    results = []
    with bench.world(devices) as world:
        result = Result("big", "gateway", {"devices": devices, "step": "register"})
        result.figure("registering", world.registering_s, "s")
        results.append(result)
        activate(world, 0, devices)
        firmware = world.firmware(MIB)
        with others(world) as fleet:
            made: dict[str, Any] = {}
            results.append(
                _big_step(
                    world, fleet, devices, "create", lambda: made.update(world.api.create_batch(firmware))
                )
            )
            batch = str(made["id"])
            results.append(_big_step(world, fleet, devices, "abort", lambda: world.api.abort(batch)))
        if world.gateway.process is not None:
            try:
                _begin_directed(world, firmware, min(in_progress, devices))
            except BenchError as error:  # what was measured until here is worth to be told
                results[-1].remarks.append(f"no restart with upgrades under way: {error}")
                return results
            result = Result("big", "gateway", {"devices": devices, "step": "restart"})
            bench.say("restart")
            result.figure("restart_to_serving", world.restart(), "s")
            result.figure("upgrades_in_progress", _in_progress(world), "")
            results.append(result)
    return results


def _begin_directed(world: World, firmware: str, count: int) -> None:
    """A batch over the first devices, as soon as they are free: an abort rewrites its rows in slices."""
    world.bench.say(f"a batch over {count} devices")

    def created() -> bool:
        with suppress(BenchError):
            world.api.create_batch(firmware, directed=count)
            return True
        return False

    wait_until(created, FREE_TIMEOUT_S, "devices free again", pause_s=1.0)


def _in_progress(world: World) -> int:
    """Device upgrades that have not ended, by the counters of the newest batch."""
    counts = world.api.call("GET", "/api/v1/batches", params={"status": "in_progress"})["items"][0]["counts"]
    ended = ("succeeded", "failed", "cancelled", "aborted", "total")
    return sum(count for state, count in counts.items() if state not in ended)


def _big_step(world: World, fleet: Fleet, devices: int, step: str, act: Callable[[], Any]) -> Result:
    """One request, with what others feel of it and for a while after."""
    result = Result("big", "gateway", {"devices": devices, "step": step})
    world.bench.say(f"{devices} devices: {step}")
    before = machine.private_bytes(world.pids())
    fleet.reset()
    meter = world.meter(fleet)
    with lateness(world) as late:
        started = time.monotonic()
        act()
        answered = time.monotonic() - started
        time.sleep(max(5.0, answered / 2))  # the rows of an abort are rewritten in slices
    meter.read(result)
    result.limit = ""
    result.figure("request_answered", answered * 1000, "ms")
    if world.pids():
        result.figure("memory_growth", (machine.private_bytes(world.pids()) - before) / MIB, "MiB")
    result.latency("lateness of the loop", late.histogram)
    result.latency("acknowledgement of others", fleet.histogram("answer"))
    return result


def mixed(
    bench: Bench, *, devices: int = 100_000, downloads: int = 1_000, seconds: float = 15.0
) -> list[Result]:
    """How late the loop is while a 100 MB image is uploaded, a batch of `devices` is created, lists are read
    and `downloads` devices download."""
    with bench.world(devices + downloads) as world:
        activate(world, 0, devices)
        firmware = world.firmware(16 * MIB)
        result = Result("mixed", "gateway", {"batch": devices, "downloads": downloads})
        with world.fleet(downloads, first=devices) as fleet, others(world) as reporting:
            world.log_in(fleet, work="stream", chunk_size=65_536, verify=False)
            fleet.start()
            reporting.reset()
            meter = world.meter(fleet)
            with lateness(world) as late, _operators(world, seconds) as counts:
                bench.say("uploads, lists, a batch and downloads")
                started = time.monotonic()
                world.api.create_batch(firmware)
                counts["batch_s"] = time.monotonic() - started
                bench.progress.pass_time(max(seconds - counts["batch_s"], 1.0))
            meter.read(result)
            result.limit = ""
            streamed = fleet.counters()["image_bytes"]
            result.figure("batch_created", counts["batch_s"], "s")
            result.figure("uploads", counts["uploads"], "images of 100 MiB")
            result.figure("lists", counts["lists"], "pages")
            result.figure("streamed", streamed / result.wall_s / 1e6, "MB/s")
            result.latency("lateness of the loop", late.histogram)
            result.latency("acknowledgement of others", reporting.histogram("answer"))
    return [result]


@contextmanager
def _operators(world: World, seconds: float) -> Iterator[dict[str, float]]:
    """Two operators in threads: one uploads and deletes images, one pages through devices."""
    counts: dict[str, float] = {"uploads": 0, "lists": 0, "batch_s": 0}
    end = time.monotonic() + seconds
    errors: list[BaseException] = []

    def uploads() -> None:
        while time.monotonic() < end:
            world.versions += 1
            identity = world.api.add_firmware(UPLOAD_BYTES, f"x{secrets.token_hex(4)}", world.product)
            world.api.call("DELETE", f"/api/v1/firmware/{identity}")
            counts["uploads"] += 1

    def lists() -> None:
        cursor = None
        while time.monotonic() < end:
            params = {"limit": 1000} | ({"cursor": cursor} if cursor else {})
            page = world.api.call("GET", f"/api/v1/products/{world.product}/devices", params=params)
            cursor = page["next"]
            counts["lists"] += 1

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(work,), daemon=True) for work in (uploads, lists)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        for thread in threads:
            thread.join(60.0)
    if errors:
        raise BenchError(f"an operator failed: {errors[0]}")
