"""What command lines are made of.

Commands that talk to the gateway are `otagate NOUN VERB …`, each verb a function of (Api, arguments). Numbers
are read by a `quantity`, which says in words what it wants.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from otagate.cli import api
from otagate.cli.exits import Exit

Action = Callable[[api.Api, argparse.Namespace], int]
Value = TypeVar("Value")


class Parser(argparse.ArgumentParser):
    """A command that shows its own usage, not that of all, when it does not know an argument."""

    def parse_known_args(  # type: ignore[override]  # argparse's has overloads for namespaces of other types
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def quantity(what: str, read: Callable[[str], Value]) -> Callable[[str], Value]:
    """A `type` of arguments: `read` gives the value or raises ValueError, then the text "is not WHAT"."""

    def value(text: str) -> Value:
        try:
            return read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None

    return value


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


whole_number = quantity("a whole number", int)
count = quantity("a whole number of at least 1", _at_least_one)
seconds = quantity("a number of seconds", _seconds)


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, about: str
) -> argparse.ArgumentParser:
    """A command whose own help says, too, what it is about."""
    return commands.add_parser(name, help=about, description=about)


class Actions:
    """The verbs of one noun."""

    def __init__(
        self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]", noun: str, about: str
    ) -> None:
        parser = add_command(commands, noun, about)
        self._verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(self, verb: str, about: str, action: Action) -> argparse.ArgumentParser:
        """A verb; the caller adds its arguments."""
        parser = add_command(self._verbs, verb, about)
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
        parser = add_command(self._verbs, verb, about)
        parser.add_argument("--json", action="store_true", help="machine-readable output")
        parser.set_defaults(run=run)
        return parser
