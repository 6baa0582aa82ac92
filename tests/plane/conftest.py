"""Fixtures of the plane's tests: `rig` (a plane with defaults) and `make_rig` (with other bounds)."""

from tests.plane.rig import make_rig, rig

__all__ = ["make_rig", "rig"]
