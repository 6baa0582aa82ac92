"""The world of one seed: its time, its gateway in one incarnation after another, and its end.

Time is Trio's, in whole milliseconds since the beginning. The wall clock runs with it, and is set now and
then. The world has one task, which performs what stands in its heap; the gateway has its own, and Trio runs
them in an order that the seed decides. A violation is raised where it is seen, and ends everything.
"""

import hashlib
import heapq
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from otagate import config
from otagate.gateway.clock import Clock
from otagate.gateway.deadlines import TICK_MS_MIN
from otagate.gateway.entries import Ending
from otagate.gateway.journal import Entry, Write
from otagate.gateway.server import Gateway
from otagate.gateway.service import Service
from otagate.store import tables
from otagate.store.check import check_invariants
from otagate.upgrade.model import BatchStatus
from tests.simulation.clock import VirtualClock
from tests.simulation.judge import ACKNOWLEDGE_MS, Judge
from tests.simulation.ledger import Ledger
from tests.simulation.operators import Operators
from tests.simulation.plan import DAY_MS, HOUR_MS, MINUTE_MS, Plan
from tests.simulation.plane import CHUNK_BYTES, SILENT_MS, SimulatedPlane
from tests.simulation.store import Killed, SimulatedStore

EPOCH_MS = 1_800_000_000_000
REST_MS = 1_100  # a sweep
WALL_SLACK_MS = 2_100  # the gateway follows steps of more than two seconds
UNKNOWN_MS = 1_500  # after a step of the wall clock it may not have seen it yet


class Violation(AssertionError):  # noqa: N818 - what happened, as in errors.py
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


class NoBlobs:
    """There are no bytes here."""

    def check_room(self) -> None:
        """There is."""

    async def unlink_if_unused(self, sha256: str) -> None:
        """There is none to unlink."""


class World:
    """See the module. `run` once."""

    def __init__(self, plan: Plan, clock: VirtualClock, write: Callable[[str], object] | None = None) -> None:
        self.plan = plan
        self._clock = clock
        self._write = write
        self._hash = hashlib.blake2b(digest_size=16)
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._order = 0
        self._last_conn = 0
        self._activity = 0
        self._chance = self.source("world")
        self.violation: Violation | None = None
        self.ledger = Ledger(self)
        self.judge = Judge(self)
        self.store = SimulatedStore(self)
        self.operators = Operators(self)
        from tests.simulation.devices import SimulatedDevice

        self.devices: dict[str, SimulatedDevice] = {}
        self.waiting: list[SimulatedDevice] = []
        self.killed = trio.Event()
        self.down = True
        self.closing = False
        self.gateway: Any = None
        self.service: Any = None
        self.nursery: trio.Nursery
        self._waited_for: list[Write | Ending] = []
        self._aimed = 0  # kills that wait for a delicate moment
        self._base_ms = 0
        self._wall_step_ms = 0
        self._wall_changed_ms = 0
        self.started_at_ms = 0  # of this incarnation, since the beginning
        self.started_ms = 0  # the same by the gateway's clock
        self.grace_ms = 0
        self.late_ms = WALL_SLACK_MS + 1_200
        self.restarts = 0
        self.wall_slack_ms = WALL_SLACK_MS

    # -- time ------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """Since the beginning."""
        return self._clock.now_ms

    @property
    def gateway_ms(self) -> int:
        """What the gateway's clock must say."""
        return self._base_ms + self.now_ms

    @property
    def wall_ms(self) -> int:
        """What the wall clock says."""
        return EPOCH_MS + self._wall_step_ms + self.now_ms

    @property
    def wall_is_known(self) -> bool:
        """Whether the gateway must have seen the last step of the wall clock."""
        return self.now_ms > max(self._wall_changed_ms, self.started_at_ms) + UNKNOWN_MS

    def wall_of(self, gateway_ms: int) -> int:
        """The wall clock at a time of the gateway's clock."""
        return gateway_ms - self.gateway_ms + self.wall_ms

    def at(self, at_ms: int, call: Callable[..., object], *arguments: Any) -> None:
        """Call something at a time."""
        self._order += 1
        heapq.heappush(self._heap, (at_ms, self._order, call, arguments))

    def active(self) -> None:
        """Something happens: this is no time of rest."""
        self._activity += 1

    # -- small things ----------------------------------------------------------------------------

    def source(self, name: str) -> random.Random:
        """A source of chance of its own."""
        return random.Random(f"{self.plan.seed} {name}")

    def next_conn(self) -> int:
        """A number for a connection; never used twice."""
        self._last_conn += 1
        return self._last_conn

    def numbers(self) -> list[int]:
        """All batches that the store has."""
        with self.store.view() as view:
            return [tables.u64_key.unpack(key)[0] for key, _ in tables.scan(view, tables.BATCHES, b"")]

    def trace(self, *facts: Any) -> None:
        """Something that must be the same in each run of a seed."""
        line = repr((self.now_ms, *facts))
        self._hash.update(line.encode())
        if self._write is not None:
            self._write(line)

    @property
    def digest(self) -> str:
        """Of the whole trace."""
        return self._hash.hexdigest()

    def violate(self, invariant: str, text: str) -> None:
        """An invariant does not hold: end."""
        violation = Violation(invariant, f"{text} (seed {self.plan.seed}, at {self.now_ms} ms)")
        if self.violation is None:
            self.violation = violation
        raise violation

    def welcomed(self, link: Any) -> None:
        """A device is logged in."""
        since_ms = link.device.secret_ms
        if link.device.deleted and since_ms is not None and self.now_ms - since_ms > 10_000:
            self.violate("login", f"{link.device.identifier} is deleted and welcome")

    def refused(self, link: Any) -> None:
        """A device was not let in."""
        since_ms = link.device.secret_ms
        if not link.device.deleted and since_ms is not None and self.now_ms - since_ms > 30_000:
            self.violate("login", f"{link.device.identifier} is refused with its right secret")

    # -- the gateway -----------------------------------------------------------------------------

    async def _serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One incarnation of the gateway, until it is stopped or killed."""
        self._stopped = trio.Event()
        self.killed = trio.Event()
        self.store.busy = False
        self._waited_for.clear()
        floor_ms = await self.store.newest_time_ms()
        self._base_ms = max(self.wall_ms, floor_ms) - self.now_ms
        self.started_at_ms, self.started_ms = self.now_ms, self.gateway_ms
        self.ledger.restarted()
        self.judge.restarted()
        configuration = config.Configuration(
            device=config.Device(
                pushes_max=self.plan.pushes_max,
                transfers_max=self.plan.transfers_max,
                chunk_bytes=CHUNK_BYTES,
            )
        )
        self.grace_ms = configuration.upgrade.restart_grace_s * 1000
        clock = Clock(floor_ms, wall_ms=lambda: self.wall_ms, elapsed_ms=lambda: self.now_ms)
        plane = SimulatedPlane(self)
        try:
            async with trio.open_nursery() as nursery:
                gateway: Any = Gateway(configuration, self.store, plane, clock, Path, nursery)  # type: ignore[arg-type]
                gateway.journal.submit = self._watch(self.ledger.watch(gateway.journal.submit))
                self.gateway = gateway
                self.service = Service(gateway, NoBlobs())  # type: ignore[arg-type]
                await gateway.take_up()
                nursery.start_soon(gateway.run, plane.wait_ready)
                self._scope = nursery.cancel_scope
                self.down = False
                self._clock.wake()
                self.active()
                self.trace("started", self.started_ms)
                waiting, self.waiting = self.waiting, []
                for device in waiting:
                    device.connect_in(self._chance.choice((0, self._chance.randint(0, MINUTE_MS))))
                task_status.started()
                await trio.sleep_forever()
        except* Killed:
            assert self.killed.is_set()
        finally:
            self._stopped.set()

    def _watch(self, submit: Callable[[Entry], None]) -> Callable[[Entry], None]:
        """Remember who waits for an answer: after a kill they must learn that there is none."""
        killed = self.killed

        def watched(entry: Entry) -> None:
            if killed.is_set():
                raise Killed("killed")
            if isinstance(entry, Write | Ending):
                self._waited_for.append(entry)
            submit(entry)

        return watched

    async def _restart(self, *, kill: bool, away_ms: int) -> None:
        """Stop the gateway one way or the other, and start it again."""
        if self.down:
            return
        self.restarts += 1
        plane = self.gateway.plane
        self.trace("killed" if kill else "stopping")
        if not kill:
            try:
                with trio.move_on_after(10):
                    await self.gateway.drain()
            except Killed:
                return  # killed while it was stopping
            if self.down or self.gateway.plane is not plane:
                return  # so it was, and whoever killed it starts it
        self.down = True
        self.killed.set()
        plane.die()
        for entry in self._waited_for:
            if isinstance(entry, Ending):
                entry.done(Killed("killed"))
            elif not entry._done.is_set():
                entry._outcome = Killed("killed")
                entry._done.set()
        self._scope.cancel()
        await self._stopped.wait()
        assert self.check_store() == []
        await trio.sleep(away_ms / 1000)
        await self.nursery.start(self._serve)
        await self.operators.check()

    def check_store(self) -> list[str]:
        """Every invariant of the store."""
        found = check_invariants(self.store)
        if found:
            self.violate("store", "; ".join(found))
        return found

    # -- the run ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """From the first product to an empty gateway. Raises Violation, maybe in a group."""
        async with trio.open_nursery() as self.nursery:
            await self.nursery.start(self._serve)
            await self.operators.set_up()
            self.operators.schedule()
            self._schedule_mishaps()
            while not self._finished():
                await self._turn()
            await self._end()
            self.nursery.cancel_scope.cancel()

    def _schedule_mishaps(self) -> None:
        plan, chance = self.plan, self._chance
        self._aimed = plan.restarts - plan.restarts // 2
        for _ in range(plan.restarts - self._aimed):
            self.at(chance.randint(10_000, plan.busy_ms), self._begin_restart, 0.5)
        for _ in range(plan.wall_steps):
            self.at(chance.randint(10_000, plan.busy_ms * 2), self._step_wall_clock)

    def aim(self, most_ms: int) -> None:
        """Something delicate has begun: a moment at which to be killed, if there is a kill left."""
        if self._aimed and self._chance.random() < 0.2:
            self._aimed -= 1
            self.at(self.now_ms + self._chance.randint(0, most_ms), self._begin_restart, 1.0)

    def _begin_restart(self, kills: float) -> None:
        chance = self._chance
        away_ms = chance.choice((0, 200, 20_000, 20 * MINUTE_MS, 10 * HOUR_MS))

        async def restart() -> None:
            await self._restart(kill=chance.random() < kills, away_ms=away_ms)

        self.nursery.start_soon(restart)

    def _step_wall_clock(self) -> None:
        chance = self._chance
        size_ms = chance.choice((5_000, 10 * MINUTE_MS, 5 * HOUR_MS, 2 * DAY_MS))
        self._wall_step_ms += chance.choice((-1, 1)) * size_ms
        self._wall_changed_ms = self.now_ms
        self.active()
        self.trace("wall clock", self._wall_step_ms)

    def _finished(self) -> bool:
        if self.now_ms > 30 * DAY_MS:
            self.violate("validity", "a batch is in progress after thirty days")
        if self.operators.left or self.down:
            return False
        return all(batch.status != BatchStatus.IN_PROGRESS for batch in self.ledger.batches.values())

    async def _turn(self) -> None:
        """On to the next thing, and perform it with all others of its moment."""
        due_ms = self._heap[0][0] if self._heap else self.now_ms + HOUR_MS
        if due_ms > self.now_ms:
            await self._wait(due_ms)
        else:
            await trio.lowlevel.checkpoint()
        now_ms = self.now_ms
        while self._heap and self._heap[0][0] <= now_ms:
            _, _, call, arguments = heapq.heappop(self._heap)
            call(*arguments)
        self.judge.look()

    async def _wait(self, due_ms: int) -> None:
        """Wait until then; what is quiet is leapt over."""
        if self.down or due_ms - self.now_ms <= REST_MS + 200:
            await self._clock.sleep_until(due_ms)
            return
        seen = self._activity
        await self._clock.sleep_until(self.now_ms + REST_MS)
        gateway = self.gateway
        busy = self.store.busy or gateway.journal._queue or gateway.upgrades._dirty
        if self._activity != seen or self.down or busy:
            return
        self.judge.rest()
        await self._look_at_waiting()
        if self._heap:
            due_ms = min(due_ms, self._heap[0][0])
        next_ms = min(due_ms, self._next_due_ms())
        if next_ms > self.now_ms + 1_000:
            self._clock.set(next_ms - 100)
            await trio.lowlevel.checkpoint()

    def _next_due_ms(self) -> int:
        due_ms = self.ledger.next_due_ms() - self._base_ms
        for link in self.judge.online.values():
            if (
                link.delivered_ms is not None
                and link.delivered_ms + ACKNOWLEDGE_MS >= self.now_ms - TICK_MS_MIN
            ):
                due_ms = min(due_ms, link.delivered_ms + ACKNOWLEDGE_MS)
        return due_ms

    async def _look_at_waiting(self) -> None:
        """Now and then, an operator looks at all devices of a batch; rarer, the whole store is checked."""
        chance = self._chance.random()
        if chance < 0.05:
            self.check_store()
        if chance > 0.2 or not self.ledger.batches:
            return
        number = self._chance.choice(list(self.ledger.batches))
        page = await self.service.list_upgrades(f"b{number}", state=None, q="", cursor=None, limit=1_000)
        members = await self.store.lookup_devices([(d.product, d.identifier) for d in self.devices.values()])
        names = {device.identifier: device.number for device in members if device is not None}
        if not self.down:
            self.judge.judge_waiting(number, page.items, names)

    async def _end(self) -> None:
        """Everybody goes; memory must be empty then, and the store whole."""
        self.closing = True
        for device in self.devices.values():
            device.leave()
        for link in list(self.gateway.plane.links.values()):
            self.gateway.plane.lose(link)
        end_ms = self.now_ms + SILENT_MS + 2 * MINUTE_MS
        self.at(end_ms, self.trace, "end")
        while self.now_ms < end_ms or self.down:
            await self._turn()
        self.judge.rest()
        gateway = self.gateway
        left = {
            "presence": len(gateway.presence),
            "batches": list(gateway.upgrades.batches),
            "images": list(gateway.transfers._images),
            "last seen": list(gateway.sessions.last_seen),
            "links": list(gateway.plane.links),
        }
        for name, value in left.items():
            if value:
                self.violate("leaks", f"{name} is {value} after everybody has gone")
        with self.store.view() as view:
            if list(tables.scan(view, tables.UNFINISHED, b"")):
                self.violate("leaks", "there are unfinished batches after everybody has gone")
        self.check_store()
        await self.operators.check()
