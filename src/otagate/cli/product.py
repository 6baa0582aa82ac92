"""`otagate product …`: kinds of devices."""

import argparse
from typing import TYPE_CHECKING

from otagate.cli import api
from otagate.cli.exits import Exit
from otagate.cli.grammar import Actions

if TYPE_CHECKING:
    from otagate.cli.output import Column

COLUMNS: "list[Column]" = [("key", "key"), ("name", "name"), ("auth", "auth"), ("created", "created_at")]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `product`."""
    actions = Actions(commands, "product", "kinds of devices")
    actions.add("list", "all products", _list)
    add = actions.add("add", "make a product", _add)
    add.add_argument("key")
    add.add_argument("name")
    add.add_argument("--auth", help="secret, certificate or both (secret)")
    actions.add("show", "one product", _show).add_argument("key")
    actions.add("delete", "delete a product that has no devices and no firmware", _delete).add_argument("key")


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_items(gateway.items(api.path("products")), COLUMNS, as_json=arguments.json)
    return Exit.OK


def _add(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    body = {"key": arguments.key, "name": arguments.name}
    if arguments.auth is not None:
        body["auth"] = arguments.auth
    product = gateway.call("POST", api.path("products"), body=body)
    output.write_record(product, as_json=arguments.json)
    return Exit.OK


def _show(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_record(gateway.get(api.path("products", arguments.key)), as_json=arguments.json)
    return Exit.OK


def _delete(gateway: api.Api, arguments: argparse.Namespace) -> int:
    gateway.call("DELETE", api.path("products", arguments.key))
    return Exit.OK
