"""Whether the gateway does its work: what /livez, /readyz, the service manager's watchdog and metrics ask.

Live means that the pump turns: devices are read. A process that is not live should be killed. Ready means
that devices and operators should be sent here. There is no probe that writes: a commit that fails ends the
process, so what remains to be seen is one that does not end, and a disk or a map that is about to be full.

A disk below `disk_free_min` is no reason to send devices away: it refuses uploads and new batches alone, and
its metrics tell of it in time. Below the size of the reserve even commits are about to fail.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from otagate import limits
from otagate.gateway.notify import Notifier
from otagate.gateway.views import CheckView

if TYPE_CHECKING:
    from otagate.gateway.server import Gateway

STALL_S = limits.health_stall_ms / 1000


class Health:
    """One per gateway; the pump calls `turned` once a turn."""

    def __init__(self, gateway: "Gateway", notifier: Notifier) -> None:
        self._gateway = gateway
        self._notifier = notifier
        self._turned_s: float | None = None

    def turned(self, now_s: float) -> None:
        """The pump has made a turn."""
        self._turned_s = now_s
        self._notifier.alive(now_s)

    def live(self) -> list[CheckView]:
        """Why the process should be killed, if it should."""
        return [self._pump()]

    def ready(self) -> list[CheckView]:
        """Why nobody should be sent here, if so."""
        return [self._accepting(), self._pump(), self._store(), self.map_left(), self._disk()]

    def _accepting(self) -> CheckView:
        gateway = self._gateway
        if gateway.draining:
            return _bad("listeners", "the gateway is stopping")
        if not gateway.listening:
            return _bad("listeners", "the listeners are not open yet")
        return _good("listeners")

    def _pump(self) -> CheckView:
        since_s = 0.0 if self._turned_s is None else trio.current_time() - self._turned_s
        if since_s > STALL_S:
            return _bad("pump", f"devices have not been read for {since_s:.0f} s")
        return _good("pump")

    def _store(self) -> CheckView:
        under_way_s = self._gateway.journal.commit_under_way_s
        if under_way_s > STALL_S:
            return _bad("store", f"a commit has been under way for {under_way_s:.0f} s")
        return _good("store")

    def map_left(self) -> CheckView:
        """Whether the store's map has room for more than what goes on."""
        sizes = self._gateway.store.sizes()
        left = sizes.map_bytes - sizes.used_bytes
        if left < limits.map_left_bytes_min:
            return _bad("map", f"the store's map has {left} bytes left: raise data.map_bytes and start again")
        return _good("map")

    def _disk(self) -> CheckView:
        free = disk_free_bytes(self._gateway.configuration.data.dir)
        if free is not None and free < limits.reserve_file_bytes:
            return _bad("disk", f"the disk of the data folder has {free} bytes left")
        return _good("disk")


def disk_free_bytes(folder: Path) -> int | None:
    """What is free on the disk of a folder; None if there is no such folder."""
    try:
        status = os.statvfs(folder)
    except FileNotFoundError:
        return None
    return status.f_bavail * status.f_frsize


def _good(name: str) -> CheckView:
    return CheckView(name, True, "")


def _bad(name: str, message: str) -> CheckView:
    return CheckView(name, False, message)
