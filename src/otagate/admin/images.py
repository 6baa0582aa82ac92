"""Images in and out: the upload as a raw body, the download with ranges (RFC 9110 sections 13 and 14)."""

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path
from urllib.parse import quote

import trio

from otagate import limits
from otagate.admin.exchange import Exchange
from otagate.admin.faults import RangeNotSatisfiable
from otagate.admin.operations import BYTES, Call
from otagate.admin.queries import NoQuery
from otagate.admin.repeating import replay
from otagate.errors import Invalid, NotFound
from otagate.gateway.acts import Repeatable
from otagate.gateway.views import FirmwareMetadata, FirmwareView

DIGEST_HEADERS = {"md5": "Content-MD5", "sha256": "X-Checksum-Sha256"}

# -- in ------------------------------------------------------------------------------------------------


async def upload(call: Call[FirmwareMetadata, None]) -> FirmwareView | None:
    """POST /firmware: every rule of the head is checked before the first byte is asked for."""
    exchange = call.exchange
    md5 = expected_md5(exchange.headers.get("content-md5"))
    sha256 = expected_sha256(exchange.headers.get("x-checksum-sha256"))
    exchange.allow_body(limits.image_bytes_max)
    if call.by.repeatable is not None and call.by.repeatable.kept is not None:
        await replay_upload(exchange, call.by.repeatable)
        return None
    async with call.service.upload_firmware(call.query, by=call.by) as image:
        while piece := await exchange.piece():
            await image.write(piece)
        try:
            return await image.finish(md5, sha256)
        except Invalid as error:  # the digests came as headers
            field = DIGEST_HEADERS.get(error.field or "", error.field)
            raise Invalid(error.message, field=field, details=error.details) from error


async def replay_upload(exchange: Exchange, repeatable: Repeatable) -> None:
    """The same upload again, or another one under its key: only the bytes can tell."""
    digest = hashlib.sha256()
    while piece := await exchange.piece():
        digest.update(piece)
    repeatable.content = digest.hexdigest()
    await replay(exchange, repeatable)


def expected_md5(text: str | None) -> str | None:
    """Content-MD5 as lower-case hex: base64 as RFC 1864 has it, or hex as `md5sum` prints it."""
    if text is None:
        return None
    if re.fullmatch(r"[0-9A-Fa-f]{32}", text):
        return text.lower()
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise Invalid("An MD5 is 16 bytes, in base64 or in hex.", field="Content-MD5")
    return digest.hex()


def expected_sha256(text: str | None) -> str | None:
    """X-Checksum-Sha256 as lower-case hex."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", text):
        raise Invalid("A SHA-256 is 64 hex digits.", field="X-Checksum-Sha256")
    return text.lower()


# -- out -----------------------------------------------------------------------------------------------


async def download(call: Call[NoQuery, None]) -> None:
    """GET /firmware/{id}/content: 200 whole, 206 a range, 304 the client has it, 416 past the end."""
    exchange = call.exchange
    firmware, path = await call.service.firmware_file(call.path["id"])
    etag = f'"{firmware.sha256}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",  # may be kept, but asked for again: the token decides
    }
    if matches_none(exchange.headers.get("if-none-match"), etag):
        return await exchange.answer(304, headers=headers.items())
    headers |= {"content-type": BYTES, "content-disposition": attachment(firmware.file_name)}
    part = None
    if exchange.method == "GET" and exchange.headers.get("if-range", etag) == etag:
        part = requested_range(exchange.headers.get("range"), firmware.size)
    start, end = part or (0, firmware.size)
    headers["content-length"] = str(end - start)
    if part is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{firmware.size}"
    status = 200 if part is None else 206
    if exchange.method == "HEAD":
        return await exchange.answer(status, headers=headers.items())
    return await send_file(exchange, path, start, end, status, headers)


async def send_file(
    exchange: Exchange, path: Path, start: int, end: int, status: int, headers: dict[str, str]
) -> None:
    """Stream bytes [start, end) of a file, read in a thread a piece at a time."""
    try:
        file = await trio.to_thread.run_sync(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:  # deleted a moment ago
        raise NotFound("This firmware is gone.") from error
    try:
        await exchange.start(status, headers.items())
        async with exchange.while_connected():
            while start < end:
                size = min(limits.content_piece_bytes, end - start)
                data = await trio.to_thread.run_sync(os.pread, file, size, start)
                if not data:
                    raise EOFError(f"{path.name} is shorter than its record says")
                await exchange.write(data)
                start += len(data)
            await exchange.finish()
    finally:
        os.close(file)


def matches_none(header: str | None, etag: str) -> bool:
    """Whether If-None-Match names this entity tag: the weak comparison of RFC 9110 section 8.8.3.2."""
    if header is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return "*" in tags or etag in tags


def requested_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The one range that a Range header asks for, as [start, end); None for the whole.

    Several ranges, another unit and a header that is none are ignored, as RFC 9110 section 14.2 permits.
    Raises RangeNotSatisfiable with the size in its details.
    """
    match = re.fullmatch(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*", header or "", re.IGNORECASE)
    if match is None or match.group(1, 2) == ("", ""):
        return None
    first, last = match.group(1, 2)
    if first and last and int(last) < int(first):
        return None
    if not first:  # the last so many bytes
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
    if start >= end:
        raise RangeNotSatisfiable(f"The image has {size} bytes.", details={"size": size})
    return start, end


def attachment(file_name: str) -> str:
    """Content-Disposition with the name as it is (RFC 5987), and one in ASCII for old clients (RFC 6266)."""
    plain = re.sub(r"[^ !#-\[\]-~]", "_", file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"
