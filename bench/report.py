"""What was measured, for people: tables on a terminal, Markdown, and the dict behind the JSON."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from .measure import Bench, Figure, Result


def number(value: float) -> str:
    """Three digits that count, thousands apart."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def times(ratio: float) -> str:
    """Two digits that count, never as a power of ten."""
    text = f"{ratio:.2g}"
    return f"{float(text):,.0f} ×" if "e+" in text else f"{text} ×"


def with_spread(figure: Figure) -> str:
    """`value unit`, and `(from to)` if it was repeated with another outcome."""
    low, high = figure.spread
    text = f"{number(figure.value)} {figure.unit}"
    return f"{text} ({number(low)} to {number(high)})" if low != high else text


class Report:
    """Results with the machine they were measured on."""

    def __init__(self, facts: dict[str, str], results: list[Result]) -> None:
        self.facts = facts
        self.results = results

    @staticmethod
    def circumstances_of(bench: Bench) -> dict[str, str]:
        """How the run was set up, as facts."""
        return {
            "cores": f"server on {_core(bench.server_core)}, fleet on {_core(bench.fleet_core)}",
            "fleet": f"{bench.processes} processes, seed {bench.seed}",
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"machine": self.facts, "results": [result.as_dict() for result in self.results]}

    def rows(self) -> list[tuple[str, ...]]:
        """One row for each result: scenario, subject, parameters, figures, latencies, circumstances."""
        return [
            (
                result.scenario,
                result.subject,
                ", ".join(f"{name} {value}" for name, value in result.parameters.items()),
                "; ".join(
                    f"{name.replace('_', ' ')} {with_spread(figure)}"
                    for name, figure in result.figures.items()
                ),
                "; ".join(
                    f"{name}: " + ", ".join(f"{point} {number(ms)}" for point, ms in points.items()) + " ms"
                    for name, points in result.latencies_ms.items()
                ),
                circumstances(result),
            )
            for result in self.results
        ]

    HEADINGS = ("scenario", "subject", "with", "figures", "latencies", "circumstances")

    def show(self, console: Console) -> None:
        """On a terminal: a block for each result."""
        for row in self.rows():
            table = Table(show_header=False, box=None, pad_edge=False, title_justify="left")
            table.title = f"{row[0]}: {row[1]} ({row[2]})"
            for name, text in zip(self.HEADINGS[3:], row[3:], strict=True):
                for part in text.split("; "):
                    if part:
                        table.add_row(name, part)
                        name = ""
            console.print(table)
            console.print()

    def markdown(self) -> str:
        """A page: machine, then a table for each scenario."""
        lines = ["# Measured", "", *self.machine_markdown(), ""]
        for scenario in dict.fromkeys(result.scenario for result in self.results):
            rows = [row for row in self.rows() if row[0] == scenario]
            lines += [f"## {scenario}", "", *markdown_table(self.HEADINGS[1:], [row[1:] for row in rows]), ""]
        return "\n".join(lines)

    def machine_markdown(self) -> list[str]:
        """Facts of the machine."""
        return markdown_table(("machine", ""), list(self.facts.items()))


def circumstances(result: Result) -> str:
    """Processor times, and who was the limit."""
    parts = []
    if result.wall_s:
        parts.append(
            f"{number(result.wall_s)} s, CPU-s: server {number(result.server_cpu_s)}, "
            f"fleet {number(result.fleet_cpu_s)}, others {number(result.others_cpu_s)}"
        )
    if result.limit:
        parts.append(f"limit: {result.limit}")
    if result.profile:
        layers = ", ".join(f"{layer} {share:.0%}" for layer, share in result.profile.items())
        parts.append(f"the server's time: {layers}")
    return "; ".join([*parts, *result.remarks])


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return lines + ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]


def _core(core: int | None) -> str:
    return "any core" if core is None else f"core {core}"
