"""Commands that work on a data folder itself, beside a gateway or without one: how they are told which."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from otagate.cli import serve

if TYPE_CHECKING:
    from otagate.config import Data


def add_options(parser: argparse.ArgumentParser) -> None:
    """The folder, by a flag or in a configuration."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="configuration in TOML")
    parser.add_argument("--data", metavar="DIR", help="the data folder (./otagate-data)")


def data_of(arguments: argparse.Namespace) -> "Data":
    """The section [data] that they mean. ConfigurationError."""
    from otagate import config

    flags = {serve.FLAGS["data"]: arguments.data}
    return config.load(arguments.config, os.environ, flags).data
