"""Parts of the table: measured one by one, saved as they are done, and taken up again from what was saved.

So a table may be measured in pieces, on one machine, and a run that was cut short loses one part at most. The
file is the JSON of `table --json`.
"""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine
from .measure import Bench, Result, grouped
from .peers import PEERS
from .processes import BenchError
from .progress import console
from .rows import ONCE, PARTS, Row, Scale


@dataclass
class Part:
    """One part, measured. `results`: all of them, also those that no row shows."""

    name: str
    rows: list[Row]
    results: list[Result]
    facts: dict[str, str]
    took_s: float = 0.0
    day: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: rows by name, their results by place."""
        places = {id(result): place for place, result in enumerate(self.results)}
        return {
            "day": self.day,
            "took_s": self.took_s,
            "machine": self.facts,
            "results": [result.as_dict() for result in self.results],
            "rows": {
                row.name: {
                    "results": {subject: places[id(result)] for subject, result in row.results.items()},
                    "failures": row.failures,
                }
                for row in self.rows
            },
        }

    @classmethod
    def from_dict(cls, name: str, saved: dict[str, Any], scale: Scale) -> "Part":
        """What `as_dict` made. Rows that were not measured then are empty."""
        results = [Result.from_dict(result) for result in saved["results"]]
        part = cls(name, PARTS[name](scale), results, saved["machine"], saved["took_s"], saved["day"])
        for row in part.rows:
            known = saved["rows"].get(row.name, {"results": {}, "failures": {}})
            row.results = {subject: results[place] for subject, place in known["results"].items()}
            row.failures = dict(known["failures"])
        return part


# -- saved -------------------------------------------------------------------------------------------------


def load(path: Path, small: bool, scale: Scale) -> dict[str, Part]:
    """The parts that a file holds. BenchError if it is none of ours, or of the other size."""
    try:
        saved = json.loads(path.read_text())
        if saved["small"] != small:
            raise BenchError(f"{path} was measured {'with' if saved['small'] else 'without'} --small")
        return {
            name: Part.from_dict(name, part, scale) for name, part in saved["parts"].items() if name in PARTS
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BenchError(f"{path} holds no parts of a table: {error}") from error


def in_order(parts: Iterable[Part]) -> list[Part]:
    """As PARTS has them."""
    return sorted(parts, key=lambda part: list(PARTS).index(part.name))


# -- measured ----------------------------------------------------------------------------------------------


def steps_of(rows: Sequence[Row], peers: Sequence[str], repeats: int) -> int:
    """How many measurements these rows take."""
    gateways = len({id(row.gateway) for row in rows})
    return repeats * (gateways + sum(name in peers for row in rows for name in row.peers))


def repeats_of(name: str, repeats: int) -> int:
    """How often a part is measured."""
    return 1 if name in ONCE else repeats


def measure_part(
    bench: Bench, name: str, scale: Scale, peers: Sequence[str], repeats: int, facts: dict[str, str]
) -> Part:
    """One part of the table."""
    started = time.time()
    rows = PARTS[name](scale)
    results = measure(bench, rows, peers, repeats_of(name, repeats))
    day = time.strftime("%Y-%m-%d", time.gmtime(started))
    return Part(name, rows, results, facts, time.time() - started, day)


def measure(bench: Bench, rows: Sequence[Row], peers: Sequence[str], repeats: int) -> list[Result]:
    """Fills the rows of one part; returns all results, repeats merged. Rows with the same `gateway` share its
    runs. Repeats alternate: gateway, every peer, gateway, every peer …, so that a machine that gets slower
    meanwhile gets slower for all."""
    ours: dict[int, list[Result]] = {id(row.gateway): [] for row in rows}
    theirs: dict[tuple[int, str], list[Result]] = {}
    for repeat in range(repeats):
        for row in {id(row.gateway): row for row in rows}.values():
            bench.say(f"{row.name}: gateway, {repeat + 1} of {repeats}")
            attempt(row, "gateway", lambda row=row: ours[id(row.gateway)].extend(row.gateway(bench)))  # type: ignore[misc]
            bench.progress.step()
        for row in rows:
            for name in row.peers:
                if name in peers:
                    if name not in row.failures:
                        _measure_peer(bench, row, name, theirs.setdefault((id(row), name), []))
                    bench.progress.step()
    merged = {id(row.gateway): grouped(ours[id(row.gateway)]) for row in rows}
    results = [result for found in merged.values() for result in found]
    for row in rows:
        picked = [result for result in merged[id(row.gateway)] if row.pick(result)]
        if picked:
            row.results["gateway"] = picked[0]
        for name in row.peers:
            if found := theirs.get((id(row), name)):
                row.results[name] = grouped(found)[0]
                results.append(row.results[name])
    return results


def _measure_peer(bench: Bench, row: Row, name: str, found: list[Result]) -> None:
    peer = PEERS[name]
    if lacks := peer.missing():
        row.failures[name] = f"missing: {lacks}"
        return
    assert row.peer is not None
    bench.say(f"{row.name}: {name}")
    work = row.peer
    attempt(row, name, lambda: found.append(work(bench, peer)))


def attempt(row: Row, subject: str, action: Callable[[], Any]) -> None:
    """What fails is told in the table, and does not end the run."""
    try:
        action()
    except BenchError as error:
        row.failures[subject] = str(error)
        console.print(f"{row.name}: {subject}: {error}", style="yellow", markup=False)


def facts_of(parts: Sequence[Part]) -> dict[str, str]:
    """The machine of all of them; BenchError if they were measured on different ones."""
    differing = ("processor", "kernel", "memory")
    first = parts[0].facts
    for part in parts:
        for name in differing:
            if part.facts.get(name) != first.get(name):
                raise BenchError(
                    f"{part.name} was measured on another machine: {name} {part.facts.get(name)}"
                )
    days = sorted({part.day for part in parts})
    minutes = sum(part.took_s for part in parts) / 60
    return {**first, "measured": f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {minutes:.0f} minutes"}


def write(path: Path, parts: Sequence[Part], small: bool, told: list[dict[str, Any]]) -> None:
    """Everything that was measured so far; the file is whole at any moment."""
    saved = {"small": small, "parts": {part.name: part.as_dict() for part in parts}, "rows": told}
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(machine.as_json(saved))
    unfinished.replace(path)
