"""What a run is given (`Bench`), what it says (`Result`), and the clocks between (`Meter`)."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from . import gateway, machine
from .fleet import Fleet
from .gateway import Api, Gateway
from .histogram import Histogram
from .profile import Profiler, available
from .progress import Progress

BUSY = 0.9  # of a core: who is that busy is the limit


@dataclass
class Figure:
    """A measured number. `samples`: of its repeats; `value` is their median."""

    value: float
    unit: str
    samples: list[float] = field(default_factory=list)

    @property
    def spread(self) -> tuple[float, float]:
        """Smallest and largest of the repeats."""
        samples = self.samples or [self.value]
        return min(samples), max(samples)


@dataclass
class Result:
    """One subject in one scenario, with the circumstances."""

    scenario: str
    subject: str
    parameters: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    latencies_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    latency_samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # of repeats
    wall_s: float = 0.0
    server_cpu_s: float = 0.0
    fleet_cpu_s: float = 0.0
    others_cpu_s: float = 0.0  # of anybody else on the cores of server and fleet
    server_wait_s: float = 0.0  # that the server was ready to run, and others had its core
    limit: str = ""
    profile: dict[str, float] = field(default_factory=dict)  # shares of the server's time, by layer
    remarks: list[str] = field(default_factory=list)

    def figure(self, name: str, value: float, unit: str) -> None:
        """Note a number."""
        self.figures[name] = Figure(value, unit)

    def latency(self, name: str, histogram: Histogram) -> None:
        """Note the percentiles of durations."""
        if histogram.count:
            self.latencies_ms[name] = histogram.summary_ms()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Result":
        """What `as_dict` made, also after JSON. Raises TypeError if it is of another version."""
        figures = {name: Figure(**figure) for name, figure in saved["figures"].items()}
        return cls(**{**saved, "figures": figures})


def merge(results: Sequence[Result]) -> Result:
    """Repeats of the same as one: medians, with all samples."""
    first = results[0]
    merged = Result(first.scenario, first.subject, first.parameters)
    for name, figure in first.figures.items():
        samples = [result.figures[name].value for result in results if name in result.figures]
        merged.figures[name] = Figure(median(samples), figure.unit, samples)
    for name, points in first.latencies_ms.items():
        known = [result.latencies_ms[name] for result in results if name in result.latencies_ms]
        merged.latencies_ms[name] = {point: median(each[point] for each in known) for point in points}
        merged.latency_samples[name] = {point: [each[point] for each in known] for point in points}
    for name in first.profile:
        merged.profile[name] = median(result.profile.get(name, 0.0) for result in results)
    for name in ("wall_s", "server_cpu_s", "fleet_cpu_s", "others_cpu_s", "server_wait_s"):
        setattr(merged, name, median(getattr(result, name) for result in results))
    merged.limit = max({result.limit for result in results}, key=[r.limit for r in results].count)
    merged.remarks = list(dict.fromkeys(remark for result in results for remark in result.remarks))
    return merged


def grouped(results: Iterable[Result]) -> list[Result]:
    """Repeats merged: results of the same scenario, subject and parameters."""
    same: dict[str, list[Result]] = {}
    for result in results:
        key = f"{result.scenario} {result.subject} {sorted(result.parameters.items())}"
        same.setdefault(key, []).append(result)
    return [merge(repeats) for repeats in same.values()]


class Meter:
    """Processor time of server and fleet between two moments; where the server's went, if that is asked."""

    def __init__(self, bench: "Bench", server: Sequence[int], fleet: Sequence[int]) -> None:
        self._bench = bench
        self._server = server
        self._fleet = fleet
        self._profiler = Profiler(bench.subfolder(), server) if bench.profile and server else None
        self._at = self._look()

    def _look(self) -> tuple[float, ...]:
        cores = {core for core in (self._bench.server_core, self._bench.fleet_core) if core is not None}
        return (
            time.monotonic(),
            machine.cpu_s(self._server),
            machine.cpu_s(self._fleet),
            sum(machine.busy_s(core) for core in cores),
            machine.waited_s(self._server),
        )

    def read(self, result: Result) -> None:
        """Note what passed since the start."""
        wall, server, fleet, busy, waited = (b - a for a, b in zip(self._at, self._look(), strict=True))
        result.wall_s, result.server_cpu_s, result.fleet_cpu_s = wall, server, fleet
        result.server_wait_s = waited
        result.others_cpu_s = max(busy - server - fleet, 0.0)
        fleet_cores = len(self._fleet) if self._bench.fleet_core is None else 1
        result.limit = limit_of(wall, server, fleet, fleet_cores, waited) if self._server else ""
        if result.others_cpu_s > 0.1 * wall:
            result.remarks.append(
                f"others used {result.others_cpu_s / wall:.0%} of a core on the two cores meanwhile"
            )
        if self._profiler is not None:
            result.profile = self._profiler.stop()


def limit_of(
    wall_s: float, server_cpu_s: float, fleet_cpu_s: float, fleet_cores: int = 1, server_wait_s: float = 0.0
) -> str:
    """Who kept it from going faster. `server_wait_s`: see `Result`; then others on its core did."""
    if server_cpu_s >= BUSY * wall_s:
        return "server"
    if fleet_cpu_s >= BUSY * wall_s * fleet_cores:
        return "fleet"
    if server_cpu_s + server_wait_s >= BUSY * wall_s:
        return "server, whose core others used"
    return "neither"


@dataclass
class Bench:
    """How this run is to be done."""

    folder: Path
    server_core: int | None = 0
    fleet_core: int | None = 1
    processes: int = 2
    seed: int = 1
    progress: Progress = field(default_factory=Progress)
    attached: Gateway | None = None
    attached_pid: int | None = None
    made: int = 0
    profile: bool = False

    def say(self, text: str) -> None:
        """What begins now."""
        self.progress.say(text)

    @contextmanager
    def profiling(self) -> Iterator[None]:
        """Where the server's time goes is measured too, within the block, if perf is here."""
        before, self.profile = self.profile, available()
        try:
            yield
        finally:
            self.profile = before

    def subfolder(self) -> Path:
        """A new folder of this run."""
        self.made += 1
        folder = self.folder / f"run-{self.made}"
        folder.mkdir(parents=True)
        return folder

    @contextmanager
    def world(self, devices: int, **settings: Any) -> Iterator["World"]:
        """A gateway with a product and its registered devices; ours, or the attached one."""
        folder = self.subfolder()
        own = self.attached is None
        gate = self.attached or gateway.start(folder, core=self.server_core, settings=settings)
        try:
            world = World(self, folder, gate, gateway.PRODUCT if own else f"bench-{time.time_ns():x}")
            gate.api.add_product(world.product)
            self.say(f"registering {devices} devices")
            world.registering_s = gate.api.register(devices, product=world.product)
            yield world
        finally:
            if own:
                world.gateway.stop() if "world" in locals() else gate.stop()

    def pin_self(self) -> None:
        """The run itself belongs on the fleet's core."""
        if self.fleet_core is not None:
            os.sched_setaffinity(0, {self.fleet_core})


@dataclass
class World:
    """A gateway and its registered devices 0 to N - 1."""

    bench: Bench
    folder: Path
    gateway: Gateway
    product: str
    registering_s: float = 0.0
    versions: int = 1
    sides: int = 0

    @property
    def api(self) -> Api:
        """Of the gateway."""
        return self.gateway.api

    def pids(self) -> list[int]:
        """Of the gateway, as far as known."""
        if self.bench.attached_pid is not None:
            return [self.bench.attached_pid, *machine.processes_below(self.bench.attached_pid)]
        return self.gateway.pids()

    def fleet(self, count: int, *, first: int = 0, **options: Any) -> Fleet:
        """Devices of this world."""
        options = {"processes": self.bench.processes, "product": self.product, **options}
        return Fleet(
            count,
            self.folder,
            core=self.bench.fleet_core,
            first=first,
            seed=self.bench.seed,
            on_look=self.bench.progress.show,
            **options,
        )

    def log_in(self, fleet: Fleet, count: int | None = None, **options: Any) -> None:
        """Configure, connect, and wait until they are online."""
        goal = fleet.count if count is None else count
        if options:
            fleet.configure(self.gateway.device_port, **options)
        fleet.connect(count)
        fleet.wait(lambda counters: counters["online"], goal, "logins")

    def firmware(self, size: int) -> str:
        """A new firmware of a new version."""
        self.versions += 1
        return self.api.add_firmware(size, f"{self.versions}.0.0", self.product)

    def side_product(self, devices: int) -> str:
        """Another product with so many devices, whom no batch of ours concerns."""
        self.sides += 1
        product = f"{self.product}-side-{self.sides}"
        self.api.add_product(product)
        self.api.register(devices, product=product)
        return product

    def meter(self, fleet: Fleet) -> Meter:
        """From now on."""
        return Meter(self.bench, self.pids(), fleet.pids())

    def restart(self) -> float:
        """The gateway ends in order and starts on the same store; returns seconds until it serves."""
        assert self.gateway.process is not None
        self.gateway.stop()
        started = time.monotonic()
        self.gateway = gateway.start(self.folder, core=self.bench.server_core, data=self.folder / "data")
        return time.monotonic() - started
