"""What /livez, /readyz and the watchdog are told, and what /metrics reads, above the simulated plane."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from trio.testing import MockClock

from otagate import limits
from otagate.errors import NoRoom
from otagate.gateway.metrics import FAMILIES
from otagate.gateway.views import RegisterDeviceRequest
from otagate.openmetrics import render
from otagate.store.interface import Sizes
from tests.gateway import harness as harnesses
from tests.gateway.harness import Harness, gateway_harness, messages, reach, success

PLANE = {
    **dict.fromkeys(("connections_websocket", "connections_tcp", "accepted", "accept_failures"), 1),
    **dict.fromkeys(("opened_websocket", "opened_tcp", "bytes_in", "bytes_out", "bytes_streamed"), 2),
    **dict.fromkeys(("messages_in", "messages_out", "transfers_running", "transfers_waiting"), 3),
    **dict.fromkeys(("transfers_started", "transfers_ended", "ended_peer", "ended_refused_head"), 4),
    **dict.fromkeys(("refused_strangers", "pings"), 6),
    **dict.fromkeys(("connections_tls", "tls_resumptions", "ended_tls"), 7),
    "tls_handshakes": 9,
    "connections": 5,
}
RESULTS = ("full", "resumed", "failed")


@pytest.fixture
async def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Harness]:
    monkeypatch.setattr(harnesses.SimulatedPlane, "statistics", lambda self: PLANE, raising=False)
    async with gateway_harness(data={"dir": tmp_path}) as harness:
        harness.gateway.listening = True
        yield harness


def bad(harness: Harness) -> dict[str, str]:
    """What is wrong, by check."""
    return {check.name: check.message for check in harness.service.ready() if not check.ok}


async def test_all_is_well(autojump_clock: MockClock, harness: Harness) -> None:
    await trio.sleep(100)
    assert [check.name for check in harness.service.ready()] == ["listeners", "pump", "store", "map", "disk"]
    assert bad(harness) == {}
    assert [check.ok for check in harness.service.live()] == [True]


async def test_listeners(autojump_clock: MockClock, harness: Harness) -> None:
    harness.gateway.listening = False
    assert bad(harness) == {"listeners": "the listeners are not open yet"}
    harness.gateway.listening, harness.gateway.draining = True, True
    assert bad(harness) == {"listeners": "the gateway is stopping"}
    assert harness.service.live()[0].ok


async def test_a_commit_that_does_not_end(autojump_clock: MockClock, harness: Harness) -> None:
    await harness.set_up("d1")
    harness.store.hold()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(harness.add_firmware, "3.0")
        await trio.sleep(10)
        assert bad(harness) == {}
        await trio.sleep(25)
        assert bad(harness) == {"store": "a commit has been under way for 35 s"}
        assert harness.service.live()[0].ok, "the pump turns"
        harness.store.release()
    assert bad(harness) == {}


async def test_a_pump_that_hangs(
    autojump_clock: MockClock, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    monkeypatch.setattr(harness.gateway.health._notifier, "alive", told.append)

    async def hang(events: Any) -> None:
        await trio.sleep(100)

    await trio.sleep(5)
    assert len(told) >= 5, "the watchdog is fed while it turns"
    monkeypatch.setattr(harness.gateway.sessions, "handle", hang)
    await trio.sleep(40)
    fed = len(told)
    assert bad(harness).keys() == {"pump"}
    assert not harness.service.live()[0].ok
    await trio.sleep(50)
    assert len(told) == fed, "and no longer"


async def test_room(autojump_clock: MockClock, harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness.store, "sizes", lambda: Sizes(2**30, 2**30 - limits.map_left_bytes_min + 1))
    assert bad(harness).keys() == {"map"}
    monkeypatch.setattr(harness.store, "sizes", lambda: Sizes(2**30, 2**29))
    monkeypatch.setattr(limits, "reserve_file_bytes", 2**62)
    assert bad(harness).keys() == {"disk"}


async def test_what_takes_much_is_refused_before_the_map_is_full(
    autojump_clock: MockClock, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await harness.set_up("d1")
    await harness.add_firmware("3.0")
    full = Sizes(2**30, 2**30 - limits.map_left_bytes_min + 1)
    with monkeypatch.context() as patch:
        patch.setattr(harness.store, "sizes", lambda: full)
        with pytest.raises(NoRoom, match=r"raise data\.map_bytes"):
            await harness.create_batch()
        with pytest.raises(NoRoom, match=r"raise data\.map_bytes"):
            await harness.service.register_devices("lamp", 1, [RegisterDeviceRequest("d2")])
    await harness.service.register_devices("lamp", 1, [RegisterDeviceRequest("d2")])


async def test_metrics(autojump_clock: MockClock, harness: Harness) -> None:
    """Each family is there, readable, and says what happened."""
    device, batch = await reach(harness, "upgrading")
    device.send(success(batch))
    await trio.sleep(5)
    await (await harness.log_in("d2")).receive(messages.Upgrade)
    text = render(await harness.service.metrics()).decode()
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {f"# TYPE {family.name} " in text for family in FAMILIES if "webhook" not in family.name} == {True}
    assert found["otagate_connections", ("link", "opening")] == 3
    assert found["otagate_connections_ended_total", ("cause", "refused_head")] == 4
    assert found[("otagate_strangers_refused_total",)] == 6
    assert found[("otagate_connections_tls",)] == 7
    handshakes = {result: found["otagate_tls_handshakes_total", ("result", result)] for result in RESULTS}
    assert handshakes == {"full": 2, "resumed": 7, "failed": 7}
    assert found["otagate_logins_sent_away_total", ("cause", "rival")] == 0
    assert found[("otagate_sessions",)] == 2
    assert found[("otagate_logins_total",)] == 4
    assert found["otagate_transitions_total", ("cause", "pushed"), ("state", "pushed")] == 2
    assert found["otagate_transitions_total", ("cause", "progress"), ("state", "upgrading")] == 1
    assert found[("otagate_batches_in_progress",)] == 1
    assert found["otagate_open_upgrades", ("state", "pushed")] == 1
    assert found[("otagate_pushes_awaiting",)] == 1
    assert found[("otagate_commit_seconds_count",)] == harness.gateway.journal.commits
    assert found[("otagate_loop_lateness_seconds_count",)] >= 5, "at least once a second"
    assert found[("otagate_turn_seconds_count",)] > found[("otagate_loop_lateness_seconds_count",)]
    assert found["otagate_ready", ("check", "disk")] == 1
    assert found[("otagate_resident_memory_bytes",)] > 10_000_000
    assert found[("otagate_open_fds",)] > 3
    assert found[("otagate_uptime_seconds",)] >= 5


async def test_lateness_is_what_others_cost(autojump_clock: MockClock, harness: Harness) -> None:
    lateness = harness.gateway.counters.lateness_seconds
    await trio.sleep(10)
    assert lateness.sum < 0.1
    autojump_clock.jump(3)  # as if something had held the loop for so long
    await harness.rest()
    assert 1.9 < lateness.sum < 3.1


async def test_a_deadline_that_is_past(autojump_clock: MockClock, harness: Harness) -> None:
    await reach(harness, "upgrading")
    assert harness.gateway.deadlines.overdue_ms() == 0
    autojump_clock.jump(700)
    assert harness.gateway.deadlines.overdue_ms() >= 90_000, "ten minutes, and as much again is past"
