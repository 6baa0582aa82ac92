"""`otagate serve`: the gateway."""

import argparse
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import add_command
from otagate.errors import ConfigurationError, OtagateError, StoreError

FLAGS = {"data": "data.dir", "device_listen": "device.listen", "admin_listen": "admin.listen"}
DISK_FAULTS = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The configuration: a file, and flags that win over it."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration in TOML")
    parser.add_argument("--data", metavar="DIR", help="folder of store, images and token (./otagate-data)")
    parser.add_argument("--device-listen", metavar="HOST:PORT", help="for devices (0.0.0.0:7700)")
    parser.add_argument("--admin-listen", metavar="HOST:PORT", help="for operators (127.0.0.1:7780)")


def flags(arguments: argparse.Namespace) -> dict[str, str | None]:
    """What the command line sets, by key."""
    return {key: getattr(arguments, name) for name, key in FLAGS.items()}


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `serve`."""
    parser = add_command(commands, "serve", "run the gateway")
    add_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Exit codes: see exits."""
    import trio

    from otagate import config, logs
    from otagate.admin.server import serve as serve_admin
    from otagate.gateway.server import serve

    configuration = config.load(arguments.config, os.environ, flags(arguments))
    logs.configure(configuration.log.level, configuration.log.format)
    try:
        trio.run(serve, configuration, serve_admin)
    except (OtagateError, OSError, BaseExceptionGroup) as error:
        causes = [_of_the_disk(cause) for cause in _leaves(error)]
        if not all(isinstance(cause, OtagateError) for cause in causes):
            raise  # a bug: its traceback is wanted
        code = Exit.USAGE if isinstance(causes[0], ConfigurationError) else Exit.FAILED
        raise CommandError("; ".join(dict.fromkeys(str(cause) for cause in causes)), code) from None
    return Exit.OK


def _of_the_disk(cause: BaseException) -> BaseException:
    """A disk that fails, or is full, is no bug: told in a sentence wherever it was met."""
    if isinstance(cause, OSError) and cause.errno in DISK_FAULTS:
        where = f" at {cause.filename}" if cause.filename else ""
        return StoreError(f"the disk of the data folder failed{where}: {cause.strerror}")
    return cause


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
