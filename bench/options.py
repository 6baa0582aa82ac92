"""Options that every measuring command has, and the `Bench` that they ask for."""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import gateway, machine
from .measure import Bench
from .progress import Progress, console


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Parted by commas."""
    return tuple(text.split(","))


def peer_names(text: str) -> tuple[str, ...]:
    """Parted by semicolons: names have commas."""
    return tuple(name.strip() for name in text.split(";"))


def _shares(text: str) -> dict[str, float]:
    """`drop=0.1,slow=0.05` as a dict."""
    return {
        name: float(share) for name, _, share in (part.partition("=") for part in text.split(",") if part)
    }


def _core(text: str) -> int | None:
    return None if text == "none" else int(text)


def converter(default: Any) -> Any:
    """What reads an option whose default is this."""
    if isinstance(default, tuple):
        return words if default and isinstance(default[0], str) else _whole_numbers
    return {int: int, float: float, str: str}.get(type(default), _shares)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command that measures."""
    cores = sorted(os.sched_getaffinity(0))
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=int, default=1, help="of faults and jitter (1)")
    group.add_argument("--processes", type=int, default=2, help="of the fleet (2)")
    group.add_argument("--repeat", type=int, default=1, help="times; medians are told (1)")
    default_core = cores[0] if len(cores) > 1 else None
    group.add_argument("--server-core", type=_core, default=default_core, metavar="N|none")
    group.add_argument(
        "--fleet-core", type=_core, default=cores[1] if len(cores) > 1 else None, metavar="N|none"
    )
    group.add_argument("--profile", action="store_true", help="where the gateway's time goes (needs perf)")
    group.add_argument("--data", type=Path, help="folder for stores and logs (made and removed; build/bench)")
    group.add_argument("--keep", action="store_true", help="do not remove them")
    shown = parser.add_argument_group("results")
    shown.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    shown.add_argument("--report", type=Path, metavar="FILE", help="as Markdown")
    shown.add_argument("--plots", type=Path, metavar="DIR", help="as pictures (needs matplotlib)")


@contextmanager
def bench_of(arguments: argparse.Namespace) -> Iterator[Bench]:
    """What the options ask for; its folder is gone afterwards."""
    machine.allow_descriptors()
    base = arguments.data or Path("build/bench")
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=base))
    url = getattr(arguments, "url", None)
    attached = None
    if url:
        token = arguments.token or os.environ.get("OTAGATE_TOKEN", "")
        attached = gateway.attach(url, arguments.admin_url or gateway.DEFAULT_ADMIN_URL, token)
    with Progress() as progress:
        bench = Bench(
            folder,
            server_core=arguments.server_core,
            fleet_core=arguments.fleet_core,
            processes=arguments.processes,
            seed=arguments.seed,
            progress=progress,
            attached=attached,
            attached_pid=getattr(arguments, "pid", None),
            profile=arguments.profile,
        )
        bench.pin_self()
        try:
            yield bench
        finally:
            if attached is not None:
                attached.stop()
            if arguments.keep:
                console.print(f"kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)
