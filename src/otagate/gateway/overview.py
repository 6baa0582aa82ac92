"""What the gateway does now, in a few numbers, and the last ten minutes of them (in memory only)."""

from collections import deque
from typing import TYPE_CHECKING

import otagate
from otagate import limits
from otagate.gateway.views import OverviewEvent, OverviewHistory, OverviewView
from otagate.times import rfc3339

if TYPE_CHECKING:
    from otagate.gateway.server import Gateway


class Overview:
    """One per gateway; `sample` is called once a second."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._started_ms = self._sampled_ms = gateway.clock.now_ms()
        self._next_ms = self._started_ms + limits.overview_interval_ms
        self._samples: deque[tuple[int, int, int]] = deque(maxlen=limits.overview_samples_max)
        self._logins = 0
        self._pushes = 0

    @property
    def uptime_s(self) -> float:
        """Since the start."""
        return (self._gateway.clock.now_ms() - self._started_ms) / 1000

    def sample(self, now_ms: int) -> None:
        """Take a sample if its time has come."""
        if now_ms < self._next_ms:
            return
        # a sample that came late moves those behind it: an interval is never shorter than it says
        self._next_ms = now_ms + limits.overview_interval_ms
        self._sampled_ms = now_ms
        gateway = self._gateway
        logins, pushes = gateway.sessions.logins, gateway.counters.pushes
        self._samples.append((len(gateway.presence), logins - self._logins, pushes - self._pushes))
        self._logins, self._pushes = logins, pushes

    def event(self) -> OverviewEvent:
        """The numbers of this moment."""
        gateway = self._gateway
        plane = gateway.plane.statistics()
        return OverviewEvent(
            at=rfc3339(gateway.clock.now_ms()) or "",
            devices_online=len(gateway.presence),
            logins_total=gateway.sessions.logins,
            pushes_total=gateway.counters.pushes,
            transitions_total=gateway.counters.transitions_total,
            bytes_streamed_total=plane["bytes_streamed"],
            transfers_running=plane["transfers_running"],
            commits_total=gateway.journal.commits,
        )

    async def view(self) -> OverviewView:
        """All of it."""
        gateway = self._gateway
        devices = 0
        for product in await gateway.store.list_products():
            devices += await gateway.store.count_devices(product.key)
        now = self.event()
        batches = gateway.upgrades.batches.values()
        return OverviewView(
            devices_online=now.devices_online,
            devices_total=devices,
            batches_in_progress=sum(not batch.ended for batch in batches),
            logins_total=now.logins_total,
            pushes_total=now.pushes_total,
            transitions_total=now.transitions_total,
            bytes_streamed_total=now.bytes_streamed_total,
            transfers_running=now.transfers_running,
            version=otagate.__version__,
            started_at=rfc3339(self._started_ms) or "",
            history=OverviewHistory(
                interval_s=limits.overview_interval_ms // 1000,
                at=rfc3339(self._sampled_ms) or "",
                devices_online=[online for online, _, _ in self._samples],
                logins=[logins for _, logins, _ in self._samples],
                pushes=[pushes for _, _, pushes in self._samples],
            ),
        )
