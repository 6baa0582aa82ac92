"""What commands write to stdout: the API's JSON for machines, tables for people."""

import io
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

Json = dict[str, Any]
Column = tuple[str, str | Callable[[Json], Any]]  # heading, and the field's name or how to make the cell

NOTHING = "–"
RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:\.\d+)?Z")
LINE_CHARS_MAX = 4000
TABLE_PAGE_ROWS = 200  # a table is laid out as a whole; longer lists come in several


def write_json(value: Any) -> None:
    """One value, one line."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.buffer.flush()


def write_items(
    items: Iterable[Json], columns: Sequence[Column], *, as_json: bool, total: bool = True
) -> None:
    """A list: NDJSON, or a table in pages of TABLE_PAGE_ROWS rows."""
    if as_json:
        for item in items:
            write_json(item)
        return
    rows: list[list[str]] = []
    count = 0
    for item in items:
        rows.append([cell(item, column) for _, column in columns])
        count += 1
        if len(rows) == TABLE_PAGE_ROWS:
            _print(_table(columns, rows))
            rows.clear()
    if rows or not count:
        _print(_table(columns, rows))
    if total:
        print(f"{count} in all", file=sys.stderr)


def write_record(item: Json, *, as_json: bool, title: str | None = None) -> None:
    """One object: JSON, or a field a line."""
    if as_json:
        write_json(item)
        return
    table = Table(show_header=False, box=None, title=title, title_justify="left", pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _flat(item):
        table.add_row(name, _lines(value))
    _print(table)


def _lines(value: Any) -> str:
    """All those of a description or a key: here there is room for more than one."""
    if isinstance(value, str) and "\n" in value:
        return "\n".join(_shown(line.rstrip("\r")) for line in value.rstrip("\n").split("\n"))
    return text(value)


def cell(item: Json, column: str | Callable[[Json], Any]) -> str:
    """The text of one cell; `a.b` reads a field of a field."""
    if callable(column):
        return text(column(item))
    value: Any = item
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return text(value)


def text(value: Any) -> str:
    """A value for people, in one line: times (UTC) to the second; nothing and "" alike."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and (time := RFC3339.fullmatch(value)):
        return f"{time[1]} {time[2]}"
    return _shown(str(value))


def _shown(line: str) -> str:
    """No control character gets through; tabs and line breaks, which descriptions may have, become spaces."""
    return "".join(char if _is_shown(char) else " " if char in "\t\n\r" else "�" for char in line)


def _is_shown(char: str) -> bool:
    """Also what Python does not know yet: names may have Chinese characters that are newer than it."""
    return char.isprintable() or unicodedata.category(char) == "Cn"


def transfer_progress() -> Progress:
    """A bar for bytes, on stderr, only if that is a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def _flat(item: Json, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in item.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            yield f"{prefix}{name}", value


def _table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
    """A terminal is narrow: there, columns in which nothing stands are left out."""
    shown = list(range(len(columns)))
    if sys.stdout.isatty() and rows:
        shown = [index for index in shown if any(row[index] != NOTHING for row in rows)]
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index in shown:
        table.add_column(columns[index][0], overflow="fold")
    for row in rows:
        table.add_row(*(row[index] for index in shown))
    return table


def _print(table: Table) -> None:
    """Off a terminal lines are whole, not folded to 80 columns, and end where their text ends."""
    if sys.stdout.isatty():
        Console(markup=False, highlight=False, emoji=False).print(table)
        return
    with io.StringIO() as page:
        Console(file=page, markup=False, highlight=False, emoji=False, width=LINE_CHARS_MAX).print(table)
        for line in page.getvalue().splitlines():
            print(line.rstrip())
