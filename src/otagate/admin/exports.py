"""Lists as a whole, in CSV (RFC 4180) or NDJSON, at constant memory and for as long as the client takes.

An export is page after page of the list, each asked for when the client has taken the one before: no read
transaction waits for a client. So it is no picture of one moment: a row is as it was when its page was read;
none comes twice, and none is left out that was there from beginning to end.

A CSV is opened in a spreadsheet sooner or later, and some of its cells were written by devices. A cell that
would be a formula there gets an apostrophe in front (OWASP, "CSV Injection"). What a value consists of has a
column each: `retries.current`.
"""

import csv
import io
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from otagate import limits
from otagate.admin.auth import identify
from otagate.admin.images import attachment
from otagate.admin.operations import CSV, NDJSON, Call
from otagate.admin.queries import DevicesQuery, UpgradesQuery
from otagate.errors import Invalid
from otagate.gateway.views import DeviceView, Page, UpgradeView

#: The full-width forms are what Japanese and Chinese spreadsheets take for the others.
FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

_encode_lines = msgspec.json.Encoder().encode_lines

Item = TypeVar("Item", bound=Struct)


async def list_devices(call: Call[DevicesQuery, None]) -> Page[DeviceView] | None:
    """GET /products/{key}/devices: a page, or all of it."""

    def get(cursor: str | None, limit: int) -> Awaitable[Page[DeviceView]]:
        query = msgspec.structs.asdict(call.query) | {"cursor": cursor, "limit": limit}
        return call.service.list_devices(call.path["key"], **query)

    return await _page_or_all(call, get, DeviceView, f"{call.path['key']}-devices")


async def list_upgrades(call: Call[UpgradesQuery, None]) -> Page[UpgradeView] | None:
    """GET /batches/{id}/devices: a page, or all of it."""

    def get(cursor: str | None, limit: int) -> Awaitable[Page[UpgradeView]]:
        query = msgspec.structs.asdict(call.query) | {"cursor": cursor, "limit": limit}
        return call.service.list_upgrades(call.path["id"], **query)

    return await _page_or_all(call, get, UpgradeView, f"{call.path['id']}-devices")


async def _page_or_all(
    call: Call[Any, None],
    get: Callable[[str | None, int], Awaitable[Page[Item]]],  # of a cursor and a limit
    item: type[Item],
    name: str,
) -> Page[Item] | None:
    exchange, query = call.exchange, call.query
    media = wanted_media(exchange.headers.get("accept"))
    if media is None:
        return await get(query.cursor, query.limit)
    if query.cursor is not None or query.limit != limits.page_items_default:
        field = "limit" if query.cursor is None else "cursor"
        raise Invalid("An export is of the whole list: it takes neither cursor nor limit.", field=field)
    page = await get(None, limits.export_rows)  # refusals come before the head of the answer
    encode = _encode_lines if media == NDJSON else CsvWriter(item).lines
    suffix = "ndjson" if media == NDJSON else "csv"
    disposition = attachment(f"{name}.{suffix}")
    await exchange.start(200, [("content-type", media), ("content-disposition", disposition)])
    if exchange.method == "HEAD":
        await exchange.finish()
        return None
    async with exchange.while_connected():
        await exchange.write(encode(page.items))
        while page.next is not None:
            identify(call.service, exchange)  # a token may have been revoked meanwhile
            page = await get(page.next, limits.export_rows)
            await exchange.write(encode(page.items))
        await exchange.finish()
    return None


def wanted_media(accept: str | None) -> str | None:
    """CSV or NDJSON if Accept prefers it to JSON (RFC 9110 section 12.5.1), else None: a page in JSON."""
    best, chosen = 0.0, None
    for part in (accept or "").lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                weight = _weight(parameter[2:])
        if weight > best and media:
            best, chosen = weight, media
    return chosen if chosen in (CSV, NDJSON) else None


def _weight(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 0.0


class CsvWriter:
    """Rows of structs; the first lines begin with the header."""

    def __init__(self, item: type[Struct]) -> None:
        self._columns = _columns(item)
        self._begun = False

    def lines(self, items: Sequence[Struct]) -> bytes:
        """These items as lines of CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        if not self._begun:
            self._begun = True
            writer.writerow(".".join(path) for path in self._columns)
        writer.writerows(self._cells(item) for item in items)
        return text.getvalue().encode()

    def _cells(self, item: Struct) -> Iterable[str]:
        for path in self._columns:
            value: Any = item
            for name in path:
                value = getattr(value, name)
            yield cell(value)


def _columns(item: type[Struct]) -> list[tuple[str, ...]]:
    """The way to each value, through structs within structs."""
    found: list[tuple[str, ...]] = []
    for field in msgspec.structs.fields(item):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            found += [(field.name, *rest) for rest in _columns(field.type)]
        else:
            found.append((field.name,))
    return found


def cell(value: object) -> str:
    """A value as the text of a cell: empty for none, as JSON has truth values."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA_BEGINS) else value
    return msgspec.json.encode(value).decode()
