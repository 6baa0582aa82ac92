"""`otagate-bench short`: a small run of most scenarios, and ratios that hold on any machine, however busy.

All are ratios of processor time or memory, to a peer that needs nothing but the gateway's own Python, or to
the gateway itself at other work. So what others on the machine take of the cores hardly moves them. The
floors are less than half of what was measured: what falls through one is no noise.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from . import options, scenarios
from .measure import Bench, Result
from .peers import PEERS, work
from .progress import console

PEER = "websockets.trio"
SECONDS = 0.8
REPORTERS = 200
RECEIVERS = 50
CHUNK_BYTES = 65_536


@dataclass(frozen=True)
class Check:
    """How often the gateway is better, and how often it must be."""

    what: str
    ratio: float
    floor: float

    @property
    def holds(self) -> bool:
        """Also False for what is not a number."""
        return self.ratio >= self.floor


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `short`."""
    words = "ratios with wide margins, in under two minutes"
    parser = commands.add_parser("short", help=words, description=words)
    options.add_common(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """1 if a ratio is under its floor; a scenario that fails ends it."""
    failed = 0
    with options.bench_of(arguments) as bench:
        for check in checks(bench):
            failed += not check.holds
            style = "green" if check.holds else "red"
            words = f"{check.what}: {check.ratio:.1f} ×, floor {check.floor:g}"
            console.print(words, style=style, markup=False)
    return 1 if failed else 0


def checks(bench: Bench) -> Iterator[Check]:
    """Each as soon as it is measured."""
    peer = PEERS[PEER]
    beside = f" beside {PEER}"
    [idle] = scenarios.idle(bench, low=300, high=3_300, links=("websocket",))
    theirs = work.idle(bench, peer, low=200, high=700)
    yield Check("memory of an idle device" + beside, 1 / _ratio(idle, theirs, "bytes_per_device"), 8)

    _, returning = scenarios.login(bench, devices=1_500)
    theirs = work.login(bench, peer, devices=500)
    yield Check("logins" + beside, _ratio(returning, theirs, "logins_per_cpu_s"), 2)

    reports = scenarios.report(bench, devices=REPORTERS, seconds=SECONDS, links=("websocket",))
    for ours, floor in zip(reports, (2, 5), strict=True):
        depth = ours.parameters["in_flight"]
        theirs = work.report(bench, peer, devices=REPORTERS, depth=depth, seconds=SECONDS)
        what = f"reports, {depth} in flight" + beside
        yield Check(what, _ratio(ours, theirs, "reports_per_cpu_s"), floor)

    [ours] = scenarios.stream(bench, receivers=(RECEIVERS,), chunks=(CHUNK_BYTES,), seconds=SECONDS)
    theirs = work.stream(bench, peer, receivers=RECEIVERS, chunk=CHUNK_BYTES, seconds=SECONDS)
    yield Check("bytes streamed" + beside, _ratio(ours, theirs, "rate_per_cpu_s"), 1.3)

    full, _ = scenarios.durable(bench, devices=500, rounds=1)
    transition = full.figures["transitions_per_cpu_s"].value / reports[0].figures["reports_per_cpu_s"].value
    yield Check("durable transitions beside reports", transition, 0.1)

    faults = {"drop": 0.1, "corrupt": 0.1, "fail": 0.05, "storm": 0.1}
    [campaign] = scenarios.campaign(bench, devices=200, size=300_000, faults=faults)
    upgrade = campaign.figures["devices_per_cpu_s"].value / returning.figures["logins_per_cpu_s"].value
    yield Check("whole upgrades, with faults, beside logins", upgrade, 0.02)


def _ratio(ours: Result, theirs: Result, figure: str) -> float:
    """Of a memory that did not grow at all the smallest that is told is a byte."""
    mine, other = (max(result.figures[figure].value, 1.0) for result in (ours, theirs))
    return mine / other
