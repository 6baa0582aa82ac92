"""Upgrades: how soon the message is read, how fast images stream, and whole campaigns."""

import time

from ..fleet import Counters, Fleet
from ..measure import Bench, Result, World
from ..processes import BenchError, wait_until

IMAGE_BYTES = 4096
MIB = 2**20
WARM_UP_S = 1.0
FAULTY_END_S = 120.0  # devices that never acknowledge take 10 s


def push(bench: Bench, *, devices: int = 10_000, rounds: int = 3) -> list[Result]:
    """From the request that creates a batch to its upgrade message read by the last of `devices`, each
    push durable before it left."""
    results = []
    with bench.world(devices) as world, world.fleet(devices) as fleet:
        firmware = world.firmware(IMAGE_BYTES)
        world.log_in(fleet, work="idle")
        for number in range(rounds):
            bench.say(f"push to {devices} devices, {number + 1} of {rounds}")
            results.append(_push(world, fleet, firmware))
    return results


def _push(world: World, fleet: Fleet, firmware: str) -> Result:
    result = Result("push", "gateway", {"devices": fleet.count})
    fleet.reset()
    meter = world.meter(fleet)
    fleet.mark()
    started_ns = time.monotonic_ns()
    batch = world.api.create_batch(firmware)
    answered_ns = time.monotonic_ns()
    counters = fleet.wait(
        lambda counters: counters["upgrades"].count, fleet.count, "upgrade messages", pause_s=0.1
    )
    meter.read(result)
    result.figure("all_have_read", (counters["upgrades"].last_ns - started_ns) / 1e6, "ms")
    if result.server_cpu_s:
        result.figure("pushes_per_cpu_s", fleet.count / result.server_cpu_s, "/CPU-s")
    result.figure("request_answered", (answered_ns - started_ns) / 1e6, "ms")
    result.latency("created to read", fleet.histogram("upgrade"))
    world.api.abort(batch["id"])
    # the aborted rows are rewritten in slices; only then are the devices free for the next batch
    devices_free(world, fleet.count)
    return result


def devices_free(world: World, devices: int) -> None:
    """Back when no upgrade of an aborted batch is left in the way of another."""
    wait_until(lambda: _free(world, devices), 60.0, "devices free again")


def _free(world: World, devices: int) -> bool:
    """Whether no upgrade of an aborted batch is left: the last device is eligible again. Pages may be short
    of items and still have a next one."""
    query = {"product": world.product}
    firmware = world.api.call("GET", "/api/v1/firmware", params=query)["items"][0]["id"]
    options = {"eligible_for": firmware, "q": f"d{devices - 1}", "limit": 1}
    cursor = ""
    while True:
        target = f"/api/v1/products/{world.product}/devices"
        page = world.api.call("GET", target, params={**options, **({"cursor": cursor} if cursor else {})})
        if page["items"] or page["next"] is None:
            return bool(page["items"])
        cursor = page["next"]


def stream(
    bench: Bench,
    *,
    receivers: tuple[int, ...] = (1, 100, 1_000),
    chunks: tuple[int, ...] = (65_536, 262_144),
    size: int = 16 * MIB,
    seconds: float = 4.0,
    links: tuple[str, ...] = ("websocket",),
) -> list[Result]:
    """One image to many receivers again and again. Each checks order and length of every chunk; the first
    image is also hashed, the others are dropped by the receiver's kernel, so that the sender is the limit."""
    results = []
    for link in links:
        for count in receivers:
            with bench.world(count) as world, world.fleet(count, links=[link]) as fleet:
                firmware = world.firmware(size)
                for chunk in chunks:
                    bench.say(f"{link}: {size // MIB} MiB to {count} in chunks of {chunk // 1024} KiB")
                    results.append(_stream(world, fleet, firmware, link, chunk, seconds))
    return results


def _stream(world: World, fleet: Fleet, firmware: str, link: str, chunk: int, seconds: float) -> Result:
    result = Result(
        "stream", "gateway", {"link": link, "receivers": fleet.count, "chunk": f"{chunk // 1024} KiB"}
    )
    port = world.gateway.device_port
    fleet.reset()
    world.log_in(fleet, work="stream", chunk_size=chunk)
    batch = world.api.create_batch(firmware)
    verified = fleet.wait(
        lambda counters: counters["downloads"].count, fleet.count, "first images", stall_s=60
    )
    fleet.configure(port, work="stream", chunk_size=chunk, verify=False, discard=True, read_bytes=262_144)
    fleet.start()
    time.sleep(WARM_UP_S)
    fleet.reset()
    meter = world.meter(fleet)
    started = time.monotonic()
    world.bench.progress.pass_time(seconds)
    counters = fleet.counters()
    elapsed = time.monotonic() - started
    meter.read(result)
    fleet.stop_work()
    result.figure("rate", counters["image_bytes"] / elapsed / 1e6, "MB/s")
    if result.server_cpu_s:
        result.figure("rate_per_cpu_s", counters["image_bytes"] / result.server_cpu_s / 1e6, "MB/CPU-s")
    if counters["chunk_errors"] or verified["chunk_errors"] or verified["md5_errors"]:
        result.remarks.append("chunks were wrong")
    fleet.disconnect()
    world.api.abort(batch["id"])
    devices_free(world, fleet.count)
    return result


def campaign(
    bench: Bench, *, devices: int = 10_000, size: int = MIB, faults: dict[str, float] | None = None
) -> list[Result]:
    """All devices receive, download, verify chunks and MD5, report, ask to burn, log in with the new version.
    With faults, shares of them misbehave; then the batch is watched to its end as far as it can come."""
    faults = faults or {}
    with bench.world(devices) as world, world.fleet(devices) as fleet:
        result = Result("campaign", "gateway", {"devices": devices, "image": f"{size / MIB:g} MiB"})
        firmware = world.firmware(size)
        world.log_in(fleet, work="campaign", faults=faults)
        fleet.reset()
        fleet.mark()
        meter = world.meter(fleet)
        started = time.monotonic()
        batch = world.api.create_batch(firmware)
        bench.say(f"campaign: {devices} devices; those that run the new version")
        if not faults:
            fleet.wait(lambda counters: counters["upgraded"].count, devices, "new versions")
        ended = world.api.wait_batch(batch["id"], timeout_s=FAULTY_END_S if faults else 30.0)
        elapsed = time.monotonic() - started
        meter.read(result)
        counters = fleet.counters()
        done = counters["upgraded"].count
        result.figure("devices", done / elapsed, "/s")
        if result.server_cpu_s:
            result.figure("devices_per_cpu_s", done / result.server_cpu_s, "/CPU-s")
        result.figure("image_rate", counters["image_bytes"] / elapsed / 1e6, "MB/s")
        result.latency("created to read", fleet.histogram("upgrade"))
        result.latency("burning allowed", fleet.histogram("answer"))
        _judge(result, counters, ended["counts"], devices)
    return [result]


def _judge(result: Result, counters: Counters, counts: dict[str, int], devices: int) -> None:
    """Fleet and gateway must tell the same story. BenchError if they do not."""
    played = {name: count for name, count in counters["faults"].items() if count}
    hopeless = played.get("fail", 0) + played.get("silent", 0)
    wrong = counters["chunk_errors"] + counters["md5_errors"]
    if played:
        result.parameters["faults"] = ", ".join(f"{count} {name}" for name, count in played.items())
    if wrong:
        raise BenchError(f"{wrong} chunks or images were wrong: {counters['last_error']}")
    if counts["succeeded"] != devices - hopeless or counters["upgraded"].count != counts["succeeded"]:
        raise BenchError(
            f"the fleet upgraded {counters['upgraded'].count} of {devices} ({hopeless} cannot), "
            f"the gateway says {counts}; last heard: {counters['last_error']}"
        )
