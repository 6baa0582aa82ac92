"""`otagate key check | rotate`: the key under which secrets are sealed. They ask no gateway."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from otagate.cli import folder
from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import Actions
from otagate.errors import StoreError

if TYPE_CHECKING:
    from otagate.store.rekeying import Rotation


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `key`."""
    actions = Actions(commands, "key", "the key under which secrets are sealed")
    check = actions.add_offline("check", "does the key file open the store? Also beside the gateway", _check)
    folder.add_options(check)
    rotate = actions.add_offline("rotate", "seal all secrets under another key; stop the gateway", _rotate)
    rotate.add_argument("file", type=Path, metavar="FILE", help="the new key; made if it is missing")
    rotate.add_argument(
        "--lost",
        action="store_true",
        help="the old key is lost: drop the secrets that do not open, instead of refusing",
    )
    folder.add_options(rotate)


def _check(arguments: argparse.Namespace) -> int:
    from otagate.cli import output
    from otagate.store.rekeying import NAMED_MAX, check_key

    data = folder.data_of(arguments)
    key_file = data.dir / data.key_file
    try:
        found = check_key(data.dir, key_file)
    except StoreError as error:
        raise CommandError(str(error)) from error
    if found.damaged:
        names = ", ".join(found.damaged[:NAMED_MAX])
        more = ", …" if len(found.damaged) > NAMED_MAX else ""
        raise CommandError(
            f"{key_file} is the key of the store ({found.key}) and opens {found.secrets} secrets, but not "
            f"{len(found.damaged)}: they were changed in the store ({names}{more})"
        )
    shown = {"key_file": str(key_file), "key": found.key, "secrets": found.secrets}
    output.write_record(shown, as_json=arguments.json)
    return Exit.OK


def _rotate(arguments: argparse.Namespace) -> int:
    from otagate.cli import output
    from otagate.store.rekeying import rotate_key

    data = folder.data_of(arguments)
    key_file = data.dir / data.key_file
    try:
        made = rotate_key(data.dir, key_file, arguments.file, lost=arguments.lost, map_bytes=data.map_bytes)
    except StoreError as error:
        raise CommandError(str(error)) from error
    shown = {
        "key_file": str(arguments.file),
        "key": made.now,
        "was": made.was,
        "secrets": made.secrets,
        "devices_dropped": made.devices_dropped,
        "webhooks_dropped": made.webhooks_dropped,
    }
    output.write_record(shown, as_json=arguments.json)
    if not arguments.json:
        _advise(made, key_file, arguments.file)
    return Exit.OK


def _advise(made: "Rotation", key_file: Path, new_file: Path) -> None:
    """What is left to do."""
    if new_file.absolute() != key_file.absolute():
        print(f"before the gateway starts, put {new_file} at {key_file}, or name it (data.key_file)")
        print(f"backups from before the rotation need the old key ({made.was})")
    if made.devices_dropped:
        print("devices without a secret cannot log in: `otagate device rotate-secret` gives them another")
    if made.webhooks_dropped:
        print("webhooks without a secret are not told anything: delete them and add them anew")
