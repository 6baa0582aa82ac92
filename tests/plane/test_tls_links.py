"""What holds of frames, output, downloads and deadlines holds below TLS, too: the same tests once more."""
# ruff: noqa: F403

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .rig import Rig
from .test_deadlines import *
from .test_frames import *
from .test_output import *
from .test_transfers import *
from .tls import TlsRig

del globals()["test_a_close_frame_is_answered"]  # below TLS the plane lingers after it: see test_tls


@pytest.fixture
def make_rig(certs: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**bounds: object) -> Rig:
        rigs.append(TlsRig(certs, **bounds))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
