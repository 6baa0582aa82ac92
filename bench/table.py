"""`otagate-bench table`: every figure that the project has set itself, beside its peers.

Medians are told, with the spread; what counts are the ratios. `parts` measures, `page` writes documents.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import machine, options, page, parts
from .page import peers_markdown, rows_as_dicts, shown_rows, table_markdown, told, verdict
from .parts import Part
from .peers import PEERS
from .processes import BenchError
from .progress import console
from .report import Report
from .rows import FULL, PARTS, SMALL


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `table`."""
    words = "every figure of the README beside its peers"
    parser = commands.add_parser("table", help=words, description=words)
    parser.add_argument("--only", type=part_names, help=f"parts, by `,` ({','.join(PARTS)}), or none")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="parts that FILE (of --json) holds are taken from it, unless --only names them",
    )
    parser.add_argument("--peers", type=options.peer_names, default=tuple(PEERS), help="names, by `;` (all)")
    parser.add_argument("--small", action="store_true", help="a tenth of everything: to try it")
    parser.add_argument("--table", type=Path, metavar="FILE", help="the table as Markdown")
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="a page with places for tables and pictures, and its README"
    )
    options.add_common(parser)
    parser.set_defaults(run=run, repeat=None)


def part_names(text: str) -> tuple[str, ...]:
    """Parts, parted by commas; of "none" none."""
    names = () if text == "none" else options.words(text)
    if unknown := set(names) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(unknown)}")
    return names


def run(arguments: argparse.Namespace) -> int:
    """The table. 0: every target that was measured is met; 1: not."""
    scale = SMALL if arguments.small else FULL
    known: dict[str, Part] = {}
    if arguments.resume and (arguments.only is None or arguments.resume.exists()):
        known = parts.load(arguments.resume, arguments.small, scale)
    wanted = [name for name in PARTS if name not in known] if arguments.only is None else arguments.only
    if arguments.into or arguments.plots:
        from . import plots

        plots.pyplot()  # better told now than after half an hour
    with options.bench_of(arguments) as bench:
        facts = {**machine.facts(bench.folder), **Report.circumstances_of(bench)}
        repeats = arguments.repeat or scale.repeats
        counts = [
            parts.steps_of(PARTS[name](scale), arguments.peers, parts.repeats_of(name, repeats))
            for name in wanted
        ]
        bench.progress.whole(sum(counts))
        for name in wanted:
            known[name] = parts.measure_part(bench, name, scale, arguments.peers, repeats, facts)
            say_part(known[name])
            if arguments.json:
                done = parts.in_order(known.values())
                parts.write(arguments.json, done, arguments.small, rows_as_dicts(shown_rows(done)))
    if not known:
        raise BenchError("nothing was measured")
    publish(parts.in_order(known.values()), arguments)
    rows = [row for part in known.values() for row in part.rows]
    return 0 if all(verdict(row) in ("met", "-") for row in rows) else 1


def say_part(part: Part) -> None:
    """A line for each row."""
    for row in part.rows:
        target = "" if row.target == "-" else f" (target {row.target}): {verdict(row)}"
        console.print(f"{row.name}: {told(row)}{target}", markup=False)
    console.print(f"{part.name}: {part.took_s / 60:.1f} minutes", markup=False, style="dim")


def publish(measured: Sequence[Part], arguments: argparse.Namespace) -> None:
    """To the terminal, and to the files that were asked for."""
    report = Report(parts.facts_of(measured), [result for part in measured for result in part.results])
    rows = shown_rows(measured)
    text = "\n".join([*table_markdown(rows), "", *peers_markdown(rows)]).strip() + "\n"
    print(text, end="")
    if arguments.table:
        arguments.table.write_text(text)
    if arguments.into:
        page.write(arguments.into, measured, report)
    if arguments.json:
        parts.write(arguments.json, measured, arguments.small, rows_as_dicts(rows))
    if arguments.report:
        arguments.report.write_text(text + "\n" + report.markdown())
    if arguments.plots:
        from . import plots

        plots.draw_table(rows, report, arguments.plots)
