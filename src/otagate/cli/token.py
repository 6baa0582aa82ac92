"""`otagate token …`: who may do what."""

import argparse
from typing import TYPE_CHECKING

from otagate.cli import api
from otagate.cli.exits import Exit
from otagate.cli.grammar import Actions, whole_number

if TYPE_CHECKING:
    from otagate.cli.output import Column

COLUMNS: "list[Column]" = [
    ("id", "id"),
    ("name", "name"),
    ("role", "role"),
    ("created", "created_at"),
    ("expires", "expires_at"),
    ("last used", "last_used_at"),
    ("revoked", "revoked_at"),
]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `token`."""
    actions = Actions(commands, "token", "who may do what")
    actions.add("list", "all tokens, the revoked ones too", _list)
    add = actions.add("add", "make a token; its text is shown this once", _add)
    add.add_argument("name")
    add.add_argument("--role", required=True, help="viewer, operator or admin")
    add.add_argument("--expires-in-days", type=whole_number, metavar="N", help="(never)")
    actions.add("revoke", "revoke a token, at once", _revoke).add_argument("id")


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_items(gateway.items(api.path("tokens")), COLUMNS, as_json=arguments.json)
    return Exit.OK


def _add(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    body = {"name": arguments.name, "role": arguments.role}
    if arguments.expires_in_days is not None:
        body["expires_in_days"] = arguments.expires_in_days
    output.write_record(gateway.call("POST", api.path("tokens"), body=body), as_json=arguments.json)
    return Exit.OK


def _revoke(gateway: api.Api, arguments: argparse.Namespace) -> int:
    gateway.call("DELETE", api.path("tokens", arguments.id))
    return Exit.OK
