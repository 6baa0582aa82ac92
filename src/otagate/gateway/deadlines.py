"""Everything that happens because time passed: acknowledgements, time-outs, validity, and the sweep.

There is no timer per device. Each roster keeps the clocks of its members and the earliest of them; `tick`
is called by the pump when that moment comes, after the devices' reports of the same instant were heard,
and works in the order: time-outs, validity, pushes.

Which clock: acknowledgements, retries and time-outs go by the gateway's clock, which no step of the wall
clock moves; validity goes by the wall clock (gateway/clock.py). That clock goes on while the machine
sleeps. So after a sleep, as after a restart, what fell due while nobody could report waits for the grace.
"""

from collections.abc import Callable

from otagate import limits, logs
from otagate.errors import RequestError
from otagate.gateway.dispatch import Dispatch
from otagate.gateway.in_progress import BatchInProgress
from otagate.gateway.upgrades import Upgrades
from otagate.store.interface import Outcome
from otagate.upgrade.events import AckTimeout, Event, UpgradeTimeout
from otagate.upgrade.model import State

log = logs.get("deadlines")

OVERDUE_MAX = 500  # time-outs decided in one tick of one batch: the rest is for the next tick, at once
TICK_MS_MIN = 20  # a tick scans the rosters: no more than 50 scans a second


class Deadlines:
    """`tick` when `next_ms` comes. `on_sweep` hooks run once a second.

    `grace_ms`: how long a time-out that fell due while the machine slept is held back.
    """

    def __init__(self, upgrades: Upgrades, dispatch: Dispatch, grace_ms: int) -> None:
        self._upgrades = upgrades
        self._dispatch = dispatch
        self._clock = upgrades.clock
        self._grace_ms = grace_ms
        self._next_sweep_ms = 0
        self._next_flush_ms = 0
        self._last_tick_ms = 0
        self.on_sweep: list[Callable[[int], None]] = []

    def start(self) -> None:
        """Work begins now: what fell due while nobody could see to it is not late."""
        self._last_tick_ms = self._clock.now_ms()

    def next_ms(self) -> int:
        """When `tick` wants to be called (UTC ms of the gateway's clock), at the latest."""
        next_ms = self._next_sweep_ms
        for batch in self._upgrades.batches.values():
            due_ms = batch.roster.next_due_ms
            if due_ms is not None and due_ms < next_ms and not batch.ended:
                next_ms = due_ms
            if not batch.ended:
                next_ms = min(next_ms, self._expires_ms(batch))
        return max(next_ms, self._last_tick_ms + TICK_MS_MIN)

    def overdue_ms(self) -> int:
        """By how much the earliest deadline of a batch is past; 0 when none is."""
        now_ms = self._clock.now_ms()
        earliest_ms = now_ms
        for batch in self._upgrades.batches.values():
            if not batch.ended:
                due_ms = batch.roster.next_due_ms
                earliest_ms = min(earliest_ms, self._expires_ms(batch), due_ms or now_ms)
        return now_ms - earliest_ms

    def _expires_ms(self, batch: BatchInProgress) -> int:
        """When its validity ends by the gateway's clock, as far as the wall clock is known."""
        return batch.record.expires_at_ms - self._clock.step_ms

    async def tick(self) -> None:
        """Do what is due now."""
        slept_ms = self._clock.observe_sleep()
        now_ms = self._clock.now_ms()
        if slept_ms:
            self._hold_back(slept_ms, now_ms)
        self._last_tick_ms = now_ms
        for batch in list(self._upgrades.batches.values()):
            if not batch.ended:
                # in a tick that comes late, no time-out may overtake the end of the validity before it
                late_ms = max(self._clock.validity_now_ms() - batch.record.expires_at_ms, 0)
                await self._time_out(batch, now_ms - late_ms)
        self._end_validity()
        self._dispatch.request()
        if now_ms >= self._next_sweep_ms:
            self._sweep(now_ms)

    def _hold_back(self, slept_ms: int, now_ms: int) -> None:
        """Devices report first: what they did meanwhile nobody could hear."""
        held = sum(
            batch.roster.hold_back(now_ms, now_ms + self._grace_ms)
            for batch in self._upgrades.batches.values()
        )
        log.warning("machine_slept", for_ms=slept_ms, held_back=held)

    async def _time_out(self, batch: BatchInProgress, now_ms: int) -> None:
        overdue = batch.roster.take_overdue(now_ms, OVERDUE_MAX)
        if not overdue:
            return
        number = batch.record.number
        rows = await self._upgrades.store.upgrades([(device, number) for device in overdue])
        for device, stored in zip(overdue, rows, strict=True):
            newest = self._upgrades.rows.get(device) or stored
            if newest is None or newest.batch != number:
                continue
            row = newest.row
            event: Event
            if row.state == State.PUSHED:
                event = AckTimeout(row.attempt)
            elif row.state == State.UPGRADING:
                event = UpgradeTimeout(row.attempt)
            else:
                continue
            after = self._upgrades.decide(newest, event)
            if after.state != row.state:
                log.limited("timed_out", device=device, batch=batch.record.id, state=row.state.label)
            self._upgrades.release(device)

    def _end_validity(self) -> None:
        now_ms = self._clock.validity_now_ms()
        for batch in list(self._upgrades.batches.values()):
            if batch.ended or batch.record.expires_at_ms > now_ms:
                continue
            batch_id = batch.record.id

            def done(outcome: Outcome, batch_id: str = batch_id) -> None:
                if not isinstance(outcome, RequestError):
                    log.info("batch_expired", batch=batch_id)

            self._upgrades.end_batch(batch.record.number, "expired", batch.record.expires_at_ms, done)

    def _sweep(self, now_ms: int) -> None:
        self._next_sweep_ms = now_ms + limits.sweep_interval_ms
        step_ms = self._clock.observe_step()
        if step_ms:
            log.warning("wall_clock_stepped", by_ms=step_ms, effect="moves only the validity of batches")
        if now_ms >= self._next_flush_ms:
            self._next_flush_ms = now_ms + limits.progress_flush_ms
            self._upgrades.flush_progress()
        for hook in self.on_sweep:
            hook(now_ms)
