"""The gateway's clock, and what a step of the wall clock moves: the end of a validity, and nothing else."""

import pytest
import trio

from otagate.gateway.clock import Clock
from otagate.wire import messages
from tests.gateway.harness import OPEN, SimulatedDevice, gateway_harness, kinds, reach

HOUR_S = 3600


class Sources:
    """A wall clock and a clock of elapsed time, in milliseconds."""

    def __init__(self, wall_ms: int, elapsed_ms: int) -> None:
        self.wall_ms = wall_ms
        self.elapsed_ms = elapsed_ms

    def clock(self, floor_ms: int = 0) -> Clock:
        return Clock(floor_ms, wall_ms=lambda: self.wall_ms, elapsed_ms=lambda: self.elapsed_ms)

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
