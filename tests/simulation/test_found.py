"""What the simulation has found in the gateway, each as the shortest story that shows it."""

from typing import Any

import trio
from msgspec.structs import replace

from otagate.wire import messages
from tests.gateway.harness import Harness, SimulatedDevice, gateway_harness, progress, reach


async def begin_abort(harness: Harness, nursery: trio.Nursery, batch: str) -> None:
    """An abort that waits for its commit, until the store is released."""
    harness.store.hold()
    nursery.start_soon(harness.service.abort_batch, batch)
    await harness.rest()


async def test_refused_pushes_are_not_asked_for_at_once_again(autojump_clock: object) -> None:
    """Seed 14: with as many refusals as slots dispatch asked again without end, and nothing else ran."""
    async with gateway_harness(device={"pushes_max": 1}) as harness:
        await harness.set_up("d1", "d2")
        await harness.log_in("d1")
        upgrades = harness.gateway.upgrades
        decide, asked = upgrades.decide, 0

        def count(upgrade: Any, event: Any, **more: Any) -> Any:
            nonlocal asked
            asked += 1
            assert asked < 100, "it spins"
            return decide(upgrade, event, **more)

        upgrades.decide = count  # type: ignore[method-assign]
        upgrades._rules_now = lambda batch: replace(batch.rules, expires_at_ms=0)  # type: ignore[method-assign]
        await harness.create_batch()
        await trio.sleep(5)
        assert 3 <= asked <= 10


async def test_unwritten_progress_keeps_no_row_of_an_ended_batch(autojump_clock: object) -> None:
    """Seed 37: a percentage that was not written yet kept its row in memory for good."""
    async with gateway_harness() as harness, trio.open_nursery() as nursery:
        device, batch = await reach(harness, "upgrading")
        device.send(progress(batch, 50))
        await harness.rest()
        await begin_abort(harness, nursery, batch)
        device.send(progress(batch, 60, id="late"))
        await harness.rest()
        harness.store.release()
        await trio.sleep(5)
        assert not harness.gateway.upgrades.rows


async def test_who_returns_while_its_batch_ends_is_not_told_before_it_is_durable(
    autojump_clock: object,
) -> None:
    """Seed 227: the device had no row in memory, and was answered ahead of the abort's commit."""
    async with gateway_harness() as harness, trio.open_nursery() as nursery:
        device, batch = await reach(harness, "upgrading")
        device.lose()
        await harness.rest()
        await begin_abort(harness, nursery, batch)
        again = SimulatedDevice(harness.plane, "d1")
        again.send_hello()
        await harness.rest()
        if again.number:
            again.send(progress(batch, 0, stage="burning", id="may-i"))
            await harness.rest()
        assert not [message for message in again.inbox if isinstance(message, messages.Cancel)]
        harness.store.release()
        await harness.rest()
        again.send(progress(batch, 0, stage="burning", id="and-now"))
        found = await again.receive_all()
        assert [m.id for m in found if isinstance(m, messages.Cancel) and m.id][-1] == "and-now"


async def test_a_fetch_does_not_answer_a_message_that_has_not_left(autojump_clock: object) -> None:
    """Seed 1139: a fetch that crossed the push acknowledged it, and streamed ahead of its commit."""
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_retried")
        harness.store.hold()
        await harness.jump(300)
        device.send(messages.Fetch(transfer=1, firmware="f1", offset=0, id="crossing"))
        await harness.rest()
        assert not harness.plane.streams
        harness.store.release()
        found = await device.receive_all()
        assert [message.attempt for message in found if isinstance(message, messages.Upgrade)] == [2]
        assert [message.code for message in found if isinstance(message, messages.Error)] == ["not_found"]
        assert await harness.state(batch, "d1") == "pushed"
