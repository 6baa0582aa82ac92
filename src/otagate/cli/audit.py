"""`otagate audit …`: what was done by whom, and whether the log is whole."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from otagate.cli import api
from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import Actions, whole_number

if TYPE_CHECKING:
    from otagate.cli.output import Column

COLUMNS: "list[Column]" = [
    ("number", "number"),
    ("at", "at"),
    ("actor", "actor"),
    ("role", "role"),
    ("address", "address"),
    ("action", "action"),
    ("target", "target"),
    ("details", lambda item: " ".join(f"{key}={value}" for key, value in item["details"].items())),
]
NDJSON = "application/x-ndjson"


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `audit`."""
    actions = Actions(commands, "audit", "what was done by whom")
    listing = actions.add("list", "entries, newest first", _list)
    listing.add_argument("--actor", help="the name of a token")
    listing.add_argument("--action", dest="of_action", help="such as batch.create")
    listing.add_argument("--limit", type=whole_number, metavar="N", help="the newest N (all)")
    export = actions.add("export", "all entries, oldest first, a JSON object a line", _export)
    export.add_argument("--output", "-o", type=Path, metavar="FILE", help="(stdout)")
    verify = actions.add("verify", "follow the chain: the gateway's, or that of an export", _verify)
    verify.add_argument("export", type=Path, nargs="?", metavar="FILE", help="an export; asks no gateway")


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    query = {"actor": arguments.actor, "action": arguments.of_action}
    items = gateway.items(api.path("audit"), query, arguments.limit)
    output.write_items(items, COLUMNS, as_json=arguments.json)
    return Exit.OK


def _export(gateway: api.Api, arguments: argparse.Namespace) -> int:
    if arguments.output is None:
        _fetch(gateway, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return Exit.OK
    try:
        with arguments.output.open("wb") as file:
            _fetch(gateway, file)
    except OSError as error:
        raise CommandError(f"cannot write {arguments.output}: {error.strerror}") from error
    return Exit.OK


def _fetch(gateway: api.Api, file: BinaryIO) -> None:
    with gateway.exchange("GET", api.path("audit"), headers={"accept": NDJSON}) as response:
        for piece in response.iter_raw():
            file.write(piece)


def _verify(gateway: api.Api, arguments: argparse.Namespace) -> int:
    """Exit code 1 when the chain is broken."""
    from otagate.cli import output

    found = (
        gateway.get(api.path("audit", "verify")) if arguments.export is None else _follow(arguments.export)
    )
    if arguments.json:
        output.write_json(found)
    elif found["intact"]:
        print(f"{found['entries']} entries, intact")
    else:
        print(f"broken at entry {found['first_broken']}", file=sys.stderr)
    return Exit.OK if found["intact"] else Exit.FAILED


def _follow(path: Path) -> api.Json:
    """What the gateway would say of an export; that its end was not cut off only the gateway knows."""
    import msgspec

    from otagate.store import audit

    previous, number = audit.FIRST_PREVIOUS, 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                fields = msgspec.json.decode(line, type=dict)
                hash = fields.pop("hash", None)
                value = audit.pack(fields)
                if audit.hash_of(value) != hash or not audit.is_intact(number, value, previous):
                    return {"entries": number, "intact": False, "first_broken": number}
                previous = hash
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", Exit.USAGE) from error
    except (msgspec.MsgspecError, KeyError) as error:
        raise CommandError(f"line {number} of {path} is no entry of an audit log", Exit.USAGE) from error
    return {"entries": number, "intact": True, "first_broken": None}
