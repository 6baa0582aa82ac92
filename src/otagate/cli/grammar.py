"""Commands that talk to the gateway: `otagate NOUN VERB …`, each verb a function of (Api, arguments)."""

import argparse
from collections.abc import Callable

from otagate.cli import api
from otagate.cli.exits import Exit

Action = Callable[[api.Api, argparse.Namespace], int]


class Actions:
    """The verbs of one noun."""

    def __init__(
        self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]", noun: str, about: str
    ) -> None:
        parser = commands.add_parser(noun, help=about)
        self._verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(self, verb: str, about: str, action: Action) -> argparse.ArgumentParser:
        """A verb; the caller adds its arguments."""
        parser = self._verbs.add_parser(verb, help=about, description=about)
        api.add_options(parser)

        def run(arguments: argparse.Namespace) -> int:
            with api.Api.of(arguments) as gateway:
                return int(action(gateway, arguments)) or Exit.OK

        parser.set_defaults(run=run)
        return parser

    def add_offline(
        self, verb: str, about: str, run: Callable[[argparse.Namespace], int]
    ) -> argparse.ArgumentParser:
        """A verb that asks no gateway."""
        parser = self._verbs.add_parser(verb, help=about, description=about)
        parser.add_argument("--json", action="store_true", help="machine-readable output")
        parser.set_defaults(run=run)
        return parser
