"""A fleet in several processes, seen as one: commands go to all, counters and histograms are added up."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .histogram import Histogram
from .machine import PYTHON
from .processes import BenchError, Process

Counters = dict[str, Any]


@dataclass(frozen=True)
class Tally:
    """How often something happened, and when first and last (CLOCK_MONOTONIC)."""

    count: int
    first_ns: int
    last_ns: int

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return (self.last_ns - self.first_ns) / 1e9


class Fleet:
    """`count` devices from number `first` on, spread over processes on one core."""

    def __init__(
        self,
        count: int,
        folder: Path,
        *,
        core: int | None,
        links: Sequence[str] = ("websocket", "tcp"),
        processes: int = 2,
        first: int = 0,
        seed: int = 1,
        version: str = "1.0.0",
        product: str = "bench",
        on_look: Callable[[float, float], None] = lambda value, goal: None,
    ) -> None:
        self.count = count
        self._on_look = on_look
        processes = max(1, min(processes, count))
        shares = [count // processes + (number < count % processes) for number in range(processes)]
        self._workers: list[Process] = []
        self._counts = shares
        try:
            for number, share in enumerate(shares):
                worker = Process(
                    [PYTHON, "-P", "-c", WORKER],
                    folder / f"fleet-{number}.log",
                    core=core,
                    pipes=True,
                )
                self._workers.append(worker)
                start = first + sum(shares[:number])
                options = {"first": start, "count": share, "links": list(links)}
                self._ask(worker, do="make", seed=seed, version=version, product=product, **options)
        except BaseException:
            self.stop()
            raise

    # -- asking ---------------------------------------------------------------------------------

    def _send(self, worker: Process, **command: Any) -> None:
        try:
            worker.input.write(json.dumps(command).encode() + b"\n")
            worker.input.flush()
        except OSError as error:
            worker.check()
            raise BenchError(f"a process of the fleet is gone: {error}") from error

    def _receive(self, worker: Process) -> Any:
        line = worker.output.readline()
        if not line:
            worker.kill()
            worker.check()
        answer = json.loads(line)
        if "error" in answer:
            raise BenchError(f"the fleet refuses: {answer['error']}")
        return answer["ok"]

    def _ask(self, worker: Process, **command: Any) -> Any:
        self._send(worker, **command)
        return self._receive(worker)

    def _ask_all(self, **command: Any) -> list[Any]:
        for worker in self._workers:
            self._send(worker, **command)
        return [self._receive(worker) for worker in self._workers]

    # -- what a scenario says ---------------------------------------------------------------------

    def configure(self, port: int, *, rate: float = 0.0, opening_max: int = 512, **options: Any) -> None:
        """See `otagate.bench.fleet.Fleet.configure`; rate and opening_max are the whole fleet's."""
        share = len(self._workers)
        self._ask_all(
            do="configure",
            address="127.0.0.1",
            port=port,
            rate=rate / share,
            opening_max=max(opening_max // share, 1),
            **options,
        )

    def connect(self, count: int | None = None) -> None:
        """The first `count` devices (all) connect and log in."""
        left = self.count if count is None else count
        for worker, share in zip(self._workers, self._counts, strict=True):
            self._ask(worker, do="connect", count=max(0, min(share, left)))
            left -= share

    def disconnect(self) -> None:
        """Every connection ends."""
        self._ask_all(do="disconnect")

    def start(self) -> None:
        """The work begins."""
        self._ask_all(do="start")

    def stop_work(self) -> None:
        """Nothing new is sent."""
        self._ask_all(do="stop")

    def mark(self) -> int:
        """Upgrade messages are timed from now; the moment."""
        moments: list[int] = self._ask_all(do="mark")
        return min(moments)

    def reset(self) -> None:
        """Counters and histograms begin anew."""
        self._ask_all(do="reset")

    def counters(self) -> Counters:
        """Added up; tallies span from the first to the last of all processes."""
        parts = self._ask_all(do="counters")
        summed: Counters = {}
        for name, value in parts[0].items():
            values = [part[name] for part in parts]
            if isinstance(value, str):
                summed[name] = next((text for text in values if text), "")
            elif isinstance(value, dict) and "first_ns" in value:
                summed[name] = _tally(values)
            elif isinstance(value, dict):
                summed[name] = {key: sum(part[key] for part in values) for key in value}
            else:
                summed[name] = sum(values)
        return summed

    def tally(self, name: str) -> Tally:
        """One of the tallies of `counters`."""
        found: Tally = self.counters()[name]
        return found

    def histogram(self, name: str) -> Histogram:
        """`login`, `answer` or `upgrade`, of all processes."""
        return Histogram.merged(part[name] for part in self._ask_all(do="histograms"))

    def wait(
        self,
        reached: Callable[[Counters], float],
        goal: float,
        what: str,
        *,
        stall_s: float = 30.0,
        timeout_s: float = 600.0,
        pause_s: float = 0.02,
    ) -> Counters:
        """Look until reached(counters) >= goal. BenchError if it does not move for `stall_s`."""
        best, moved = -1.0, time.monotonic()
        end = moved + timeout_s
        while True:
            counters = self.counters()
            value = reached(counters)
            self._on_look(value, goal)
            if value >= goal:
                return counters
            now = time.monotonic()
            if value > best:
                best, moved = value, now
            if now > moved + stall_s or now > end:
                said = f"; last heard: {counters['last_error']}" if counters["last_error"] else ""
                raise BenchError(f"{what}: {value:.0f} of {goal:.0f}, and no more{said}")
            time.sleep(pause_s)

    def pids(self) -> list[int]:
        """Of its processes."""
        return [worker.pid for worker in self._workers]

    def stop(self) -> None:
        """End the processes, and with them all connections."""
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _tally(parts: list[dict[str, int]]) -> Tally:
    happened = [part for part in parts if part["count"]]
    return Tally(
        sum(part["count"] for part in happened),
        min((part["first_ns"] for part in happened), default=0),
        max((part["last_ns"] for part in happened), default=0),
    )


WORKER = f"import runpy; runpy.run_path({str(Path(__file__).parent / 'worker.py')!r}, run_name='__main__')"
