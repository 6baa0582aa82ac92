"""Memory and LMDB, side by side: the same changes have the same outcomes, and read the same."""

import tempfile
from pathlib import Path
from typing import Any

import trio
from builders import SECRET, T0, begin, firmware, product, row
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from otagate import limits
from otagate.errors import RequestError
from otagate.store.check import check_invariants, check_progress, moments
from otagate.store.engine import Engine
from otagate.store.interface import (
    Change,
    ClaimDevices,
    DeleteDevice,
    DeleteFirmware,
    DeleteProduct,
    EndBatch,
    NewDevice,
    OpenBatch,
    PutSetting,
    RegisterDevices,
    RenameDevice,
    ReportVersion,
    RewriteSlice,
    RotateSecret,
    TouchDevices,
    Transition,
    UndoBatch,
)
from otagate.store.lmdb import open_store
from otagate.store.memory import MemoryStore
from otagate.store.operators import (
    AddToken,
    AddWebhook,
    Audited,
    AuditNote,
    ClearOutbox,
    DeleteWebhook,
    FinishDeliveries,
    Keep,
    RevokeToken,
    SweepAnswers,
    TellStalled,
)
from otagate.store.telling import EVENTS
from otagate.upgrade.model import ENDED_STATES, BatchStatus, State

PRODUCTS = ("lamp", "fan")
NUMBERS = range(1, 13)
BATCHES = range(1, 6)
FIRMWARE = tuple(f"f{number}" for number in range(1, 5))
VERSIONS = ("1.0", "2.0", "3.0")

products = st.sampled_from(PRODUCTS)
identifiers = st.sampled_from([f"d{place}" for place in range(8)])
numbers = st.sampled_from(NUMBERS)
batches = st.sampled_from(BATCHES)
times = st.integers(T0, T0 + 1000)

fleet_changes = st.one_of(
    st.builds(product, products, at_ms=times),
    st.builds(DeleteProduct, products),
    st.builds(
        RegisterDevices,
        products,
        st.lists(st.builds(NewDevice, identifiers, st.just("Name"), st.just(SECRET)), max_size=6),
        times,
    ),
    st.builds(RenameDevice, products, identifiers, st.sampled_from(["a", "灯"])),
    st.builds(RotateSecret, products, identifiers, st.just(b"t" * 16)),
    st.builds(DeleteDevice, products, identifiers),
    st.builds(ReportVersion, numbers, st.sampled_from(VERSIONS), times),
    st.builds(TouchDevices, st.lists(st.tuples(numbers, times), max_size=3)),
    st.builds(
        firmware,
        st.sampled_from(["spring", "autumn"]),
        st.sampled_from(VERSIONS),
        product=products,
        sha256=st.sampled_from(["ab" * 32, "cd" * 32]),
    ),
    st.builds(DeleteFirmware, st.sampled_from(FIRMWARE)),
    st.builds(PutSetting, st.just("token"), st.binary(max_size=4)),
)
batch_changes = st.one_of(
    st.builds(begin, st.sampled_from(FIRMWARE), at_ms=times),
    st.builds(OpenBatch, batches, times),
    st.builds(UndoBatch, batches),
    st.builds(EndBatch, batches, st.sampled_from(["aborted", "expired"]), times),
    st.builds(RewriteSlice, batches, st.integers(0, 3)),
)


def _audited(change: Change, key: int | None, at_ms: int) -> Audited:
    kept = None if key is None else Keep(bytes([key]) * 32, b"p" * 32, 201, lambda outcome: b"answer")
    note = AuditNote("target", {"key": key})
    return Audited(change, at_ms, "ann", "admin", "::1", "act", lambda outcome: note, kept)


names = st.sampled_from(["a", "b", "c"])
operators_changes = st.one_of(
    st.builds(
        AddToken,
        names,
        st.sampled_from(["viewer", "admin"]),
        st.binary(min_size=32, max_size=32),
        times,
        st.none() | times,
    ),
    st.builds(RevokeToken, st.sampled_from(["t1", "t2", "t3"]), times),
    st.builds(_audited, fleet_changes, st.none() | st.integers(0, 3), times),
    st.builds(SweepAnswers, times.map(lambda ms: ms + limits.kept_answer_ms)),
    st.builds(
        AddWebhook,
        st.just("http://h/"),
        st.sets(st.sampled_from(EVENTS), min_size=1).map(lambda events: tuple(sorted(events))),
        st.just(b"s"),
        times,
    ),
    st.builds(DeleteWebhook, st.sampled_from(["w1", "w2"])),
    st.builds(ClearOutbox),
    st.builds(FinishDeliveries, st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20)), max_size=5)),
    st.builds(TellStalled, batches, st.just(1000), st.just(1), times),
)


class Agreement(RuleBasedStateMachine):
    """One store of each engine in one process; Trio runs for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.memory = MemoryStore()
        self.durable = self.reopened()
        self.before = self.moments()
        self.commit([product("lamp"), firmware(), begin()])
        for key in PRODUCTS:
            devices = [NewDevice(f"d{place}", f"Name {place}", SECRET) for place in range(3)]
            self.commit([product(key), RegisterDevices(key, devices, T0)])
        self.commit([ReportVersion(number, "1.0", T0) for number in range(1, 7)])

    def reopened(self) -> Any:
        return open_store(Path(self.folder.name), map_bytes=16 * limits.MIB, reserve_bytes=4096)

    def moments(self) -> Any:
        with self.memory.view() as view:
            return moments(view)

    def commit(self, changes: list[Change]) -> list[Any]:
        async def both() -> tuple[list[Any], list[Any]]:
            return await self.memory.commit(changes), await self.durable.commit(changes)

        ours, theirs = trio.run(both)
        assert [_told(outcome) for outcome in ours] == [_told(outcome) for outcome in theirs]
        return ours

    @rule(changes=st.lists(fleet_changes, max_size=4))
    def change_the_fleet(self, changes: list[Change]) -> None:
        self.commit(changes)

    @rule(changes=st.lists(operators_changes, max_size=4))
    def change_what_operators_have(self, changes: list[Change]) -> None:
        self.commit(changes)

    @rule(changes=st.lists(batch_changes, max_size=3))
    def change_batches(self, changes: list[Change]) -> None:
        self.commit(changes)

    @rule(batch=batches, chosen=st.sets(numbers, min_size=1))
    def claim(self, batch: int, chosen: set[int]) -> None:
        with self.memory.view() as view:
            from otagate.store.snapshot import Snapshot

            members = list(Snapshot(view).members_after(batch, 0))
        above = sorted(number for number in chosen if not members or number > members[-1])
        if above:
            self.commit([ClaimDevices(batch, above, T0)])

    @rule(device=numbers, batch=batches, to=st.sampled_from(State), more=st.integers(0, 1), at_ms=times)
    def move_a_row(self, device: int, batch: int, to: State, more: int, at_ms: int) -> None:
        """As the rules may: never back, and an ended row stays."""
        (upgrade,) = trio.run(self.memory.upgrades, [(device, batch)])
        state, attempt = (upgrade.row.state, upgrade.row.attempt) if upgrade else (State.TO_BE_PUSHED, 0)
        if state in ENDED_STATES:
            to = state
        self.commit([Transition(device, batch, state, attempt, row(to, attempt + more, at_ms=at_ms))])

    @rule(device=numbers, batch=batches, state=st.sampled_from(State), attempt=st.integers(0, 2))
    def move_a_row_on_a_guess(self, device: int, batch: int, state: State, attempt: int) -> None:
        to = state if state in ENDED_STATES else State.FAILED
        self.commit([Transition(device, batch, state, attempt, row(to, attempt))])

    @rule()
    def restart(self) -> None:
        trio.run(self.durable.close)
        self.durable = self.reopened()

    @invariant()
    def they_read_the_same(self) -> None:
        assert trio.run(_reads, self.memory) == trio.run(_reads, self.durable)

    @invariant()
    def they_keep_their_promises(self) -> None:
        assert check_invariants(self.memory) == []
        assert check_invariants(self.durable) == []
        after = self.moments()
        assert check_progress(self.before, after) == []
        self.before = after

    def teardown(self) -> None:
        trio.run(self.durable.close)
        self.folder.cleanup()


def _told(outcome: Any) -> Any:
    """Errors compare by what they tell."""
    if isinstance(outcome, RequestError):
        return type(outcome), outcome.message, outcome.field
    return [_told(item) for item in outcome] if isinstance(outcome, list) else outcome


async def _reads(store: Engine) -> list[Any]:
    found: list[Any] = [
        await store.list_products(),
        await store.list_firmware(limit=50),
        await store.list_batches(limit=50),
        await store.list_batches(limit=2, status=BatchStatus.IN_PROGRESS),
        await store.unfinished_batches(),
        await store.images(),
        await store.newest_time_ms(),
        await store.get_setting("token"),
        await store.tokens(),
        await store.list_audit(limit=50),
        await store.check_audit(),
        [await store.kept_answer(bytes([key]) * 32) for key in range(4)],
        await store.webhooks(),
        [await store.deliveries(webhook, limit=100) for webhook in range(1, 5)],
        await store.devices_by_number(NUMBERS),
        await store.newest_upgrades(NUMBERS),
        await store.upgrades([(device, batch) for device in NUMBERS for batch in BATCHES]),
    ]
    for key in PRODUCTS:
        found += [await store.scan_devices(key, limit=5), await store.count_devices(key)]
        found.append(await store.lookup_devices([(key, f"d{place}") for place in range(8)]))
    for id in FIRMWARE:
        found += [await store.get_firmware(id), await store.eligible_numbers(id)]
        found += [await store.scan_eligible(id, limit=2, query="a")]
        found += [await store.list_batches(limit=50, firmware=id)]
        found += [await store.ineligible_reasons(id, [f"d{place}" for place in range(8)])]
    for batch in BATCHES:
        found += [await store.get_batch(f"b{batch}"), await store.scan_upgrades(batch, limit=50)]
        found += [await store.scan_upgrades(batch, limit=2, after=3, state=State.FAILED)]
        found += [await store.slice_states(batch, slice) for slice in range(3)]
    return found


TestAgreement = Agreement.TestCase
TestAgreement.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
