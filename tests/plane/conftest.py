"""Fixtures of the plane's tests."""

from pathlib import Path

import pytest

from otagate.cli import certs as commands

from .rig import make_rig, rig
from .tls import make_tls

__all__ = ["make_rig", "make_tls", "rig"]

DEVICES = ("lamp/d0", "lamp/d1")


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `otagate certs dev`, with certificates of DEVICES."""
    folder = tmp_path_factory.mktemp("certs")
    assert list(commands.make(folder, devices=DEVICES))
    return folder
