"""Many simulated devices in one process: one Trio loop, a few tasks a device, no threads, no bytes kept."""

import csv
import random
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from otagate.cli.exits import CommandError, Exit

if TYPE_CHECKING:
    from otagate.sdk.effects import Note
    from otagate.sdk.simulation import Drops
    from otagate.sdk.trust import Trust

OPENINGS_PER_SECOND = 1000  # connections that one process opens: more would only queue in the kernel

Observe = Callable[[str, "Note"], None]


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated device. In files, what a line leaves out comes from the command line."""

    identifier: str
    secret: str | None  # None: its certificate alone
    product: str
    version: str
    url: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How the devices of a fleet behave. `failure`: sdk.devices.FAILURES, or push_failed (deaf)."""

    failure: str | None = None
    choose_s: float = 0.0
    burn_s: float = 0.0
    reboot_s: float = 0.0
    drops: "Drops | None" = None
    mutual: bool = False
    back_off_cap_s: float = 60.0
    context: ssl.SSLContext | None = None
    seed: str | None = None
    stop_when_refused: bool = False
    trust: "Trust | None" = None


async def run_fleet(fleet: Iterable[Identity], behaviour: Behaviour, observe: Observe | None = None) -> None:
    """Run all devices until cancelled. `observe(identifier, note)` is told every fact.

    Refused (in a group): only with stop_when_refused.
    """
    async with trio.open_nursery() as nursery:
        for index, identity in enumerate(fleet):
            opens_s = index / OPENINGS_PER_SECOND
            nursery.start_soon(_run_device, identity, behaviour, observe, opens_s)


async def _run_device(
    identity: Identity, behaviour: Behaviour, observe: Observe | None, opens_s: float
) -> None:
    from otagate.sdk.agent import Agent
    from otagate.sdk.client import Client, Reconnect
    from otagate.sdk.devices import SimulatedDevice
    from otagate.sdk.links import dial_tcp

    seed = None if behaviour.seed is None else f"{behaviour.seed} {identity.identifier}"
    source = random.Random(seed)
    deaf = behaviour.failure == "push_failed"
    cap_s = behaviour.back_off_cap_s
    client = Client(
        identity.url,
        Agent(
            identity.product,
            identity.identifier,
            identity.secret,
            identity.version,
            trust=behaviour.trust,
            deaf=deaf,
        ),
        SimulatedDevice(
            identity.version,
            choose_s=behaviour.choose_s,
            burn_s=behaviour.burn_s,
            reboot_s=behaviour.reboot_s,
            failure=None if deaf else behaviour.failure,
        ),
        reconnect=Reconnect(
            base_s=min(1.0, cap_s), cap_s=cap_s, superseded_s=(min(30.0, cap_s), min(60.0, cap_s))
        ),
        source=source,
        mutual=behaviour.mutual,
        observe=None if observe is None else lambda note: observe(identity.identifier, note),
        dial=dial_tcp if behaviour.drops is None else behaviour.drops.dial(source),
        context=behaviour.context,
        stop_when_refused=behaviour.stop_when_refused,
    )
    if opens_s:
        await trio.sleep(opens_s)
    await client.run()


def read_fleet(path: Path, defaults: dict[str, str | None]) -> Iterator[Identity]:
    """The devices of a file: NDJSON, or CSV if its name ends so; `-` is NDJSON on stdin.

    Columns: identifier, secret; product, version and url if `defaults` lacks them. Other columns are
    ignored, so the answer to a bulk registration will do; devices that it refused are left out.
    CommandError names the line at fault.
    """
    try:
        with sys.stdin if str(path) == "-" else path.open(encoding="utf-8", newline="") as lines:
            records: Iterable[Any] = csv.DictReader(lines) if path.suffix == ".csv" else _ndjson(path, lines)
            for number, record in enumerate(records, start=1):
                if record.get("error"):
                    continue  # a device that was not registered has no secret
                given = {name: value for name, value in record.items() if value}
                try:
                    yield msgspec.convert({**defaults, **given}, Identity)
                except msgspec.ValidationError as error:
                    raise CommandError(f"{path}, device {number}: {error}", Exit.USAGE) from error
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not UTF-8", Exit.USAGE) from error


def _ndjson(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.DecodeError as error:
                raise CommandError(f"{path}, line {number}: {error}", Exit.USAGE) from error
