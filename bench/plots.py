"""Pictures of what was measured: bars of each figure by subject, percentiles of durations. Needs matplotlib
(`pip install matplotlib`, the optional group `bench`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import Result
from .processes import BenchError
from .report import Report, number
from .rows import Row

WIDTH_IN = 9.0
OURS, THEIRS = "#1f6feb", "#8b949e"
POINTS = ("p50", "p90", "p99", "p99.9", "max")


def draw(report: Report, folder: Path) -> list[Path]:
    """One picture of the durations of each scenario. BenchError without matplotlib."""
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for scenario in dict.fromkeys(result.scenario for result in report.results):
        timed = [r for r in report.results if r.scenario == scenario and r.latencies_ms]
        if timed:
            paths.append(_durations(pyplot, scenario, timed, _caption(report), folder))
    return paths


def draw_table(rows: Sequence[Row], report: Report, folder: Path) -> list[Path]:
    """One picture of each row that has peers: gateway and peers beside each other."""
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        _bars(pyplot, row, _caption(report), folder / f"{_file_name(row.name)}.png")
        for row in rows
        if len(row.results) > 1
    ]
    return paths + draw(report, folder)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise BenchError("pictures need matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _caption(report: Report) -> str:
    facts = report.facts
    return f"{facts['processor']} · Linux {facts['kernel']} · {facts['cores']}"


def _file_name(words: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in words.lower()).strip("-")[:60]


def _bars(pyplot: Any, row: Row, caption: str, path: Path) -> Path:
    figures = {subject: row.of(subject) for subject in ("gateway", *row.peers)}
    known = {subject: figure for subject, figure in figures.items() if figure is not None}
    order = sorted(known, key=lambda subject: known[subject].value, reverse=row.higher_is_better)
    figure, axes = pyplot.subplots(figsize=(WIDTH_IN, 1.4 + 0.45 * len(order)))
    values = [known[subject].value for subject in order]
    spreads = [known[subject].spread for subject in order]
    errors = [
        [value - low for value, (low, _) in zip(values, spreads, strict=True)],
        [high - value for value, (_, high) in zip(values, spreads, strict=True)],
    ]
    colours = [OURS if subject == "gateway" else THEIRS for subject in order]
    bars = axes.barh(order, values, xerr=errors, color=colours, ecolor="#444444", capsize=3)
    axes.bar_label(bars, labels=[f"  {number(value)}" for value in values])
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_xlabel(known[order[0]].unit + ("" if row.higher_is_better else ", less is better"))
    axes.set_title(f"{row.name}  (target {row.target})", loc="left", fontsize=11)
    return _save(pyplot, figure, axes, caption, path)


def _durations(pyplot: Any, scenario: str, results: Sequence[Result], caption: str, folder: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(WIDTH_IN, 5.0))
    for result in results:
        for name, points in result.latencies_ms.items():
            words = ", ".join(str(value) for value in result.parameters.values())
            heights = [max(points[point], 1e-3) for point in POINTS]
            axes.plot(POINTS, heights, marker="o", label=f"{result.subject} ({words}): {name}")
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds, logarithmic")
    axes.set_title(f"{scenario}: durations", loc="left", fontsize=11)
    axes.legend(fontsize=8)
    return _save(pyplot, figure, axes, caption, folder / f"{scenario}-durations.png")


def _save(pyplot: Any, figure: Any, axes: Any, caption: str, path: Path) -> Path:
    axes.grid(visible=True, axis="both", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.01, caption, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
