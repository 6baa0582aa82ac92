"""The web console: the files of static/, read once and served from memory as they stand there.

Every file but the front page lives under a path that holds the digest of them all. So its bytes never change
at that path, a browser keeps it for good, and after an upgrade of the gateway the front page, which is asked
for each time, leads to the new ones: old and new modules never mix. What is served is a lookup among known
names; no path of a request ever touches the file system.

The Content-Security-Policy lets nothing run or load that is not from here, and no markup carry script or
style.
"""

import gzip
import hashlib
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from msgspec import Struct

from otagate.admin.exchange import Exchange
from otagate.admin.images import matches_none
from otagate.admin.operations import Call, Operation, Reply
from otagate.admin.queries import NoQuery
from otagate.errors import NotFound

FRONT_PAGE = "index.html"
#: What the front page has in the place of the folder of all other files.
FOLDER_MARK = b"{folder}"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".lock": "text/plain; charset=utf-8",
    ".LICENSE": "text/plain; charset=utf-8",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "font-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
}


class File(Struct, frozen=True):
    """A file as it is served; `packed` is the same in gzip, so `etag` (quoted) goes out as a weak one."""

    type: str
    etag: str
    data: bytes
    packed: bytes


class Files(Struct, frozen=True):
    """All of them, by their path below static/, and the digest that their folder is named after."""

    digest: str
    by_path: dict[str, File]


@cache
def files() -> Files:
    """Read static/. A file of a suffix that TYPES does not know is a KeyError: it is not ours to serve."""
    contents = dict(_walk(resources.files("otagate.admin") / "static"))
    whole = hashlib.sha256()
    for path, data in sorted(contents.items()):
        whole.update(f"{path}\0{len(data)}\0".encode() + data)
    digest = whole.hexdigest()[:16]
    front = contents[FRONT_PAGE]
    contents[FRONT_PAGE] = front.replace(FOLDER_MARK, f"console/{digest}".encode())
    return Files(digest, {path: _file(path, data) for path, data in contents.items()})


def _walk(folder: Traversable, below: str = "") -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        path = f"{below}{entry.name}"
        found += _walk(entry, f"{path}/") if entry.is_dir() else [(path, entry.read_bytes())]
    return found


def _file(path: str, data: bytes) -> File:
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return File(TYPES[path[path.rindex(".") :]], etag, data, gzip.compress(data, 6, mtime=0))


async def front_page(call: Call[NoQuery, None]) -> None:
    """GET /: asked for each time, and small."""
    await _answer(call.exchange, files().by_path[FRONT_PAGE], "private, no-cache")


async def asset(call: Call[NoQuery, None]) -> None:
    """GET /console/{digest}/{path}: for good. NotFound for another digest: that is another otagate's file."""
    found = files()
    file = found.by_path.get(call.path["path"])
    if call.path["digest"] != found.digest or file is None:
        raise NotFound("The console has no such file; if otagate was upgraded, load the page again.")
    await _answer(call.exchange, file, "public, max-age=31536000, immutable")


async def _answer(exchange: Exchange, file: File, cache_control: str) -> None:
    headers = HEADERS | {"etag": f"W/{file.etag}", "cache-control": cache_control, "vary": "accept-encoding"}
    if matches_none(exchange.headers.get("if-none-match"), file.etag):
        return await exchange.answer(304, headers=headers.items())
    headers["content-type"] = file.type
    if accepts_gzip(exchange.headers.get("accept-encoding", "")):
        headers["content-encoding"] = "gzip"
        return await exchange.answer(200, file.packed, headers.items())
    return await exchange.answer(200, file.data, headers.items())


def accepts_gzip(header: str) -> bool:
    """Whether Accept-Encoding names gzip with a weight that is not zero (RFC 9110 section 12.5.3)."""
    for part in header.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() == "gzip":
            return re.fullmatch(r"\s*q=0(?:\.0*)?\s*", weight) is None
    return False


#: Routed, but no part of the API: the API document does not know it.
ASSETS = Operation(
    method="GET",
    path="/console/{digest}/{path:path}",
    handler=asset,
    summary="A file of the console",
    replies=(Reply(200, "The file.", media="*/*"), Reply(304, "The client has it.")),
    errors=(404,),
    public=True,
)
