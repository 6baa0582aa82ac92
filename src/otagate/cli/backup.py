"""`otagate backup DIR` and `otagate restore DIR --data DATA`: copies of a data folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from otagate.cli import folder
from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import add_command
from otagate.errors import StoreError

if TYPE_CHECKING:
    from otagate.store.backup import Manifest


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of both."""
    parser = add_command(commands, "backup", "copy the data folder, also of a gateway that runs")
    parser.add_argument("target", type=Path, metavar="DIR", help="a folder that does not exist yet")
    folder.add_options(parser)
    parser.set_defaults(run=_back_up)
    parser = add_command(commands, "restore", "make a data folder of a backup")
    parser.add_argument("source", type=Path, metavar="DIR", help="a backup")
    folder.add_options(parser)
    parser.set_defaults(run=_restore)


def _back_up(arguments: argparse.Namespace) -> int:
    from otagate.store.backup import back_up

    try:
        made = back_up(folder.data_of(arguments).dir, arguments.target)
    except StoreError as error:
        raise CommandError(str(error)) from error
    print(f"{arguments.target}: {_said(made)}")
    return Exit.OK


def _restore(arguments: argparse.Namespace) -> int:
    from otagate.store.backup import restore

    data = folder.data_of(arguments)
    try:
        made = restore(arguments.source, data.dir, data.key_file)
    except StoreError as error:
        raise CommandError(str(error)) from error
    print(f"{data.dir}: {_said(made)}")
    key_file = data.dir / data.key_file
    if not key_file.exists():
        print(f"before the gateway starts, put the key file that belongs to it at {key_file}")
    return Exit.OK


def _said(manifest: "Manifest") -> str:
    images = "1 image" if manifest.images == 1 else f"{manifest.images} images"
    return f"the store as of {manifest.at or 'its beginning'}, {images} of {manifest.bytes} bytes; checked"
