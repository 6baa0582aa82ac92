"""The command line: one module per command, each with `register` (its arguments) and `run` (its work).

`run(arguments)` returns an exit code or raises CommandError; nobody else writes to stderr on failure, and
no traceback is shown for what is not a bug. Modules import what is heavy inside `run`, so that `--help`
and wrong command lines answer at once.
"""

import argparse
import io
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
    _open_output()
    try:
        code = _run(argv)
        sys.stdout.flush()
    except CommandError as error:
        _complain(str(error))
        return error.exit_code
    except ConfigurationError as error:
        _complain(str(error))
        return Exit.USAGE
    except UnicodeEncodeError as error:  # an argument of bytes that are no text, on its way to the gateway
        _complain(f"{error.object!r} is not UTF-8")
        return Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, a pager) has seen enough
        _drop_output()
        return Exit.OK
    except OSError as error:  # as a disk without room below our output
        _drop_output()
        _complain(str(error))
        return Exit.FAILED
    return code


def _run(argv: Sequence[str]) -> int:
    try:
        arguments = build_parser().parse_args(argv)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return int(arguments.run(arguments))


def _open_output() -> None:
    """There is an output, though it was closed before we began, and it takes every character somehow."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Python tries at exit to write what it has left, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(line: str) -> None:
    """On stderr; what others say in it, as a gateway that may be none, does not steer the terminal."""
    shown = "".join(char if char.isprintable() or char == "\n" else "�" for char in line)
    print(f"otagate: {shown}", file=sys.stderr)
