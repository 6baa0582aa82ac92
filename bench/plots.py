"""Pictures of what was measured: bars of each figure by subject, percentiles of durations. Needs matplotlib
(`pip install 'otagate[bench]'`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import Result
from .parts import Part
from .processes import BenchError
from .profile import ORDER
from .report import Report, number
from .rows import Row

WIDTH_IN = 9.0
OURS, THEIRS = "#1f6feb", "#8b949e"
POINTS = ("p50", "p90", "p99", "p99.9", "max")


def draw(report: Report, folder: Path) -> list[Path]:
    """One picture of the durations of each scenario. BenchError without matplotlib."""
    library = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for scenario in dict.fromkeys(result.scenario for result in report.results):
        timed = [r for r in report.results if r.scenario == scenario and r.latencies_ms and not r.profile]
        if timed:
            paths.append(_durations(library, scenario, timed, _caption(report), folder))
    return paths


def draw_table(rows: Sequence[Row], report: Report, folder: Path) -> list[Path]:
    """One picture of each row that has peers: gateway and peers beside each other."""
    library = pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    paths = [
        _bars(library, row, _caption(report), folder / f"{_file_name(row.name)}.png")
        for row in rows
        if len(row.results) > 1
    ]
    return paths + draw(report, folder)


def pyplot() -> Any:
    """Matplotlib, drawing to files. BenchError if it is missing."""
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


# -- the pictures of the page ----------------------------------------------------------------------------


def draw_peers(rows: Sequence[Row], report: Report, path: Path) -> Path | None:
    """All rows with peers in one picture; None if there are none."""
    library = pyplot()
    shown = [row for row in rows if row.of("gateway") is not None and len(row.results) > 1]
    if not shown:
        return None
    lines = (len(shown) + 1) // 2
    figure, places = library.subplots(lines, 2, figsize=(WIDTH_IN, 2.1 * lines + 0.3), squeeze=False)
    for axes, row in zip(places.flat, shown, strict=False):
        _bars_into(axes, row, small=True)
    for axes in list(places.flat)[len(shown) :]:
        axes.set_visible(False)
    return _save(library, figure, list(places.flat), _caption(report), path)


def draw_breakdown(part: Part, report: Report, path: Path) -> Path:
    """One bar for each operation, by layer, each as long as the other: shares, with the time in words."""
    library = pyplot()
    rows = [row for row in part.rows if row.of("gateway") is not None]
    figure, axes = library.subplots(figsize=(WIDTH_IN, 1.6 + 0.45 * len(rows)))
    names = [f"{row.name}: {number(row.cost_us())} µs" for row in rows]
    left = [0.0] * len(rows)
    colours = library.get_cmap("tab10").colors
    for index, layer in enumerate(ORDER):
        widths = [100 * row.results["gateway"].profile.get(layer, 0.0) for row in rows]
        if not any(widths):
            continue
        bars = axes.barh(names, widths, left=left, color=colours[index % 10], label=layer)
        labels = [f"{width:.0f}" if width >= 4 else "" for width in widths]
        axes.bar_label(bars, labels=labels, label_type="center", fontsize=7, color="white")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("per cent of the gateway's processor time")
    axes.set_title("where the time of one operation goes", loc="left", fontsize=11)
    if any(left):
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.4, -0.16), frameon=False)
    return _save(library, figure, [axes], _caption(report), path)


def draw_curve(part: Part, report: Report, path: Path) -> Path:
    """Memory, and processor time of login, upgrade and report, by the number of devices."""
    library = pyplot()
    results = [row.results["gateway"] for row in part.rows if row.of("gateway") is not None]
    panels = (
        ("private_memory", "private memory, MiB"),
        ("login", "a login, CPU-µs"),
        ("upgrade_begun", "an upgrade begun, CPU-µs"),
        ("report", "a report, CPU-µs"),
    )
    figure, places = library.subplots(1, len(panels), figsize=(WIDTH_IN, 3.0))
    one = [result for result in results if result.parameters["processes"] == 1]
    more = [result for result in results if result.parameters["processes"] > 1]
    for axes, (name, words) in zip(places, panels, strict=True):
        for some, marker, label in ((one, "o-", "one process"), (more, "s--", "several")):
            if some:
                devices = [result.parameters["devices"] / 1000 for result in some]
                axes.plot(devices, [r.figures[name].value for r in some], marker, markersize=4, label=label)
        axes.set_ylim(0, 1.15 * max(result.figures[name].value for result in results))
        axes.set_xlabel("thousand devices", fontsize=8)
        axes.set_title(words, loc="left", fontsize=9)
        axes.tick_params(labelsize=8)
    places[0].legend(fontsize=7, frameon=False)
    return _save(library, figure, list(places), _caption(report), path)


def _bars(pyplot: Any, row: Row, caption: str, path: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(WIDTH_IN, 1.4 + 0.45 * len(row.results)))
    _bars_into(axes, row)
    return _save(pyplot, figure, [axes], caption, path)


def _bars_into(axes: Any, row: Row, *, small: bool = False) -> None:
    size = 7 if small else 10
    figures = {subject: row.of(subject) for subject in ("gateway", *row.peers)}
    known = {subject: figure for subject, figure in figures.items() if figure is not None}
    order = sorted(known, key=lambda subject: known[subject].value, reverse=row.higher_is_better)
    values = [known[subject].value for subject in order]
    spreads = [known[subject].spread for subject in order]
    errors = [
        [value - low for value, (low, _) in zip(values, spreads, strict=True)],
        [high - value for value, (_, high) in zip(values, spreads, strict=True)],
    ]
    colours = [OURS if subject == "gateway" else THEIRS for subject in order]
    bars = axes.barh(order, values, xerr=errors, color=colours, ecolor="#444444", capsize=2)
    axes.bar_label(bars, labels=[f"  {number(value)}" for value in values], fontsize=size)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.7g}")
    axes.tick_params(labelsize=size)
    unit = known[order[0]].unit + ("" if row.higher_is_better else ", less is better")
    axes.set_xlabel(unit, fontsize=size)
    target = "" if row.target == "-" or small else f"  (target {row.target})"
    axes.set_title(row.name + target, loc="left", fontsize=size + 1)


def _durations(pyplot: Any, scenario: str, results: Sequence[Result], caption: str, folder: Path) -> Path:
    figure, axes = pyplot.subplots(figsize=(WIDTH_IN + 3, 5.0))
    for result in results:
        for name, points in result.latencies_ms.items():
            words = ", ".join(str(value) for value in result.parameters.values())
            heights = [max(points[point], 1e-3) for point in POINTS]
            axes.plot(POINTS, heights, marker="o", label=f"{result.subject} ({words}): {name}")
    axes.set_yscale("log")
    axes.set_ylabel("milliseconds, logarithmic")
    axes.set_title(f"{scenario}: durations", loc="left", fontsize=11)
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
    return _save(pyplot, figure, [axes], caption, folder / f"{scenario}-durations.png")


def _save(pyplot: Any, figure: Any, places: Sequence[Any], caption: str, path: Path) -> Path:
    for axes in places:
        axes.grid(visible=True, axis="both", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.01, caption, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    _shrink(path)
    return path


def _shrink(path: Path) -> None:
    """To 128 colours: a third of the bytes, and nobody sees it."""
    from PIL import Image

    with Image.open(path) as image:
        few = image.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
