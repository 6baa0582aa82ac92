"""The command line: scenarios as subcommands, whose options are the parameters of their functions."""

import argparse
import inspect
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from . import machine, page, peers, short, table
from .measure import grouped
from .options import add_common, bench_of, converter
from .processes import BenchError
from .report import Report
from .scenarios import SCENARIOS, TABLES

console = Console(stderr=True)


def add_attach(parser: argparse.ArgumentParser) -> None:
    """Options to measure a gateway that runs already."""
    group = parser.add_argument_group("a gateway that runs already, on this machine")
    group.add_argument("--url", help="of its device listener: tcp://HOST:PORT or ws://HOST:PORT/device")
    group.add_argument("--admin-url", help="of its admin listener")
    group.add_argument("--token", help="admin token (OTAGATE_TOKEN)")
    group.add_argument("--pid", type=int, help="of its process: for memory and processor time")


def parser() -> argparse.ArgumentParser:
    """Of the whole command."""
    top = argparse.ArgumentParser(
        prog="otagate-bench", description="Measures a gateway with simulated fleets."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, scenario in SCENARIOS.items():
        about = (inspect.getdoc(scenario) or "").partition(".")[0].replace("\n", " ").replace("%", "%%")
        command = commands.add_parser(name, help=about, description=about)
        for parameter in list(inspect.signature(scenario).parameters.values())[1:]:
            command.add_argument(
                f"--{parameter.name.replace('_', '-')}",
                type=converter(parameter.default),
                default=parameter.default,
                help=f"({parameter.default})".replace("%", "%%"),
            )
        add_attach(command)
        add_common(command)
        if name in TABLES:
            command.add_argument(
                "--into", type=Path, metavar="PAGE", help="a page with a place for the table"
            )
        command.set_defaults(run=run_scenario, into=None)
    table.register(commands)
    short.register(commands)
    peers.register(commands)
    return top


def run_scenario(arguments: argparse.Namespace) -> int:
    """One scenario, as often as asked."""
    scenario = SCENARIOS[arguments.command]
    names = list(inspect.signature(scenario).parameters)[1:]
    options = {name: getattr(arguments, name) for name in names}
    started = time.time()
    with bench_of(arguments) as bench:
        facts = {**machine.facts(bench.folder), **Report.circumstances_of(bench)}
        repeats = [scenario(bench, **options) for _ in range(arguments.repeat)]
    facts["measured"] = time.strftime("%Y-%m-%d", time.gmtime(started)) + f", {time.time() - started:.0f} s"
    report = Report(facts, grouped(result for results in repeats for result in results))
    publish(report, arguments)
    return 0


def publish(report: Report, arguments: argparse.Namespace) -> None:
    """To the terminal, and to the files that were asked for."""
    report.show(Console())
    if arguments.json:
        arguments.json.write_text(machine.as_json(report.as_dict()))
    if arguments.report:
        arguments.report.write_text(report.markdown())
    if arguments.into:
        lines = TABLES[arguments.command](report)
        page.fill(arguments.into, arguments.command, lines, f"tools/bench {arguments.command}")
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
