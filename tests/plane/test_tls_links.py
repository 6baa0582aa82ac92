"""What holds of frames, output, downloads and deadlines holds below TLS, too: the same tests once more."""
# ruff: noqa: F403

from collections.abc import Callable

import pytest

from .rig import Rig
from .test_deadlines import *
from .test_frames import *
from .test_output import *
from .test_transfers import *

del globals()["test_a_close_frame_is_answered"]  # below TLS the plane lingers after it: see test_tls


@pytest.fixture
def make_rig(make_tls: Callable[..., Rig]) -> Callable[..., Rig]:
    return make_tls


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()
