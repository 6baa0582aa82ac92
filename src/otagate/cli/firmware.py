"""`otagate firmware …`: add, look at, fetch and delete firmware."""

import argparse
import base64
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from otagate.cli import api, signing
from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import Actions

if TYPE_CHECKING:
    from otagate.cli.output import Column

PIECE_BYTES = 256 * 1024

COLUMNS: "list[Column]" = [
    ("id", "id"),
    ("name", "name"),
    ("version", "version"),
    ("product", "product"),
    ("file", "file_name"),
    ("size", "size"),
    ("MD5", "md5"),
    ("description", "description"),
    ("signed by", "signature.key"),
    ("created", "created_at"),
]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `firmware`."""
    actions = Actions(commands, "firmware", "firmware of products")

    listing = actions.add("list", "firmware", _list)
    listing.add_argument("--product")
    listing.add_argument("--search", dest="q", metavar="TEXT")

    add = actions.add("add", "upload a firmware", _add)
    add.add_argument("file", type=Path)
    for name in ("product", "name", "version"):
        add.add_argument(f"--{name}", help="(what was signed)")
    add.add_argument("--signature", type=Path, metavar="FILE", help="as `firmware sign` writes it")
    add.add_argument("--description")
    add.add_argument("--file-name", help="(the file's own name)")

    actions.add("show", "one firmware", _show).add_argument("id")
    content = actions.add("content", "fetch the bytes, checked against the MD5", _content)
    content.add_argument("id")
    content.add_argument("--output", "-o", type=Path, metavar="FILE", help="(stdout)")
    actions.add("delete", "delete a firmware that no batch in progress uses", _delete).add_argument("id")
    signing.register(actions)


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    query = {"product": arguments.product, "q": arguments.q}
    output.write_items(gateway.items(api.path("firmware"), query), COLUMNS, as_json=arguments.json)
    return Exit.OK


def _add(gateway: api.Api, arguments: argparse.Namespace) -> int:
    """The MD5 goes ahead of the bytes (Content-MD5, RFC 1864): the gateway refuses what arrives otherwise."""
    from otagate.cli import output

    names = ("product", "name", "version", "description")
    query = {name: getattr(arguments, name) for name in names}
    query["file_name"] = arguments.file_name or arguments.file.name
    if arguments.signature is not None:
        signing.add_signature(query, arguments.signature)
    missing = [f"--{name}" for name in ("product", "name", "version") if query[name] is None]
    if missing:
        raise CommandError(f"missing {', '.join(missing)}, or --signature, which names them", Exit.USAGE)
    try:
        with arguments.file.open("rb") as file, output.transfer_progress() as progress:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.file_digest(file, "md5").digest()
            file.seek(0)
            headers = {
                "content-length": str(size),
                "content-md5": base64.b64encode(digest).decode(),
                "content-type": "application/octet-stream",
            }
            pieces = _pieces(file, size, progress)
            firmware = gateway.send(api.path("firmware"), pieces, query=query, headers=headers)
    except OSError as error:
        raise CommandError(f"cannot read {arguments.file}: {error.strerror}", Exit.USAGE) from error
    output.write_record(firmware, as_json=arguments.json)
    return Exit.OK


def _pieces(file: BinaryIO, size: int, progress: Any) -> Iterator[bytes]:
    task = progress.add_task("sending", total=size)
    while piece := file.read(PIECE_BYTES):
        yield piece
        progress.advance(task, len(piece))


def _show(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_record(gateway.get(api.path("firmware", arguments.id)), as_json=arguments.json)
    return Exit.OK


def _content(gateway: api.Api, arguments: argparse.Namespace) -> int:
    """To a file by way of FILE.part, so that FILE is whole or not there."""
    firmware = gateway.get(api.path("firmware", arguments.id))
    output: Path | None = arguments.output
    if output is None:
        _fetch(gateway, firmware, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return Exit.OK
    try:
        if output.exists() and not output.is_file():  # a device or a pipe, which a file must not replace
            with output.open("wb") as file:
                _fetch(gateway, firmware, file)
        else:
            _fetch_whole(gateway, firmware, Path(os.path.realpath(output)))
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror}") from error
    return Exit.OK


def _fetch_whole(gateway: api.Api, firmware: dict[str, Any], path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            _fetch(gateway, firmware, file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _fetch(gateway: api.Api, firmware: dict[str, Any], file: BinaryIO) -> None:
    from otagate.cli import output

    digest = hashlib.md5(usedforsecurity=False)
    target = api.path("firmware", firmware["id"], "content")
    with output.transfer_progress() as progress, gateway.exchange("GET", target) as response:
        task = progress.add_task("receiving", total=firmware["size"])
        for piece in response.iter_raw():
            digest.update(piece)
            file.write(piece)
            progress.advance(task, len(piece))
    if digest.hexdigest() != firmware["md5"]:
        raise CommandError(f"what arrived does not match the MD5 {firmware['md5']}")


def _delete(gateway: api.Api, arguments: argparse.Namespace) -> int:
    gateway.call("DELETE", api.path("firmware", arguments.id))
    return Exit.OK
