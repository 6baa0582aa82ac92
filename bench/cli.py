"""The command line: scenarios as subcommands, whose options are the parameters of their functions."""

import argparse
import inspect
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from . import gateway, machine
from .measure import Bench, Result, merge
from .processes import BenchError
from .report import Report
from .scenarios import SCENARIOS

console = Console(stderr=True)


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shares(text: str) -> dict[str, float]:
    """`drop=0.1,slow=0.05` as a dict."""
    return {name: float(share) for name, _, share in (part.partition("=") for part in text.split(",") if part)}


def _core(text: str) -> int | None:
    return None if text == "none" else int(text)


def _converter(default: Any) -> Any:
    if isinstance(default, tuple):
        return _words if default and isinstance(default[0], str) else _whole_numbers
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
    group.add_argument("--data", type=Path, help="folder for stores and logs (made and removed; build/bench)")
    group.add_argument("--keep", action="store_true", help="do not remove them")
    shown = parser.add_argument_group("results")
    shown.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    shown.add_argument("--report", type=Path, metavar="FILE", help="as Markdown")
    shown.add_argument("--plots", type=Path, metavar="DIR", help="as pictures (needs matplotlib)")


def add_attach(parser: argparse.ArgumentParser) -> None:
    """Options to measure a gateway that runs already."""
    group = parser.add_argument_group("a gateway that runs already, on this machine")
    group.add_argument("--url", help="of its device listener: tcp://HOST:PORT or ws://HOST:PORT/device")
    group.add_argument("--admin-url", help="of its admin listener")
    group.add_argument("--token", help="admin token (OTAGATE_TOKEN)")
    group.add_argument("--pid", type=int, help="of its process: for memory and processor time")


def parser() -> argparse.ArgumentParser:
    """Of the whole command."""
    from . import peers, table

    top = argparse.ArgumentParser(prog="otagate-bench", description="Measures a gateway with simulated fleets.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, scenario in SCENARIOS.items():
        words = (inspect.getdoc(scenario) or "").partition(".")[0].replace("\n", " ").replace("%", "%%")
        command = commands.add_parser(name, help=words, description=words)
        for parameter in list(inspect.signature(scenario).parameters.values())[1:]:
            command.add_argument(
                f"--{parameter.name.replace('_', '-')}",
                type=_converter(parameter.default),
                default=parameter.default,
                help=f"({parameter.default})".replace("%", "%%"),
            )
        add_attach(command)
        add_common(command)
        command.set_defaults(run=run_scenario)
    table.register(commands)
    peers.register(commands)
    return top


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
    with console.status("starting") as status:
        bench = Bench(
            folder,
            server_core=arguments.server_core,
            fleet_core=arguments.fleet_core,
            processes=arguments.processes,
            seed=arguments.seed,
            say=lambda text: status.update(text),
            attached=attached,
            attached_pid=getattr(arguments, "pid", None),
        )
        bench.pin_self()
        try:
            yield bench
        finally:
            if arguments.keep:
                console.print(f"kept: {folder}")
            else:
                shutil.rmtree(folder, ignore_errors=True)


def grouped(repeats: Sequence[Sequence[Result]]) -> list[Result]:
    """Repeats merged: results of the same scenario, subject and parameters."""
    same: dict[str, list[Result]] = {}
    for results in repeats:
        for result in results:
            key = f"{result.scenario} {result.subject} {sorted(result.parameters.items())}"
            same.setdefault(key, []).append(result)
    return [merge(results) for results in same.values()]


def run_scenario(arguments: argparse.Namespace) -> int:
    """One scenario, as often as asked."""
    scenario = SCENARIOS[arguments.command]
    names = list(inspect.signature(scenario).parameters)[1:]
    options = {name: getattr(arguments, name) for name in names}
    started = time.time()
    with bench_of(arguments) as bench:
        facts = machine.facts(bench.folder)
        repeats = [scenario(bench, **options) for _ in range(arguments.repeat)]
    report = Report(facts, bench, grouped(repeats), time.time() - started)
    publish(report, arguments)
    return 0


def publish(report: Report, arguments: argparse.Namespace) -> None:
    """To the terminal, and to the files that were asked for."""
    report.show(Console())
    if arguments.json:
        arguments.json.write_text(machine.as_json(report.as_dict()))
    if arguments.report:
        arguments.report.write_text(report.markdown())
    if arguments.plots:
        from . import plots

        for path in plots.draw(report, arguments.plots):
            console.print(f"drawn: {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 measured (and, for `short`, as good as asked), 1 not, 2 wrong options."""
    parsed = parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except BenchError as error:
        console.print(f"otagate-bench: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
