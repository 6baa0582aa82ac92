"""Registering very many devices in one request, in constant memory.

The body is spooled to a file while it arrives: results go out on the same connection, and a client that
writes all before it reads any would otherwise wait for us while we wait for it. Bounds (bytes, lines, the
length of a line) are watched meanwhile, so a body past one of them registers nothing. After the last byte the
file is read again in a thread, a slice of lines at a time, and each slice goes to the service as it is.

Invariant: each line that is not blank has exactly one result, with its number in the body. What is wrong with
a line is the error of that line alone; so a record of CSV is one line, or else one unclosed quote would
swallow all that follow it.
"""

import csv
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import BinaryIO, cast

import msgspec
import trio
from msgspec import Struct

from otagate import limits
from otagate.admin.exchange import Exchange
from otagate.admin.faults import refusal
from otagate.admin.operations import CSV, NDJSON, Call
from otagate.admin.queries import NoQuery
from otagate.errors import Invalid, Malformed, NoRoom, RequestError, TooLarge
from otagate.gateway.views import (
    DeviceWithSecret,
    ErrorView,
    RegisterDeviceRequest,
    RegistrationResult,
)

Entry = RegisterDeviceRequest | ErrorView
Reader = Callable[[bytes], Entry]  # of one line, without its line ending

SLICE_LINES = 2 * limits.slice_devices
BOM = b"\xef\xbb\xbf"

_encode_lines = msgspec.json.Encoder().encode_lines
_decode_line = msgspec.json.Decoder(RegisterDeviceRequest).decode


async def register(call: Call[NoQuery, RegisterDeviceRequest | None]) -> DeviceWithSecret | None:
    """POST /products/{key}/devices: one device in JSON, or many in NDJSON or CSV."""
    product = call.path["key"]
    if call.body is not None:
        return await call.service.register_device(product, call.body, by=call.by)
    await call.service.get_product(product)  # NotFound before the body is taken
    exchange = call.exchange
    with spool_file() as file:
        header_lines = 1 if exchange.media_type == CSV else 0
        await spool(exchange, file, header_lines, call.service.check_room)
        slices = await trio.to_thread.run_sync(open_slices, file, exchange.media_type)
        await exchange.start(200, [("content-type", NDJSON)])
        async with exchange.while_connected():
            while piece := await trio.to_thread.run_sync(next, slices, None):
                await exchange.write(_encode_lines(await _register_slice(call, product, piece)))
            await exchange.finish()
    return None


class Slice(Struct, frozen=True):
    """Lines that follow each other, from `first_line` (counted from 1)."""

    first_line: int
    entries: list[Entry]


async def _register_slice(
    call: Call[NoQuery, RegisterDeviceRequest | None], product: str, piece: Slice
) -> list[RegistrationResult]:
    """The results of a slice; a refusal of the slice as a whole is the result of each of its lines."""
    try:
        return await call.service.register_devices(product, piece.first_line, piece.entries, by=call.by)
    except RequestError as error:
        view = ErrorView(error.code, error.message, error.field)
        return [
            RegistrationResult(number, None if isinstance(entry, ErrorView) else entry.identifier, error=view)
            for number, entry in enumerate(piece.entries, piece.first_line)
        ]


# -- the body, on its way in --------------------------------------------------------------------------


@contextmanager
def spool_file() -> Iterator[BinaryIO]:
    """A file without a name, from its making to its closing. NoRoom: the disk refuses one of the steps.

    A write that failed leaves its bytes in the file's buffer, and closing the file tries them again.
    """
    try:
        with tempfile.TemporaryFile() as file:
            yield file
    except OSError as error:
        raise NoRoom(f"The body cannot be kept on disk: {error.strerror}.") from error


async def spool(
    exchange: Exchange, file: BinaryIO, header_lines: int, check_room: Callable[[], None]
) -> None:
    """Write the body to the file. TooLarge: too many bytes or lines, a line too long. NoRoom.

    `check_room` is asked before each write: the file may be on the disk on which commits must not fail.
    """
    check_room()
    exchange.allow_body(limits.bulk_body_bytes_max)
    gathered = bytearray()
    measure = LineMeasure(limits.bulk_devices_max + header_lines)
    while piece := await exchange.piece():
        measure.take(piece)
        gathered += piece
        if len(gathered) >= limits.bulk_gather_bytes:
            check_room()
            await trio.to_thread.run_sync(file.write, gathered)
            gathered = bytearray()
    await trio.to_thread.run_sync(_write_and_rewind, file, gathered)
    measure.end()


def _write_and_rewind(file: BinaryIO, data: bytearray) -> None:
    file.write(data)
    file.seek(0)  # flushes


class LineMeasure:
    """Counts lines and watches their length while pieces of them pass; a bound passed raises TooLarge."""

    def __init__(self, lines_max: int) -> None:
        self._lines_max = lines_max
        self._lines = 0
        self._open_bytes = 0  # of the line that has not ended yet

    def take(self, piece: bytes) -> None:
        """The next bytes of the body."""
        parts = piece.split(b"\n")
        self._lines += len(parts) - 1
        longest = max(self._open_bytes + len(parts[0]), max(map(len, parts)))
        self._open_bytes = len(parts[-1]) + (self._open_bytes if len(parts) == 1 else 0)
        if longest > limits.bulk_line_bytes_max:
            raise TooLarge(
                f"A line is longer than {limits.bulk_line_bytes_max} bytes; nothing is registered."
            )
        self._check()

    def end(self) -> None:
        """The body is over; its last line may lack a line ending."""
        self._lines += self._open_bytes > 0
        self._check()

    def _check(self) -> None:
        if self._lines > self._lines_max:
            raise TooLarge(f"More than {limits.bulk_devices_max} lines; nothing is registered.")


# -- the lines, on their way to the service (all of it in a thread) --------------------------------------


def open_slices(file: BinaryIO, media_type: str | None) -> Iterator[Slice]:
    """The slices of a spooled body. Raises Invalid for a bad CSV header; reads no further than that."""
    lines = cast(BufferedReader, file)
    if file.read(len(BOM)) != BOM:
        file.seek(0)
    if media_type == CSV:
        return _slices(lines, CsvReader(lines.readline()), first_line=2)
    return _slices(lines, read_json_line, first_line=1)


def _slices(lines: Iterator[bytes], read: Reader, first_line: int) -> Iterator[Slice]:
    """Group lines that follow each other; a blank one ends a slice, having no result."""
    entries: list[Entry] = []
    for number, line in enumerate(lines, first_line):
        text = line.rstrip(b"\r\n")
        if text:
            entries.append(read(text))
        if entries and (not text or len(entries) == SLICE_LINES):
            yield Slice(number - len(entries) + bool(text), entries)
            entries = []
    if entries:
        yield Slice(number - len(entries) + 1, entries)


def unreadable(error: RequestError) -> ErrorView:
    """The entry of a line that could not be read."""
    return ErrorView(error.code, error.message, error.field)


def read_json_line(line: bytes) -> Entry:
    """One line of NDJSON."""
    try:
        return _decode_line(line)
    except (ValueError, RecursionError) as error:
        return unreadable(refusal(error))


class CsvReader:
    """Reads lines of CSV (RFC 4180, but a record is one line) under the header that it is made with.

    The header names `identifier` and, if wanted, `name` and `secret`, in any order; else Invalid. An empty
    name or secret is the same as none.
    """

    def __init__(self, header: bytes) -> None:
        names = [name.strip() for name in split_csv(header.rstrip(b"\r\n"))]
        known = RegisterDeviceRequest.__struct_fields__
        if "identifier" not in names:
            raise Invalid("The first line must be a header that names this column.", field="identifier")
        for name in names:
            if name not in known:
                raise Invalid(f"The header names a column that is none of {', '.join(known)}.", field=name)
            if names.count(name) > 1:
                raise Invalid("The header names this column twice.", field=name)
        self._width = len(names)
        self._identifier = names.index("identifier")
        # A column that is not there is read from beyond the last, where __call__ puts an empty text.
        self._name = names.index("name") if "name" in names else self._width
        self._secret = names.index("secret") if "secret" in names else self._width

    def __call__(self, line: bytes) -> Entry:
        try:
            fields = split_csv(line)
        except Malformed as error:
            return unreadable(error)
        if len(fields) != self._width:
            return unreadable(Malformed(f"{self._width} fields are expected here, not {len(fields)}."))
        fields.append("")
        return RegisterDeviceRequest(
            fields[self._identifier], fields[self._name] or None, fields[self._secret] or None
        )


def split_csv(line: bytes) -> list[str]:
    """The fields of a line. Malformed: not UTF-8, or a quote that does not close or opens within a field."""
    try:
        text = line.decode()
        if '"' not in text:
            return text.split(",")
        return next(csv.reader((text,), strict=True))
    except UnicodeDecodeError as error:
        raise refusal(error) from error
    except csv.Error as error:
        raise Malformed(f"This is not a line of CSV: {error}.") from error
