"""`otagate config show | check`: the configuration in force, and where each value came from."""

import argparse
import os
import sys

from otagate.cli import serve
from otagate.cli.exits import Exit
from otagate.cli.grammar import add_command


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `config`."""
    parser = add_command(commands, "config", "show or check the configuration")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, about in (
        ("show", "print every key, its value and where it came from"),
        ("check", "say nothing if all is well, certificates and keys too"),
    ):
        action = add_command(actions, name, about)
        serve.add_options(action)
        action.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """ConfigurationError, caught by main, names what is wrong."""
    from otagate import config
    from otagate.gateway import tls

    configuration = config.load(arguments.config, os.environ, serve.flags(arguments))
    if arguments.action == "show":
        sys.stdout.write(config.render(configuration))
    else:
        tls.check(configuration)
    return Exit.OK
