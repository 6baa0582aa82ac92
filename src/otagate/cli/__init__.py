"""The command line: one module per command, each with `register` (its arguments) and `run` (its work).

`run(arguments)` returns an exit code or raises CommandError; nobody else writes to stderr on failure, and
no traceback is shown for what is not a bug. Modules import what is heavy inside `run`, so that `--help`
and wrong command lines answer at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from otagate import __version__
from otagate.cli import (
    audit,
    backup,
    batch,
    certs,
    config,
    demo,
    device,
    firmware,
    key,
    product,
    serve,
    simulate,
    token,
    webhook,
)
from otagate.cli.exits import EPILOG, CommandError, Exit
from otagate.cli.grammar import Parser
from otagate.errors import ConfigurationError

COMMANDS = (
    serve,
    demo,
    simulate,
    product,
    device,
    firmware,
    key,
    batch,
    token,
    audit,
    webhook,
    backup,
    certs,
    config,
)


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    parser = Parser(
        prog="otagate",
        description="A firmware-upgrade gateway.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"otagate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.register(commands)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    try:
        return int(arguments.run(arguments))
    except CommandError as error:
        _complain(str(error))
        return error.exit_code
    except ConfigurationError as error:
        _complain(str(error))
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (head, a pager) has seen enough; Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _complain(line: str) -> None:
    print(f"otagate: {line}", file=sys.stderr)
