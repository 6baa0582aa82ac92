"""The gateway's clock: what a step of the wall clock moves (the end of a validity, and nothing else), what a
sleep of the machine holds back, and that a change to daylight saving time is neither."""

import time
from collections.abc import Iterator

import pytest
import trio

from otagate.gateway.clock import SLEEP_MS, Clock
from otagate.wire import messages
from tests.gateway.harness import OPEN, SimulatedDevice, gateway_harness, kinds, progress, reach

HOUR_S = 3600
GRACE_S = 150


class Sources:
    """A wall clock, a clock of elapsed time and one of the time asleep, in milliseconds."""

    def __init__(self, wall_ms: int, elapsed_ms: int) -> None:
        self.wall_ms = wall_ms
        self.elapsed_ms = elapsed_ms
        self.asleep_ms = 5_000_000  # before the gateway was started

    def clock(self, floor_ms: int = 0) -> Clock:
        return Clock(
            floor_ms,
            wall_ms=lambda: self.wall_ms,
            elapsed_ms=lambda: self.elapsed_ms,
            asleep_ms=lambda: self.asleep_ms,
        )

    def run(self, ms: int) -> None:
        self.wall_ms += ms
        self.elapsed_ms += ms


def test_now_is_the_wall_clock_at_the_start_and_what_elapsed() -> None:
    sources = Sources(1_000_000, 77)
    clock = sources.clock()
    assert clock.now_ms() == clock.validity_now_ms() == 1_000_000
    sources.run(500)
    assert clock.now_ms() == 1_000_500
    sources.wall_ms += 10**9
    assert clock.now_ms() == 1_000_500


def test_the_newest_time_in_the_store_is_a_floor() -> None:
    assert Sources(1_000_000, 77).clock(2_000_000).now_ms() == 2_000_000
    assert Sources(3_000_000, 77).clock(2_000_000).now_ms() == 3_000_000


@pytest.mark.parametrize("step_ms", [-2_000, -1, 1, 2_000])
def test_small_differences_are_no_step(step_ms: int) -> None:
    sources = Sources(1_000_000, 0)
    clock = sources.clock()
    sources.wall_ms += step_ms
    assert clock.observe_step() == 0
    assert clock.validity_now_ms() == 1_000_000


@pytest.mark.parametrize("step_ms", [-3_600_000, -2_001, 2_001, 3_600_000])
def test_a_step_moves_only_the_validity(step_ms: int) -> None:
    sources = Sources(10_000_000, 0)
    clock = sources.clock()
    sources.run(5_000)
    sources.wall_ms += step_ms
    assert clock.validity_now_ms() == 10_005_000, "not seen yet"
    assert clock.observe_step() == step_ms
    assert clock.observe_step() == 0, "told once"
    assert clock.now_ms() == 10_005_000
    assert clock.validity_now_ms() == 10_005_000 + step_ms
    sources.wall_ms -= step_ms
    assert clock.observe_step() == -step_ms
    assert clock.validity_now_ms() == clock.now_ms()


@pytest.mark.parametrize("step_s", [-20 * HOUR_S, 20 * HOUR_S])
async def test_a_step_moves_no_acknowledgement(autojump_clock: object, step_s: int) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        await harness.jump(5)
        harness.wall_step_ms = step_s * 1000
        await harness.jump(4.5)
        assert await harness.state(batch, "d1") == "pushed"
        await harness.jump(1)
        assert (await harness.details(batch, "d1")).remark == "push_failed"
        assert kinds(device.inbox) == ["cancel"]


@pytest.mark.parametrize("step_s", [-20 * HOUR_S, 20 * HOUR_S])
async def test_a_step_moves_no_time_out_and_no_retry(autojump_clock: object, step_s: int) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(
            harness, "upgrading", timeout_minutes=3, retries=1, retry_interval_minutes=5
        )
        harness.wall_step_ms = step_s * 1000
        await harness.jump(178)
        assert await harness.state(batch, "d1") == "upgrading"
        await harness.jump(3)
        assert await harness.state(batch, "d1") == "to_be_retried"
        await harness.jump(298)
        assert await harness.state(batch, "d1") == "to_be_retried"
        await harness.jump(3)
        assert await harness.state(batch, "d1") == "pushed"
        assert kinds(device.inbox) == ["cancel", "upgrade"]


async def test_a_step_ahead_ends_the_validity_early(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_upgraded")
        harness.wall_step_ms = 23 * HOUR_S * 1000
        await harness.jump(HOUR_S - 5)
        assert (await harness.service.get_batch(batch)).status == "in_progress"
        await harness.jump(5)
        view = await harness.service.get_batch(batch)
        assert (view.status, view.ended_at) == ("aborted", view.expires_at)
        assert (await device.receive(messages.Cancel)).reason == "expired"


async def test_a_step_ahead_forbids_retries_behind_the_new_end(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed", retries=1, retry_interval_minutes=120)
        harness.wall_step_ms = 23 * HOUR_S * 1000
        await harness.jump(2)
        await harness.jump(10)
        assert await harness.state(batch, "d1") == "failed"
        assert device.closed is None


async def test_a_step_back_prolongs_the_validity(autojump_clock: object) -> None:
    """Devices are pushed until the end that the wall clock shows, and then it ends."""
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "to_be_pushed")
        harness.wall_step_ms = -10 * HOUR_S * 1000
        await harness.jump(2)
        await harness.jump(30 * HOUR_S)
        assert (await harness.service.get_batch(batch)).status == "in_progress"
        device = await harness.log_in("d1")
        assert (await device.receive(messages.Upgrade, within_s=2)).attempt == 1
        await harness.jump(4 * HOUR_S)
        assert (await harness.service.get_batch(batch)).status == "aborted"


async def test_a_step_back_costs_no_extra_work(autojump_clock: object) -> None:
    """Between the old and the new end of a validity the gateway rests as ever."""
    async with gateway_harness() as harness:
        await reach(harness, "to_be_pushed")
        harness.wall_step_ms = -10 * HOUR_S * 1000
        await harness.jump(2)
        await harness.jump(30 * HOUR_S)
        ticks = 0
        real = harness.gateway.deadlines.tick

        async def tick() -> None:
            nonlocal ticks
            ticks += 1
            await real()

        harness.gateway.deadlines.tick = tick  # type: ignore[method-assign]
        await trio.sleep(10)
        assert ticks <= 12


@pytest.mark.parametrize("state", OPEN)
async def test_a_step_back_and_forth_changes_nothing(autojump_clock: object, state: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        device.lose()
        for step_s in (-HOUR_S, 0, 5 * HOUR_S, 0):
            harness.wall_step_ms = step_s * 1000
            await harness.jump(2)
        assert await harness.state(batch, "d1") == state


@pytest.mark.parametrize("step_s", [-90 * 24 * HOUR_S, -10 * HOUR_S, 10 * HOUR_S, 90 * 24 * HOUR_S])
async def test_a_batch_made_after_a_step_lasts_its_validity(autojump_clock: object, step_s: int) -> None:
    """Also on a machine that was started before it was told the time."""
    async with gateway_harness() as harness:
        await harness.set_up("d1", "d2")
        harness.wall_step_ms = step_s * 1000
        await harness.jump(2)
        device = SimulatedDevice(harness.plane, "d1")
        device.send_hello()
        told_s = (await device.receive(messages.Welcome)).server_time
        batch = await harness.create_batch(validity_days=1)
        upgrade = await device.receive(messages.Upgrade, within_s=2)
        assert 0 <= upgrade.expires_at - told_s - 24 * HOUR_S <= 2, "both by the wall clock"
        assert abs(told_s - harness.now_ms // 1000 - step_s) <= 2
        await harness.jump(24 * HOUR_S - 10)
        assert (await harness.service.get_batch(batch)).status == "in_progress"
        await harness.jump(10)
        assert (await harness.service.get_batch(batch)).status == "aborted"


async def test_what_is_overdue_goes_by_the_clock_of_its_deadline(autojump_clock: object) -> None:
    """The metric: between the old and the new end of a validity nothing is late."""
    async with gateway_harness() as harness:
        await reach(harness, "to_be_pushed")
        harness.wall_step_ms = -10 * HOUR_S * 1000
        await harness.jump(2)
        await harness.jump(30 * HOUR_S)
        assert harness.gateway.deadlines.overdue_ms() == 0


# -- the machine sleeps ------------------------------------------------------------------------------


def test_a_sleep_is_told_once() -> None:
    sources = Sources(1_000_000, 77)
    clock = sources.clock()
    assert clock.observe_sleep() == 0
    sources.asleep_ms += SLEEP_MS
    assert clock.observe_sleep() == 0, "a slow turn"
    sources.asleep_ms += 4_000
    assert clock.observe_sleep() == SLEEP_MS + 4_000
    assert clock.observe_sleep() == 0


def test_a_machine_that_is_awake_does_not_sleep() -> None:
    clock = Clock()
    assert [clock.observe_sleep() for _ in range(1_000)] == [0] * 1_000


async def test_who_finished_while_the_gateway_slept_has_succeeded(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "upgrading", timeout_minutes=3)
        await harness.sleep_machine(10 * HOUR_S)
        device.lose()
        await harness.jump(GRACE_S - 10)
        await harness.log_in("d1", "2.0")
        await harness.jump(60)
        assert await harness.state(batch, "d1") == "succeeded"


async def test_who_goes_on_after_a_sleep_is_heard(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        await harness.sleep_machine(HOUR_S)
        device.send(messages.Received(batch=batch, attempt=1, id="r"), progress(batch, 5))
        assert kinds(await device.receive_all()) == ["ack"]
        assert await harness.state(batch, "d1") == "upgrading"


@pytest.mark.parametrize(("state", "remark"), [("pushed", "push_failed"), ("upgrading", "upgrade_timeout")])
async def test_who_stays_silent_after_a_sleep_has_the_grace(
    autojump_clock: object, state: str, remark: str
) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, state, timeout_minutes=3)
        await harness.sleep_machine(HOUR_S)
        await harness.jump(GRACE_S - 2)
        assert await harness.state(batch, "d1") == state
        await harness.jump(2.2)
        assert (await harness.details(batch, "d1")).remark == remark


async def test_what_falls_due_after_a_sleep_is_not_held_back(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        _, batch = await reach(harness, "upgrading", timeout_minutes=3)
        await harness.sleep_machine(120)
        await harness.jump(58)
        assert await harness.state(batch, "d1") == "upgrading"
        await harness.jump(2.5)
        assert (await harness.details(batch, "d1")).remark == "upgrade_timeout"


async def test_a_retry_that_fell_due_in_a_sleep_is_not_late(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_retried")
        await harness.sleep_machine(HOUR_S)
        assert (await device.receive(messages.Upgrade, within_s=2)).attempt == 2
        assert await harness.state(batch, "d1") == "pushed"


@pytest.mark.parametrize("state", OPEN)
async def test_a_validity_ends_in_a_sleep(autojump_clock: object, state: str) -> None:
    """At its end, and before a time-out that fell due behind it."""
    async with gateway_harness() as harness:
        _, batch = await reach(harness, state, timeout_minutes=1440)
        expires_at = (await harness.service.get_batch(batch)).expires_at
        await harness.sleep_machine(72 * HOUR_S)
        await harness.jump(1)
        view = await harness.service.get_batch(batch)
        assert (view.status, view.ended_at) == ("aborted", expires_at)
        assert (await harness.details(batch, "d1")).remark == "task_aborted"


# -- daylight saving time ----------------------------------------------------------------------------


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine in a zone whose clocks go forward on the last Sunday of March, at 1:00 UTC."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("begins_ms", "created_at", "expires_at"),
    [
        (1_774_745_995_000, "2026-03-29T00:59:5", "2026-03-30T00:59:5"),
        (1_792_889_995_000, "2026-10-25T00:59:5", "2026-10-26T00:59:5"),
    ],
)
async def test_daylight_saving_is_no_step(
    autojump_clock: object, berlin: None, begins_ms: int, created_at: str, expires_at: str
) -> None:
    before, after = time.localtime(begins_ms / 1000), time.localtime(begins_ms / 1000 + 30)
    assert before.tm_gmtoff != after.tm_gmtoff, "the zone's clocks change now"
    async with gateway_harness(wall_ms=begins_ms) as harness:
        await harness.set_up("d1")
        batch = await harness.create_batch(validity_days=1)
        await harness.jump(30)
        assert harness.gateway.clock.step_ms == 0
        view = await harness.service.get_batch(batch)
        assert view.created_at.startswith(created_at)
        assert view.expires_at.startswith(expires_at)
        await harness.jump(24 * HOUR_S - 40)
        assert (await harness.service.get_batch(batch)).status == "in_progress"
        await harness.jump(20)
        assert (await harness.service.get_batch(batch)).status == "aborted"
