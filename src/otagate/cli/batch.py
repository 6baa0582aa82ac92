"""`otagate batch …`: upgrade devices, see how it goes."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otagate.cli import api
from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import Actions, seconds, whole_number

if TYPE_CHECKING:
    from otagate.cli.output import Column

STATES = ("to_be_pushed", "pushed", "to_be_upgraded", "upgrading", "to_be_retried", "succeeded", "failed")

BATCH_COLUMNS: "list[Column]" = [
    ("batch", "id"),
    ("firmware", "firmware.name"),
    ("version", "firmware.version"),
    ("product", "product.key"),
    ("start", "created_at"),
    ("end", "ended_at"),
    ("total", "counts.total"),
    ("succeeded", "counts.succeeded"),
    ("failed", "counts.failed"),
    ("status", "status"),
]
DEVICE_COLUMNS: "list[Column]" = [
    ("name", "name"),
    ("identifier", "identifier"),
    ("connection", "connection"),
    ("completed", "completed_at"),
    ("version", "version"),
    ("state", "state"),
    ("retries", lambda row: f"{row['retries']['current']}/{row['retries']['maximum']}"),
    ("remark", lambda row: row["remark"] and ": ".join(filter(None, (row["remark"], row["detail"])))),
    ("progress", lambda row: row["stage"] and f"{row['stage']} {row['progress']} %"),
    ("waiting for", "waiting_for"),
]
TIMELINE_COLUMNS: "list[Column]" = [
    ("at", "at"),
    ("state", "state"),
    ("cause", "cause"),
    ("attempt", "attempt"),
    ("remark", "remark"),
]


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `batch`."""
    actions = Actions(commands, "batch", "batch upgrades")

    create = actions.add("create", "upgrade devices to a firmware", _create)
    create.add_argument("firmware", help="id of the firmware")
    create.add_argument(
        "--device", action="append", metavar="IDENTIFIER", help="directed: this one; may be repeated"
    )
    create.add_argument(
        "--devices", type=Path, metavar="FILE", help="directed: an identifier a line; - is stdin"
    )
    create.add_argument("--validity-days", type=whole_number, default=7, metavar="N", help="(7)")
    create.add_argument("--policy", default="standard", help="standard or silent (standard)")
    create.add_argument("--timeout-minutes", type=whole_number, default=60, metavar="N", help="(60)")
    create.add_argument("--retries", type=whole_number, default=0, metavar="N", help="(0)")
    create.add_argument(
        "--retry-interval-minutes", type=whole_number, metavar="N", help="required with retries"
    )
    create.add_argument(
        "--allow-rollback", action="store_true", help="also on versions that the signature does not name"
    )

    listing = actions.add("list", "batches, the newest first", _list)
    for name in ("firmware", "product", "status"):
        listing.add_argument(f"--{name}")

    actions.add("show", "one batch", _show).add_argument("batch")

    devices = actions.add("devices", "the devices of a batch", _devices)
    devices.add_argument("batch")
    devices.add_argument("--state", help=", ".join(STATES))
    devices.add_argument("--search", dest="q", metavar="TEXT")
    devices.add_argument("--limit", type=whole_number, metavar="N")
    devices.add_argument("--csv", action="store_true", help="the API's CSV")

    device = actions.add("device", "one device of a batch, with its timeline", _device)
    device.add_argument("batch")
    device.add_argument("identifier")

    actions.add("abort", "end a batch now", _abort).add_argument("batch")

    watch = actions.add("watch", "until it ends; exit code 1 unless all succeeded", _watch)
    watch.add_argument("batch")
    watch.add_argument("--interval", type=seconds, default=1.0, metavar="SECONDS", help="between looks (1)")


def _create(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    identifiers = list(_identifiers(arguments))
    directed = arguments.device is not None or arguments.devices is not None
    names = ("firmware", "validity_days", "policy", "timeout_minutes", "retries", "retry_interval_minutes")
    body: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    body = {name: value for name, value in body.items() if value is not None}
    if arguments.allow_rollback:
        body["allow_rollback"] = True
    body |= {"range": "directed", "devices": identifiers} if directed else {"range": "all"}
    output.write_record(gateway.call("POST", api.path("batches"), body=body), as_json=arguments.json)
    return Exit.OK


def _identifiers(arguments: argparse.Namespace) -> Iterator[str]:
    yield from arguments.device or ()
    if arguments.devices is not None:
        try:
            with sys.stdin.buffer if str(arguments.devices) == "-" else arguments.devices.open("rb") as file:
                text = file.read().decode("utf-8-sig")
        except OSError as error:
            raise CommandError(f"cannot read {arguments.devices}: {error.strerror}", Exit.USAGE) from error
        except UnicodeDecodeError as error:
            raise CommandError(f"{arguments.devices} is not UTF-8", Exit.USAGE) from error
        yield from filter(None, (line.strip() for line in text.split("\n")))


def _list(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    query = {name: getattr(arguments, name) for name in ("firmware", "product", "status")}
    output.write_items(gateway.items(api.path("batches"), query), BATCH_COLUMNS, as_json=arguments.json)
    return Exit.OK


def _show(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    output.write_record(gateway.get(api.path("batches", arguments.batch)), as_json=arguments.json)
    return Exit.OK


def _devices(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    target = api.path("batches", arguments.batch, "devices")
    query = {"state": arguments.state, "q": arguments.q}
    if arguments.csv:
        with gateway.exchange("GET", target, query=query, headers={"accept": "text/csv"}) as response:
            for piece in response.iter_bytes():
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    else:
        items = gateway.items(target, query, arguments.limit)
        output.write_items(items, DEVICE_COLUMNS, as_json=arguments.json)
    return Exit.OK


def _device(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    details = gateway.get(api.path("batches", arguments.batch, "devices", arguments.identifier))
    output.write_record(details, as_json=arguments.json)
    if not arguments.json:
        print()
        output.write_items(details["timeline"], TIMELINE_COLUMNS, as_json=False, total=False)
    return Exit.OK


def _abort(gateway: api.Api, arguments: argparse.Namespace) -> int:
    from otagate.cli import output

    batch = gateway.call("POST", api.path("batches", arguments.batch, "abort"))
    output.write_record(batch, as_json=arguments.json)
    return Exit.OK


def _watch(gateway: api.Api, arguments: argparse.Namespace) -> int:
    import time

    from otagate.cli import output
    from otagate.cli.watching import BatchProgress

    target = api.path("batches", arguments.batch)
    with BatchProgress() as progress:
        batch = gateway.get(target)
        while batch["status"] == "in_progress":
            progress.update(batch)
            time.sleep(arguments.interval)
            batch = gateway.get(target)
        progress.update(batch, last=True)
    output.write_record(batch, as_json=arguments.json)
    return Exit.OK if batch["counts"]["succeeded"] == batch["counts"]["total"] else Exit.FAILED
