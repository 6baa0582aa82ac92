"""`otagate device …`: register devices, find them, rotate their secrets."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from otagate.cli import api
from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import Actions, whole_number

if TYPE_CHECKING:
    from otagate.cli.output import Column

PIECE_BYTES = 64 * 1024
MEDIA_TYPES = {"ndjson": "application/x-ndjson", "csv": "text/csv"}

COLUMNS: "list[Column]" = [
    ("identifier", "identifier"),
    ("name", "name"),
    ("version", "version"),
    ("active", "active"),
    ("connection", "connection"),
    ("last seen", "last_seen"),
]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `device`."""
    actions = Actions(commands, "device", "devices of a product")

    listing = actions.add("list", "devices", _list)
    listing.add_argument("product")
    listing.add_argument("--search", dest="q", metavar="TEXT")
    listing.add_argument("--version", help="that they last reported")
    listing.add_argument("--active", choices=("true", "false"), help="have they ever logged in")
    listing.add_argument("--connection", help="online or offline")
    listing.add_argument(
        "--eligible-for", metavar="FIRMWARE", help="that a batch of this firmware would take"
    )
    listing.add_argument(
        "--allow-rollback",
        action="store_const",
        const=True,
        help="with --eligible-for: of a batch that allows rollback",
    )
    listing.add_argument("--limit", type=whole_number, metavar="N")

    add = actions.add("add", "register one device; its secret is shown once", _add)
    _name_device(add)
    add.add_argument("--name")
    add.add_argument("--secret", help="16-128 printable ASCII characters (default: generated)")

    bulk = actions.add(
        "register",
        "register many from a file: identifier, name, secret. Prints a JSON result for each, with its secret",
        _register,
    )
    bulk.add_argument("product")
    bulk.add_argument("file", type=Path, help="NDJSON or CSV with a header; - is stdin")
    bulk.add_argument("--format", choices=tuple(MEDIA_TYPES), help="(by the file's name; ndjson)")

    _name_device(actions.add("show", "one device", _show))
    rename = actions.add("rename", "give a device another name", _rename)
    _name_device(rename)
    rename.add_argument("name")
    _name_device(actions.add("delete", "delete a device without an open upgrade", _delete))
    _name_device(actions.add("rotate-secret", "a new secret, shown once; ends the live session", _rotate))


def _name_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("product")
    parser.add_argument("identifier")


def _path(arguments: argparse.Namespace, *more: str) -> str:
    return api.path("products", arguments.product, "devices", arguments.identifier, *more)


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    names = ("q", "version", "active", "connection", "eligible_for", "allow_rollback")
    query = {name: getattr(arguments, name) for name in names}
    devices = gateway.items(api.path("products", arguments.product, "devices"), query, arguments.limit)
    output.write_items(devices, COLUMNS, as_json=arguments.json)
    return Exit.OK


def _add(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    body: dict[str, Any] = {name: getattr(arguments, name) for name in ("identifier", "name", "secret")}
    body = {name: value for name, value in body.items() if value is not None}
    device = gateway.call("POST", api.path("products", arguments.product, "devices"), body=body)
    output.write_record(device, as_json=arguments.json)
    return Exit.OK


def _register(gateway: api.Api, arguments: argparse.Namespace) -> int:
    """Streams both ways; the results are for keeping, so they are JSON for people too."""
    from otagate.cli import output

    form = arguments.format or ("csv" if arguments.file.suffix.lower() == ".csv" else "ndjson")
    registered = failed = 0
    with (
        _open(arguments.file) as source,
        output.transfer_progress() as progress,
        gateway.exchange(
            "POST",
            api.path("products", arguments.product, "devices"),
            pieces=_pieces(source, progress),
            headers={"content-type": MEDIA_TYPES[form]},
        ) as response,
    ):
        for line in response.iter_lines():
            if line:
                sys.stdout.write(line + "\n")
                if "error" in msgspec.json.decode(line):
                    failed += 1
                else:
                    registered += 1
    sys.stdout.flush()
    print(f"{registered} registered, {failed} refused", file=sys.stderr)
    return Exit.FAILED if failed else Exit.OK


def _open(path: Path) -> BinaryIO:
    if str(path) == "-":
        return sys.stdin.buffer
    try:
        return path.open("rb")
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error


def _pieces(source: BinaryIO, progress: Any) -> Iterator[bytes]:
    task = progress.add_task("sending", total=None)
    while piece := source.read(PIECE_BYTES):
        yield piece
        progress.advance(task, len(piece))


def _show(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_record(gateway.get(_path(arguments)), as_json=arguments.json)
    return Exit.OK


def _rename(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    device = gateway.call("PATCH", _path(arguments), body={"name": arguments.name})
    output.write_record(device, as_json=arguments.json)
    return Exit.OK


def _delete(gateway: api.Api, arguments: argparse.Namespace) -> int:
    gateway.call("DELETE", _path(arguments))
    return Exit.OK


def _rotate(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_record(gateway.call("POST", _path(arguments, "secret")), as_json=arguments.json)
    return Exit.OK
