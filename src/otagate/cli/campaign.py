"""The demonstration's course: gateway, devices, firmware, batch, and what came of it."""

import os
import random
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import trio

from otagate.cli import api, output
from otagate.cli.batch import DEVICE_COLUMNS
from otagate.cli.children import Child
from otagate.cli.exits import CommandError, Exit
from otagate.cli.watching import BatchProgress, summary

PRODUCT = "demo"
OLD_VERSION, NEW_VERSION = "1.0.0", "2.0.0"
DEVICES_PER_PROCESS = 2500
READY_TIMEOUT_S = 60.0
STALL_TIMEOUT_S = 240.0  # no device moves for so long: something is wrong
POLL_S = 0.1
SAMPLE_ROWS = 10
BACK_OFF_CAP_S = 2.0
CHAOS_BURN_S = 2.0  # so that there is a middle to kill the gateway in
CHAOS_DROP_BYTES_MIN = 256 * 1024  # a connection must carry more than a chunk, or nothing moves

Result = TypeVar("Result")


class Campaign:
    """One demonstration. `run` once, `stop` always."""

    def __init__(self, folder: Path, *, devices: int, size: int, chaos: bool) -> None:
        self._folder = folder
        self._devices = devices
        self._size = size
        self._chaos = chaos
        self._data = folder / "otagate-data"
        self._device_port, self._admin_port = _free_ports(2)
        self._url = f"http://127.0.0.1:{self._admin_port}"
        self._gateway: Child | None = None
        self._fleet: list[Child] = []
        self._gateway_cpu_s = 0.0  # of gateways that were killed
        self._seconds: dict[str, float] = {}
        self._api: api.Api | None = None

    async def run(self) -> bool:
        """The whole course; whether every device succeeded. CommandError if it cannot go on."""
        _allow_descriptors()
        with self._timed("gateway ready"):
            await self._start_gateway()
        with self._timed("devices registered"):
            files = await self._register()
        with self._timed("devices logged in"):
            await self._start_fleet(files)
        with self._timed("firmware uploaded"):
            firmware = await self._upload()
        cpu_before_s = self._cpu_s()
        with self._timed("batch"):
            batch = await self._upgrade(firmware["id"])
        cpu_s = self._cpu_s() - cpu_before_s
        return await self._report(batch, cpu_s)

    async def stop(self) -> None:
        """End all processes: devices first, so that the gateway sees them go."""
        async with trio.open_nursery() as nursery:
            for child in self._fleet:
                nursery.start_soon(child.stop)
        if self._gateway is not None:
            await self._gateway.stop()

    def tell_where(self) -> None:
        """For --keep."""
        say(f"\nconsole and API: {self._url}/\nadmin token: {self._data / 'admin-token'}")
        say(f"devices: ws://127.0.0.1:{self._device_port}/device, tcp://127.0.0.1:{self._device_port}")
        say("Ctrl-C ends it all")

    # -- the steps ---------------------------------------------------------------------------------------

    async def _start_gateway(self) -> None:
        self._gateway = Child(
            [
                "serve",
                *("--data", str(self._data)),
                *("--device-listen", f"127.0.0.1:{self._device_port}"),
                *("--admin-listen", f"127.0.0.1:{self._admin_port}"),
            ],
            self._folder / "gateway.log",
        )
        probe = api.Api(self._url, None)
        with trio.move_on_after(READY_TIMEOUT_S):
            while self._gateway.exit_code is None:
                try:
                    await _in_thread(lambda: probe.get("/readyz"))
                except CommandError:
                    await trio.sleep(POLL_S)
                else:
                    token = (self._data / "admin-token").read_text("ascii").strip()
                    self._api = api.Api(self._url, token)
                    return
        raise CommandError(f"the gateway did not start:\n{self._gateway.tail()}", Exit.UNREACHABLE)

    async def _register(self) -> list[Path]:
        """All devices in one request; a file for each process of the fleet, every other device on TCP."""
        await self._call(
            lambda gateway: gateway.call(
                "POST", api.path("products"), body={"key": PRODUCT, "name": "Demonstration"}
            )
        )
        lines = (b'{"identifier":"demo-%06d"}\n' % number for number in range(1, self._devices + 1))
        processes = max(min(2, self._devices), -(-self._devices // DEVICES_PER_PROCESS))
        files = [self._folder / f"devices-{number}.ndjson" for number in range(1, processes + 1)]
        urls = [f"{scheme}://127.0.0.1:{self._device_port}" for scheme in ("ws", "tcp")]

        def register(gateway: api.Api) -> int:
            registered = 0
            target = api.path("products", PRODUCT, "devices")
            headers = {"content-type": "application/x-ndjson"}
            outputs = [file.open("wb") for file in files]
            try:
                with gateway.exchange("POST", target, pieces=lines, headers=headers) as response:
                    for line in response.iter_lines():
                        device = msgspec.json.decode(line)
                        if "secret" in device:
                            device["url"] = urls[registered % 2]
                            outputs[registered // 2 % processes].write(msgspec.json.encode(device) + b"\n")
                            registered += 1
            finally:
                for out in outputs:
                    out.close()
            return registered

        registered = await self._call(register)
        if registered != self._devices:
            raise CommandError(f"only {registered} of {self._devices} devices were registered")
        return files

    async def _start_fleet(self, files: list[Path]) -> None:
        """Start the devices and wait until each has logged in once."""
        behaviour = ["--back-off-cap", str(BACK_OFF_CAP_S), "--quiet"]
        if self._chaos:
            drop_bytes = max(CHAOS_DROP_BYTES_MIN, int(self._size * 0.7))
            behaviour += ["--drop-every", f"{drop_bytes}B,20s", "--burn-time", str(CHAOS_BURN_S)]
        for number, file in enumerate(files, start=1):
            arguments = ["simulate", "--devices", str(file), "--product", PRODUCT, "--version", OLD_VERSION]
            self._fleet.append(Child([*arguments, *behaviour], self._folder / f"devices-{number}.log"))
        target = api.path("products", PRODUCT, "devices")
        await self._until_none(
            lambda gateway: sum(1 for _ in gateway.items(target, {"active": False})), "devices to log in"
        )

    async def _upload(self) -> dict[str, Any]:
        path = self._folder / "firmware.bin"
        query = {"product": PRODUCT, "name": "demo-firmware", "version": NEW_VERSION, "file_name": path.name}

        def upload(gateway: api.Api) -> dict[str, Any]:
            with path.open("wb") as file:
                left = self._size
                while left:
                    left -= file.write(os.urandom(min(left, 1024**2)))
            with path.open("rb") as file:
                pieces = iter(lambda: file.read(256 * 1024), b"")
                headers = {"content-length": str(self._size), "content-type": "application/octet-stream"}
                return gateway.send(api.path("firmware"), pieces, query=query, headers=headers)

        return await self._call(upload)

    async def _upgrade(self, firmware: str) -> dict[str, Any]:
        """Create the batch and watch it to its end; with chaos, in the middle the gateway dies."""
        body = {
            "firmware": firmware,
            "range": "all",
            "validity_days": 1,
            "policy": "standard",
            "timeout_minutes": 60,
            "retries": 3,
            "retry_interval_minutes": 1,
        }
        batch = await self._call(lambda gateway: gateway.call("POST", api.path("batches"), body=body))
        say(f"batch {batch['id']} of {batch['counts']['total']} devices created")
        started = moved = trio.current_time()
        to_kill = self._chaos
        with BatchProgress() as progress:
            while batch["status"] == "in_progress":
                await trio.sleep(POLL_S)
                last, batch = batch, await self._look(batch)
                progress.update(batch, note=f"{trio.current_time() - started:.1f} s")
                if batch["counts"] != last["counts"]:
                    moved = trio.current_time()
                if (
                    to_kill
                    and batch["counts"]["upgrading"] + batch["counts"]["succeeded"] >= self._devices / 4
                ):
                    to_kill = False
                    await self._kill_gateway(progress)
                if trio.current_time() > moved + STALL_TIMEOUT_S:
                    raise CommandError(f"nothing moves any more: {summary(batch['counts'])}")
                self._check_children()
            progress.update(batch, last=True)
        if to_kill:
            raise CommandError("the batch was over before the gateway could be killed; take more devices")
        return batch

    async def _kill_gateway(self, progress: BatchProgress) -> None:
        assert self._gateway is not None
        await trio.sleep(random.random())
        self._gateway_cpu_s += self._gateway.cpu_s
        self._gateway.kill()
        await self._gateway.wait()
        await self._gateway.stop()
        progress.announce("the gateway was killed (-9) and is started again on the same store")
        with self._timed("gateway ready again"):
            await self._start_gateway()

    async def _report(self, batch: dict[str, Any], cpu_s: float) -> bool:
        """The batch as its page shows it, times and rates; whether all is as it should be."""
        counts = batch["counts"]
        rows = await self._call(
            lambda gateway: list(
                gateway.items(api.path("batches", batch["id"], "devices"), limit=SAMPLE_ROWS)
            )
        )
        devices = api.path("products", PRODUCT, "devices")
        new = await self._call(
            lambda gateway: sum(1 for _ in gateway.items(devices, {"version": NEW_VERSION}))
        )
        output.write_record(batch, as_json=False)
        print()
        output.write_items(rows, DEVICE_COLUMNS, as_json=False, total=False)
        if counts["total"] > len(rows):
            print(f"… and {counts['total'] - len(rows)} more")
        print()
        self._print_rates(cpu_s)
        print(f"{counts['succeeded']} of {self._devices} succeeded, {new} report version {NEW_VERSION}")
        all_ended_well: bool = counts["succeeded"] == counts["total"] == self._devices == new
        return all_ended_well and batch["status"] == "completed"

    def _print_rates(self, cpu_s: float) -> None:
        for step, seconds in self._seconds.items():
            print(f"{step:22} {seconds:8.2f} s")
        batch_s = self._seconds["batch"]
        print(f"devices                {self._devices / batch_s:8.0f} /s")
        print(f"firmware               {self._devices * self._size / 1e6 / batch_s:8.0f} MB/s")
        print(f"gateway's processor    {cpu_s:8.2f} s for the batch", end="")
        print(f" ({self._devices / cpu_s:.0f} devices per second of it)" if cpu_s > 0.1 else "")

    # -- small things -------------------------------------------------------------------------------------

    async def _call(self, action: Callable[[api.Api], Result]) -> Result:
        assert self._api is not None
        gateway = self._api
        return await _in_thread(lambda: action(gateway))

    async def _look(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch as it is now."""
        return await self._call(lambda gateway: gateway.get(api.path("batches", batch["id"])))

    async def _until_none(self, count: Callable[[api.Api], int], what: str) -> None:
        best, moved = self._devices + 1, trio.current_time()
        with BatchProgress() as progress:
            while left := await self._call(count):
                if left < best:
                    best, moved = left, trio.current_time()
                progress.say(f"{left} {what}")
                if trio.current_time() > moved + STALL_TIMEOUT_S:
                    raise CommandError(f"still {left} {what}")
                self._check_children()
                await trio.sleep(POLL_S)

    def _check_children(self) -> None:
        for child in (*self._fleet, self._gateway):
            if child is not None and child.exit_code is not None:
                raise CommandError(f"a process ended with {child.exit_code}:\n{child.tail()}")

    def _cpu_s(self) -> float:
        assert self._gateway is not None
        return self._gateway_cpu_s + self._gateway.cpu_s

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[step] = time.perf_counter() - started
        say(f"{step}: {self._seconds[step]:.2f} s")


async def _in_thread(action: Callable[[], Result]) -> Result:
    return await trio.to_thread.run_sync(action, abandon_on_cancel=True)


def say(line: str) -> None:
    """For people, at once."""
    print(line, file=sys.stderr, flush=True)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now. Chosen here, because a killed gateway returns to the same ones."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _allow_descriptors() -> None:
    """As many open files as we may have: the children inherit it, and each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
