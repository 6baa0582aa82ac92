"""How late the gateway's loop is while something happens: the probe in a process of its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .histogram import Histogram
from .machine import PYTHON
from .measure import World
from .processes import BenchError, Process

PROBE = Path(__file__).parent / "probe.py"
INTERVAL_MS = 3


class Lateness:
    """The probe's pings while a block runs: `histogram` afterwards."""

    def __init__(self) -> None:
        self.histogram = Histogram()


@contextmanager
def lateness(world: World) -> Iterator[Lateness]:
    """Measures how late the gateway's loop is while the block runs."""
    measured = Lateness()
    process = Process(
        [
            *(PYTHON, "-P", str(PROBE), str(world.gateway.device_port), world.side_product(1)),
            *("0", str(INTERVAL_MS)),
        ],
        world.folder / "probe.log",
        core=world.bench.fleet_core,
        pipes=True,
    )
    with process:
        if process.output.readline() != b"ready\n":
            process.kill()
            raise BenchError(f"the probe did not start:\n{process.tail()}")
        yield measured
        process.input.close()
        line = process.output.readline()
        if line:
            measured.histogram = Histogram.of(json.loads(line)["late_ns"])
