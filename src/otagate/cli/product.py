"""`otagate product …`: kinds of devices."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from otagate.cli import api, signing
from otagate.cli.exits import Exit
from otagate.cli.grammar import Actions

if TYPE_CHECKING:
    from otagate.cli.output import Column

COLUMNS: "list[Column]" = [
    ("key", "key"),
    ("name", "name"),
    ("auth", "auth"),
    ("signed only", "require_signature"),
    ("created", "created_at"),
]
KEY_COLUMNS: "list[Column]" = [
    ("id", "id"),
    ("name", "name"),
    ("created", "created_at"),
    ("revoked", "revoked_at"),
]


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
    require = actions.add("require-signature", "take only signed firmware, or any again", _require)
    require.add_argument("key")
    require.add_argument("answer", choices=("yes", "no"))
    actions.add("keys", "the keys that its firmware may be signed with", _keys).add_argument("key")
    add_key = actions.add("add-key", "add a public key that its firmware may be signed with", _add_key)
    add_key.add_argument("key")
    add_key.add_argument("file", type=Path, metavar="FILE", help="as `firmware keygen` writes FILE.pub")
    add_key.add_argument("--name", default="", help="for people")
    revoke = actions.add("revoke-key", "trust no signature of this key any more", _revoke_key)
    revoke.add_argument("key")
    revoke.add_argument("id", metavar="KEY_ID")


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


def _require(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    body = {"require_signature": arguments.answer == "yes"}
    product = gateway.call("PATCH", api.path("products", arguments.key), body=body)
    output.write_record(product, as_json=arguments.json)
    return Exit.OK


def _keys(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    keys = gateway.items(api.path("products", arguments.key, "signing-keys"))
    output.write_items(keys, KEY_COLUMNS, as_json=arguments.json)
    return Exit.OK


def _add_key(gateway: api.Api, arguments: argparse.Namespace) -> int:
    """The file is read strictly here already: a private key does not leave this machine."""
    from otagate.cli import output

    body = {"public_key": signing.read_public_key(arguments.file).pem(), "name": arguments.name}
    key = gateway.call("POST", api.path("products", arguments.key, "signing-keys"), body=body)
    output.write_record(key, as_json=arguments.json)
    return Exit.OK


def _revoke_key(gateway: api.Api, arguments: argparse.Namespace) -> int:
    gateway.call("DELETE", api.path("products", arguments.key, "signing-keys", arguments.id))
    return Exit.OK
