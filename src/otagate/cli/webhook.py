"""`otagate webhook …`: who is told when something happens."""

import argparse
import sys
from typing import TYPE_CHECKING

from otagate.cli import api
from otagate.cli.exits import Exit
from otagate.cli.grammar import Actions

if TYPE_CHECKING:
    from otagate.cli.output import Column

COLUMNS: "list[Column]" = [
    ("id", "id"),
    ("URL", "url"),
    ("events", lambda item: ", ".join(item.get("events", ()))),
    ("pending", "pending"),
    ("dropped", "dropped"),
    ("created", "created_at"),
]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `webhook`."""
    actions = Actions(commands, "webhook", "who is told when something happens")
    actions.add("list", "all webhooks", _list)
    add = actions.add("add", "subscribe a URL to events; the secret is shown this once", _add)
    add.add_argument("receiver", metavar="URL")
    add.add_argument(
        "--event",
        action="append",
        required=True,
        dest="events",
        help="batch_ended, device_failed or batch_stalled; again for more",
    )
    actions.add("delete", "delete a webhook, and what waits for it", _delete).add_argument("id")
    actions.add("test", "send a webhook something now", _test).add_argument("id")


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_items(gateway.items(api.path("webhooks")), COLUMNS, as_json=arguments.json)
    return Exit.OK


def _add(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    body = {"url": arguments.receiver, "events": arguments.events}
    output.write_record(gateway.call("POST", api.path("webhooks"), body=body), as_json=arguments.json)
    return Exit.OK


def _delete(gateway: api.Api, arguments: argparse.Namespace) -> int:
    gateway.call("DELETE", api.path("webhooks", arguments.id))
    return Exit.OK


def _test(gateway: api.Api, arguments: argparse.Namespace) -> int:
    """Exit code 1 unless it was delivered."""
    from otagate.cli import output

    result = gateway.call("POST", api.path("webhooks", arguments.id, "test"))
    if arguments.json:
        output.write_json(result)
    elif result["delivered"]:
        print(f"delivered: answered {result['status']}")
    else:
        print(f"not delivered: {result['error'] or 'answered ' + str(result['status'])}", file=sys.stderr)
    return Exit.OK if result["delivered"] else Exit.FAILED
