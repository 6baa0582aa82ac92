"""What the table says, written into the documents: a page with tables and pictures, and the README's summary.

A document has places, `<!-- NAME: written by COMMAND -->` to `<!-- end of NAME -->`. What stands
between is replaced; everything else is left as it is. Pictures go to `images/` beside the page.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import plots
from .parts import Part
from .processes import BenchError
from .profile import ORDER
from .report import Report, markdown_table, number, times, with_spread
from .rows import APART, Row

PICTURES = "images"


def place(name: str, command: str = "tools/bench table") -> tuple[str, str]:
    """The two comments between which it stands."""
    return f"<!-- {name}: written by {command} -->", f"<!-- end of {name} -->"


def replaced(page: str, name: str, text: str, command: str = "tools/bench table") -> str:
    """The page with the text in its place. BenchError if it has no place of this name."""
    first, last = place(name, command)
    before, start, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise BenchError(f"the page has no {first}")
    return f"{before}{first}\n\n{text.strip()}\n\n{last}{after}"


def fill(path: Path, name: str, lines: Sequence[str], command: str) -> None:
    """The one place of a page that a command writes by itself."""
    path.write_text(replaced(path.read_text(), name, "\n".join(lines), command))


def write(path: Path, measured: Sequence[Part], report: Report) -> None:
    """Fill the page's places, the README's (beside the page, or above its folder), and draw the pictures."""
    rows = shown_rows(measured)
    apart = {part.name: part for part in measured if part.name in APART}
    text = path.read_text()
    pictures = path.parent / PICTURES
    pictures.mkdir(exist_ok=True)
    filled = {"table": [*report.machine_markdown(), "", *table_markdown(rows)]}
    if beside := plots.draw_peers(rows, report, pictures / "bench-peers.png"):
        filled["peers"] = [picture(beside, "the gateway beside its peers"), "", *peers_markdown(rows)]
    for name, section in SECTIONS.items():
        if name in apart:
            drawn = section.draw(apart[name], report, pictures / f"bench-{name}.png")
            filled[name] = [*section.table(apart[name]), "", picture(drawn, section.words)]
    for name, lines in filled.items():
        text = replaced(text, name, "\n".join(lines))
    path.write_text(text)
    homes = [file for file in (path.parent / "README.md", path.parent.parent / "README.md") if file.exists()]
    if homes and place("summary")[0] in (home := homes[0].read_text()):
        homes[0].write_text(replaced(home, "summary", "\n".join(summary(rows, report))))


def picture(path: Path, words: str) -> str:
    """As Markdown."""
    return f"![{words}]({PICTURES}/{path.name})"


def summary(rows: Sequence[Row], report: Report) -> list[str]:
    """The rows that have a headline, and what they were measured on."""
    cells = [
        (row.headline, with_spread(figure), row.target, verdict(row), _beside(row))
        for row in rows
        if row.headline and (figure := row.of("gateway")) is not None
    ]
    facts = report.facts
    return [
        *markdown_table(
            (
                "what",
                "measured",
                "target",
                "",
                "others in the same run: the gateway is so many times as good (below 1: worse)",
            ),
            cells,
        ),
        "",
        f"{facts['processor']}, one of them for the gateway; Linux {facts['kernel']}, "
        f"Python {facts['python']}; {facts['measured']}.",
    ]


def _beside(row: Row) -> str:
    ratios = [(name, row.ratio(name)) for name in row.peers if name != "plane alone" and row.of(name)]
    return " · ".join(f"{name} {times(ratio)}" for name, ratio in ratios if ratio == ratio)


# -- the table -----------------------------------------------------------------------------------------------


def shown_rows(measured: Sequence[Part]) -> list[Row]:
    """Those that belong in the table."""
    return [row for part in measured if part.name not in APART for row in part.rows]


def told(row: Row, subject: str = "gateway") -> str:
    """The figure with its spread, or why there is none."""
    figure = row.of(subject)
    return row.failures.get(subject, "not measured") if figure is None else with_spread(figure)


def told_per_cpu(row: Row, subject: str = "gateway") -> str:
    """The same per CPU-second, where that was measured beside it: others on the machine disturb it least."""
    figure = row.of(subject, f"{row.figure}_per_cpu_s")
    return "" if figure is None else f"{number(figure.value)} {figure.unit}"


def verdict(row: Row) -> str:
    """Whether the target is met; "-" without a target."""
    if row.target == "-":
        return "-"
    if row.of("gateway") is None or any(row.of(name) is None for name in row.judged_by):
        return "not measured"
    return "met" if row.met(row) else "missed"


def table_markdown(rows: Sequence[Row]) -> list[str]:
    """The gateway and its targets, and what could not be measured."""
    cells = []
    for row in rows:
        limit = row.results["gateway"].limit if "gateway" in row.results else ""
        cells.append(
            (
                row.name,
                row.target,
                told(row),
                verdict(row),
                told_per_cpu(row),
                limit if limit != "neither" else "",
            )
        )
    lines = markdown_table(("what", "target", "measured", "", "per CPU-second", "limit"), cells)
    failed = [f"- {row.name}: {name}: {why}" for row in rows for name, why in row.failures.items()]
    if failed:
        lines += ["", "Not measured:", "", *failed]
    return lines


def peers_markdown(rows: Sequence[Row]) -> list[str]:
    """Each peer beside the gateway, a line a peer; nothing if there is none."""
    cells = []
    for row in rows:
        what = row.name
        for name in row.peers:
            if row.of(name) is not None:
                per_cpu = row.ratio(name, f"{row.figure}_per_cpu_s")
                beside = "" if math.isnan(per_cpu) else times(per_cpu)
                cells.append((what, name, told(row, name), times(row.ratio(name)), beside))
                what = ""
    headings = ("what", "peer", "measured", "gateway : peer", "per CPU-second")
    return markdown_table(headings, cells) if cells else []


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "what": row.name,
            "target": row.target,
            "verdict": verdict(row),
            "gateway": row.value(),
            "peers": {name: {"value": row.value(name), "ratio": row.ratio(name)} for name in row.results},
            "failures": row.failures,
        }
        for row in rows
    ]


# -- sections ----------------------------------------------------------------------------------------------


class Section:
    """A part with a table and a picture of its own."""

    def __init__(
        self, words: str, table: Callable[[Part], list[str]], draw: Callable[[Part, Report, Path], Path]
    ) -> None:
        self.words = words
        self.table = table
        self.draw = draw


def breakdown_table(part: Part) -> list[str]:
    """Processor time of one operation by layer, in microseconds."""
    rows = [row for row in part.rows if row.of("gateway") is not None]
    known = {layer for row in rows for layer in row.results["gateway"].profile}
    layers = [layer for layer in ORDER if layer in known]
    cells = []
    for row in rows:
        profile = row.results["gateway"].profile
        cost = row.cost_us()
        cells.append((row.name, number(cost), *(number(cost * profile.get(layer, 0.0)) for layer in layers)))
    return markdown_table(("one", "CPU-µs", *layers), cells)


CURVE_FIGURES = (
    ("login", "login, CPU-µs"),
    ("upgrade_begun", "upgrade begun, CPU-µs"),
    ("report", "report, CPU-µs"),
)


def curve_table(part: Part) -> list[str]:
    """What a device costs, by how many there are. Memory: in all, and of each further device."""
    cells = []
    before: tuple[int, float] | None = None
    for row in part.rows:
        result = row.results.get("gateway")
        if result is None:
            continue
        devices, processes = result.parameters["devices"], result.parameters["processes"]
        memory = result.figures["private_memory"].value
        further = "-"
        if processes > 1:
            further = number(memory * 2**20 / devices)
        elif before is not None:
            further = number((memory - before[1]) * 2**20 / (devices - before[0]))
        if processes == 1:
            before = (devices, memory)
        figures = [number(result.figures[name].value) for name, _ in CURVE_FIGURES]
        cells.append((f"{devices:,}", str(processes), number(memory), further, *figures))
    headings = ("devices", "processes", "memory, MiB", "bytes a device more")
    return markdown_table((*headings, *(words for _, words in CURVE_FIGURES)), cells)


SECTIONS = {
    "breakdown": Section("processor time by layer", breakdown_table, plots.draw_breakdown),
    "curve": Section("cost by the number of devices", curve_table, plots.draw_curve),
}
