"""Durability and order: nothing is said before it is on the disk, nothing overtakes, nothing is dropped.

The store's commits are held back in these tests; what leaves while they are held has not waited for them.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from otagate.errors import CommitFailed
from otagate.gateway.journal import Callback, Journal
from otagate.gateway.views import RegisterDeviceRequest
from otagate.store.interface import PutSetting, Transition
from otagate.upgrade.model import Cause, Row, State, TimelineEntry
from otagate.wire import messages
from tests.gateway.harness import (
    RUNNING,
    Harness,
    SimulatedDevice,
    TestStore,
    failure,
    gateway_harness,
    kinds,
    progress,
    reach,
    success,
)

# -- before the commit ---------------------------------------------------------------------------------


async def held(harness: Harness, device: SimulatedDevice) -> list[Any]:
    """Nothing came while commits are held; then what came once they go on."""
    await device.expect_silence(1.5)  # sweeps included
    harness.store.release()
    return await device.receive_all()


@pytest.mark.parametrize(
    ("state", "message", "answers"),
    [
        ("pushed", messages.Received(batch="b1", attempt=1, id="m"), ["ack"]),
        ("pushed", progress("b1", 1, id="m"), ["ack"]),
        ("pushed", messages.Fetch(transfer=1, firmware="f1", offset=0, id="m"), ["ack"]),
        ("upgrading", failure("b1", id="m"), ["ack"]),
        ("upgrading", failure("b1", version="1.5", id="m"), ["ack"]),
        ("upgrading", success("b1", version="2.0", id="m"), ["ack"]),
        ("upgrading", messages.Version(version="1.5", id="m"), ["ack"]),
        ("upgrading", messages.Version(version="2.0", id="m"), ["ack"]),
        ("to_be_retried", failure("b1", version="1.5", id="m"), ["ack", "cancel"]),
        ("failed", failure("b1", version="1.5", id="m"), ["ack", "cancel"]),
        ("failed", messages.Version(version="1.5", id="m"), ["ack"]),
    ],
)
async def test_no_answer_leaves_before_the_commit(
    autojump_clock: object, state: str, message: messages.DeviceMessage, answers: list[str]
) -> None:
    async with gateway_harness() as harness:
        device, _ = await reach(harness, state)
        harness.have_image()
        harness.store.hold()
        device.send(message)
        found = await held(harness, device)
        assert kinds(found) == answers
        assert found[0].id == "m"


@pytest.mark.parametrize(
    "behind",
    [
        messages.Check(id="n"),
        progress("b1", 7, id="n"),
        progress("b1", 0, stage="burning", id="n"),
        progress("b9", 7, id="n"),
        messages.Stop(transfer=1, id="n"),
        messages.Version(version="1.0", id="n"),
        messages.Fetch(transfer=1, firmware="f9", offset=0, id="n"),
        messages.Hello(product="lamp", device="d1", version="1.0", id="n"),
    ],
)
@pytest.mark.parametrize("state", ["pushed", "to_be_upgraded"])
async def test_no_answer_overtakes_one_that_waits(
    autojump_clock: object, state: str, behind: messages.DeviceMessage
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        harness.store.hold()
        device.send(progress(batch, 5, id="m"))
        await harness.rest()
        device.send(behind)
        await harness.rest()
        device.send_raw(b'{"type": "stop", "transfer": -1, "id": "bad"}')
        found = await held(harness, device)
        assert [each.id for each in found] == ["m", "n", "bad"]


async def test_a_progress_that_changes_no_state_waits_for_no_commit(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        harness.store.hold()
        device.send(progress(batch, 44, id="m"), progress(batch, 44, id="n"))
        assert [each.id for each in await device.receive_all()] == ["m", "n"]
        harness.store.release()


async def test_a_first_login_is_welcomed_after_its_commit(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up()
        await harness.service.register_device("lamp", RegisterDeviceRequest("d1", secret="s" * 32))
        harness.store.hold()
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello()
        assert kinds(await held(harness, device)) == ["welcome"]


async def test_a_new_version_is_welcomed_after_its_commit_the_same_one_at_once(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        harness.store.hold()
        device = await harness.log_in("d1")
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello("1.1")
        assert kinds(await held(harness, device)) == ["welcome"]


async def test_a_login_waits_for_what_an_older_session_has_done(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        old, batch = await reach(harness, "pushed")
        harness.store.hold()
        old.send(messages.Received(batch=batch, attempt=1, id="m"))
        await harness.rest()
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello()
        found = await held(harness, device)
        assert kinds(found) == ["welcome", "upgrade"]
        assert await harness.state(batch, "d1") == "to_be_upgraded", "what was read from it before counts"
        assert kinds(old.inbox) == [], "but nothing is said to it any more"


async def test_no_upgrade_message_leaves_before_the_push_is_durable(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        batch = await harness.create_batch()
        device = await harness.log_in("d1")
        harness.store.hold()
        await device.expect_silence(2)
        harness.store.release()
        assert kinds(await device.receive_all()) == ["upgrade"]
        assert await harness.state(batch, "d1") == "pushed"


async def test_a_check_does_not_bring_a_push_that_is_not_durable(autojump_clock: object) -> None:
    """A version is on its way to the disk, the push behind it: the check's answer stands between them."""
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        await harness.set_up("d1", "d2")
        first = await harness.log_in("d1")
        device = await harness.log_in("d2")
        batch = await harness.create_batch()
        await first.receive(messages.Upgrade)
        harness.store.hold()
        device.send(messages.Version(version="1.1", id="v"), messages.Check(id="c"))
        await harness.rest()
        first.send(messages.Received(batch=batch, attempt=1))  # frees the slot: the push of d2 is decided
        await device.expect_silence(1.5)
        await _Steps(harness.store).step()
        await harness.rest()
        assert kinds(device.inbox) == ["ack", "ack"]
        harness.store.release()
        assert kinds(await device.receive_all()) == ["ack", "ack", "upgrade"]


async def test_a_push_decided_while_the_login_waits_is_sent_once(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        batch = await harness.create_batch()
        await harness.rest()
        harness.store.hold()
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello("1.1")
        await device.expect_silence(2.5)
        writes = _Steps(harness.store)
        await writes.step()  # the version
        assert kinds(device.inbox) == ["welcome"]
        harness.store.release()
        assert kinds(await device.receive_all()) == ["welcome", "upgrade"]
        roster = harness.gateway.upgrades.batches[1].roster
        assert roster.get_deliveries(device.number) == 1
        assert await harness.state(batch, "d1") == "pushed"


class _Steps:
    """Lets held commits go on one by one."""

    def __init__(self, store: TestStore) -> None:
        self._store = store

    async def step(self) -> None:
        """One group is committed; the next one is held again."""
        committed = self._store.committed
        self._store.release()
        self._store.hold()
        with trio.fail_after(60):
            await committed.wait()


@pytest.mark.parametrize("event", ["ack", "time-out"])
async def test_no_cancel_leaves_before_the_commit(autojump_clock: object, event: str) -> None:
    async with gateway_harness() as harness:
        device, _ = await reach(harness, "pushed" if event == "ack" else "upgrading", timeout_minutes=1)
        harness.store.hold()
        await harness.jump(11 if event == "ack" else 61)
        assert kinds(await held(harness, device)) == ["cancel"]


@pytest.mark.parametrize("state", RUNNING)
@pytest.mark.parametrize(
    "message",
    [
        None,
        progress("b1", 33, id="m"),
        progress("b1", 0, stage="burning", id="m"),
        messages.Received(batch="b1", attempt=1, id="m"),
        failure("b1", id="m"),
        messages.Check(id="m"),
        messages.Version(version="1.0", id="m"),
        messages.Fetch(transfer=4, firmware="f1", offset=0, id="m"),
    ],
)
async def test_nothing_of_an_abort_leaves_before_its_commit(
    autojump_clock: object, state: str, message: messages.DeviceMessage | None
) -> None:
    """Neither the operator's answer nor a device's cancel, also not as the answer to a report."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        answers: list[object] = []
        harness.store.hold()

        async def abort() -> None:
            answers.append(await harness.service.abort_batch(batch))

        harness.gateway.nursery.start_soon(abort)
        await harness.rest()
        if message is not None:
            device.send(message)
        await device.expect_silence(1.5)
        assert answers == []
        harness.store.release()
        found = await device.receive_all()
        assert len(answers) == 1
        assert "cancel" in kinds(found)
        assert "upgrade" not in kinds(found)
        if message is not None:
            assert [each for each in found if each.id == "m"]


async def test_an_answer_behind_an_older_entry_waits_for_the_abort_too(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading")
        harness.store.hold()
        device.send(messages.Version(version="1.1", id="v"))  # alone in its group
        await harness.rest()
        harness.gateway.nursery.start_soon(harness.service.abort_batch, batch)
        await harness.rest()
        device.send(progress(batch, 0, stage="burning", id="b"))
        await harness.rest()
        await _Steps(harness.store).step()
        await harness.rest()
        assert [each.id for each in device.inbox] == ["v"]
        harness.store.release()
        assert "cancel" in kinds(await device.receive_all())


async def test_operators_are_answered_after_the_commit(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        harness.store.hold()
        done: list[str] = []

        async def do(name: str, verb: Callable[[], Awaitable[object]]) -> None:
            await verb()
            done.append(name)

        service = harness.service
        for name, verb in {
            "register": lambda: service.register_device("lamp", RegisterDeviceRequest("d2")),
            "rotate": lambda: service.rotate_secret("lamp", "d1"),
            "batch": harness.create_batch,
        }.items():
            harness.gateway.nursery.start_soon(do, name, verb)
        await harness.jump(2)
        assert done == []
        harness.store.release()
        await harness.rest()
        assert sorted(done) == ["batch", "register", "rotate"]


async def test_a_failed_commit_ends_the_gateway_and_nothing_was_acknowledged(autojump_clock: object) -> None:
    device: SimulatedDevice | None = None
    with pytest.RaisesGroup(CommitFailed, flatten_subgroups=True):
        async with gateway_harness() as harness:
            device, batch = await reach(harness, "pushed")
            harness.store.broken = True
            device.send(messages.Received(batch=batch, attempt=1, id="m"), progress(batch, 5, id="n"))
            await harness.jump(60)
            raise AssertionError("the gateway went on")
    assert device is not None
    assert not device.inbox


async def test_a_commit_under_way_is_finished_and_a_waiter_who_leaves_cancels_nothing(
    autojump_clock: object,
) -> None:
    store = TestStore()
    journal = Journal(store)
    settled: list[str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        store.hold()
        with trio.move_on_after(1):
            await journal.write(PutSetting("first", b"1"))
        journal.submit(Callback((PutSetting("second", b"2"),), lambda: settled.append("second")))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
            assert await store.get_setting("first") is None
            store.release()
            await trio.sleep(1)
    assert await store.get_setting("first") == b"1"
    assert bool(settled) == (await store.get_setting("second") is not None)


# -- another gateway was faster ------------------------------------------------------------------------


def _moved(state: State, cause: Cause, **changes: Any) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        at_ms = row.timeline[-1].at_ms if row.timeline else 1_800_000_000_000
        fields = {"attempt": row.attempt} | changes
        entry = TimelineEntry(at_ms, state, row.remark, cause, fields["attempt"])
        if state in (State.SUCCEEDED, State.FAILED):
            fields["completed_at_ms"] = at_ms
        return replace(row, state=state, timeline=(*row.timeline, entry), **fields)

    return change


async def test_a_stale_decision_is_made_again(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        harness.store.be_faster(device.number, _moved(State.TO_BE_UPGRADED, Cause.ACKNOWLEDGED))
        device.send(progress(batch, 5, id="m"))
        assert await device.receive_all() == [messages.Ack(id="m")]
        details = await harness.details(batch, "d1")
        assert [entry.state for entry in details.timeline] == ["pushed", "to_be_upgraded", "upgrading"]
        assert harness.gateway.upgrades.awaiting == set()


async def test_what_followed_a_stale_decision_is_made_again_in_order(autojump_clock: object) -> None:
    """Decisions of the same group, of a later group, and answers that need none."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", retries=1, retry_interval_minutes=5)
        harness.store.hold()
        device.send(messages.Version(version="1.1", id="0"))
        await harness.rest()  # this one is in the held group; the rest gathers behind it
        harness.store.be_faster(device.number, lambda row: replace(row, attempt=2))
        device.send(
            messages.Received(batch=batch, attempt=1, id="1"),
            messages.Check(id="2"),
            progress(batch, 10, id="3"),
            progress(batch, 20, id="4"),
            progress(batch, 0, stage="burning", id="5"),
            failure(batch, id="6"),
        )
        await harness.rest()
        harness.store.release()
        found = await device.receive_all()
        # the other gateway has made it attempt 2: all reports of attempt 1 are over
        assert [(type(each).__name__, each.id) for each in found] == [
            ("Ack", "0"),
            ("Ack", "1"),
            ("Cancel", None),
            ("Upgrade", "2"),
            ("Ack", "3"),
            ("Cancel", None),
            ("Ack", "4"),
            ("Cancel", None),
            ("Cancel", "5"),
            ("Ack", "6"),
            ("Cancel", None),
        ]
        assert (await harness.details(batch, "d1")).attempt == 2
        assert await harness.state(batch, "d1") == "pushed"


async def test_a_decision_of_the_same_group_comes_before_later_ones(
    autojump_clock: object,
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        harness.store.hold()
        device.send(messages.Received(batch=batch, attempt=1, id="1"), progress(batch, 10, id="2"))
        await harness.rest()
        harness.store.be_faster(
            device.number, _moved(State.UPGRADING, Cause.PROGRESS, due_ms=harness.now_ms + 600_000)
        )
        device.send(failure(batch, "verification_failed", id="3"))
        await harness.rest()
        harness.store.release()
        assert [each.id for each in await device.receive_all()] == ["1", "2", "3"]
        details = await harness.details(batch, "d1")
        assert (details.state, details.remark) == ("failed", "verification_failed")
        assert [entry.state for entry in details.timeline] == ["pushed", "upgrading", "failed"]


async def test_a_stale_decision_whose_follower_fitted_the_fresh_row(autojump_clock: object) -> None:
    """The other gateway has heard the acknowledgement too: the progress behind it was applied."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", timeout_minutes=3)
        harness.store.be_faster(device.number, _moved(State.TO_BE_UPGRADED, Cause.ACKNOWLEDGED))
        device.send(messages.Received(batch=batch, attempt=1, id="1"), progress(batch, 10, id="2"))
        assert [each.id for each in await device.receive_all()] == ["1", "2"]
        assert await harness.state(batch, "d1") == "upgrading"
        live = harness.gateway.upgrades.rows[device.number]
        assert live.row.state == State.UPGRADING
        await harness.jump(181)
        assert (await harness.details(batch, "d1")).remark == "upgrade_timeout"


async def test_a_stale_push_is_not_sent(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        device = await harness.log_in("d1")
        harness.store.be_faster(device.number, _moved(State.SUCCEEDED, Cause.REPORTED_VERSION))
        batch = await harness.create_batch()
        await device.expect_silence(3)
        assert await harness.state(batch, "d1") == "succeeded"
        assert harness.gateway.upgrades.awaiting == set()
        assert harness.gateway.upgrades.rows == {}


async def test_a_stale_push_of_a_device_that_left_holds_no_slot(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        device = await harness.log_in("d1")
        harness.store.be_faster(device.number, _moved(State.PUSHED, Cause.PUSHED, attempt=1))
        harness.store.hold()
        harness.gateway.nursery.start_soon(harness.create_batch)
        await harness.rest()
        steps = _Steps(harness.store)
        for _ in range(3):  # begin, claim, open
            await steps.step()
            await harness.rest()
        device.lose()
        await harness.rest()
        harness.store.release()
        await harness.rest()
        assert await harness.state("b1", "d1") == "pushed"
        assert harness.gateway.upgrades.awaiting == set()
        assert harness.gateway.upgrades.rows == {}
        device = await harness.log_in("d1")
        assert (await device.receive(messages.Upgrade)).attempt == 1


async def test_a_stale_login_is_welcomed_all_the_same(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        device.lose()
        await harness.rest()
        number = device.number
        harness.store.be_faster(number, _moved(State.FAILED, Cause.REPORTED_FAILURE))
        device = await harness.log_in("d1", "2.0")
        await device.expect_silence()
        details = await harness.details(batch, "d1")
        assert details.state == "failed"
        assert details.timeline[-1].cause == "reported_version"
        assert number not in harness.gateway.upgrades.rows


async def test_a_stale_time_out_does_not_end_what_the_device_acknowledged(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        harness.store.be_faster(device.number, _moved(State.TO_BE_UPGRADED, Cause.ACKNOWLEDGED))
        await harness.jump(11)
        await device.expect_silence()
        assert await harness.state(batch, "d1") == "to_be_upgraded"


async def test_every_transition_carries_the_session_that_caused_it(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        seen = len(harness.store.groups)
        device.send(messages.Received(batch=batch, attempt=1))
        await harness.rest()
        changes = [change for group in harness.store.groups[seen:] for change in group]
        assert [change.epoch for change in changes if isinstance(change, Transition)] == [device.conn]
