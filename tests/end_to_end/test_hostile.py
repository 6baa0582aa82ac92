"""Slow and greedy peers against a whole gateway, over real sockets: all are counted, honest devices served.

The rows of docs/reliability.md, Slow and greedy peers. Time is the test's; what a flood may cost others is
counted in messages of the flood that are heard before the honest one.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from otagate import limits
from otagate.gateway.metrics import collect
from tests.end_to_end.device import Device
from tests.end_to_end.world import HEARTBEAT_S, OLD, World, open_world
from tests.hostile import attacks
from tests.hostile.attacks import Crowd, Steps, Wire

Attack = Callable[[Wire], Steps]


async def counted(world: World, name: str, *labels: str) -> float:
    """A metric, as /metrics has it."""
    samples = await collect(world.gateway)
    found: list[float] = [
        sample.value  # type: ignore[misc]
        for sample in samples
        if (sample.family.sample_name, sample.labels) == (name, labels)
    ]
    assert len(found) == 1, (name, labels)
    return found[0]


async def serve_honest(world: World, honest: Device) -> None:
    """A session is answered, and another device logs in."""
    assert (await honest.ask("check"))["type"] == "ack"
    await world.leave(await world.log_in("d2", "websocket"))


@asynccontextmanager
async def a_world(path: Path, peers: int, **device: int) -> AsyncIterator[tuple[World, Device]]:
    """A world with d1, which is online, d2, and the devices of hostile peers, whose secrets they have."""
    async with open_world(path, device=device) as world:
        await world.set_up("d1", "d2", *(f"x{number}" for number in range(peers)))
        yield world, await world.log_in("d1", "tcp")


async def wait_crowd(world: World, crowd: Crowd, condition: Callable[[], bool]) -> None:
    """Until the peers, who go on meanwhile, have brought something about."""

    def stepped() -> bool:
        crowd.step()
        return condition()

    await world.wait(stepped)


# -- slow ------------------------------------------------------------------------------------------


class Slow(NamedTuple):
    """`holds_s`: for so long they may stay, and no longer. `how`: what they see of their end."""

    attack: Attack
    cause: str
    holds_s: float
    how: set[str]
    sessions: bool


SLOW = [
    Slow(attacks.slow_handshake, "handshake_timeout", 10, {"reset", "ended"}, False),
    Slow(attacks.silent, "handshake_timeout", 10, {"reset", "ended"}, False),
    Slow(attacks.slow_hello, "hello_timeout", 10, {"4001", "reset"}, False),
    Slow(attacks.slow_message, "silent", 2.5 * HEARTBEAT_S, {"4003", "reset"}, True),
    Slow(attacks.half_open, "silent", 2.5 * HEARTBEAT_S, {"ended", "reset"}, True),
]


@pytest.mark.parametrize("case", SLOW, ids=lambda case: case.attack.__name__)
async def test_slow_peers_are_ended_in_time(tmp_path: Path, case: Slow) -> None:
    peers = 20 if case.sessions else 200
    async with a_world(tmp_path, peers if case.sessions else 0) as (world, honest):
        with Crowd(world.address, case.attack, peers) as crowd:
            gateway = world.gateway
            there = lambda: gateway.plane.statistics()["connections"] == 1 + peers  # noqa: E731
            await wait_crowd(
                world, crowd, lambda: there() and (not case.sessions or len(gateway.presence) > peers)
            )
            await serve_honest(world, honest)
            await world.jump(case.holds_s * 0.5)  # the rest is room for a slow machine
            for _ in range(3):
                crowd.step()
                await serve_honest(world, honest)
            assert len(crowd) == peers
            await world.jump(case.holds_s * 0.6)
            await serve_honest(world, honest)
            await world.jump(limits.close_timeout_ms / 1000)
            await wait_crowd(world, crowd, lambda: not crowd)
            assert crowd.ended.keys() <= case.how
            await world.wait(lambda: gateway.plane.statistics()["connections"] == 1)
            assert await counted(world, "otagate_connections_ended_total", case.cause) == peers
            await serve_honest(world, honest)


@pytest.mark.parametrize("attack", [attacks.stuck_reader, attacks.stuck_download], ids=lambda a: a.__name__)
async def test_readers_that_stop_are_ended_in_time(tmp_path: Path, attack: Attack) -> None:
    peers = 5
    async with a_world(tmp_path, peers) as (world, honest):
        if attack is attacks.stuck_download:
            await world.add_firmware("3.0", bytes(8_000_000))
            devices = [f"x{number}" for number in range(peers)]
            await world.create_batch("f2", range="directed", devices=devices)
        with Crowd(world.address, attack, peers, buffer=4_096) as crowd:
            gateway = world.gateway

            await wait_crowd(world, crowd, lambda: len(gateway.presence) == 1 + peers)
            if attack is attacks.stuck_download:
                await wait_crowd(
                    world, crowd, lambda: gateway.plane.statistics()["transfers_started"] == peers
                )
            sent = -1.0
            while sent != (sent := await counted(world, "otagate_device_bytes_total", "out")):
                for _ in range(50):  # till nothing more goes either way
                    crowd.step()
                    await trio.lowlevel.checkpoint()
            await serve_honest(world, honest)
            assert len(crowd) == peers
            await world.jump(limits.write_stall_timeout_ms * 0.5 / 1000)
            await serve_honest(world, honest)
            assert len(crowd) == peers
            await world.jump(limits.write_stall_timeout_ms * 0.8 / 1000)
            await wait_crowd(world, crowd, lambda: not crowd)
            assert crowd.ended == {"reset": peers}
            assert await counted(world, "otagate_connections_ended_total", "stalled") == peers
            await serve_honest(world, honest)


# -- greedy ----------------------------------------------------------------------------------------

FLOODS = {  # and the plane's count that tells of each
    attacks.flood_messages: "messages_in",
    attacks.flood_bad_messages: "messages_in",
    attacks.flood_versions: "messages_in",
    attacks.flood_fetches: "messages_in",
    attacks.flood_pings: "pings",
    attacks.endless_fragments: "bytes_in",
    attacks.flood_hellos: "messages_in",
}
METRICS = {
    "messages_in": ("otagate_messages_total", "in"),
    "pings": ("otagate_pings_total",),
    "bytes_in": ("otagate_device_bytes_total", "in"),
}


@pytest.mark.parametrize("attack", FLOODS, ids=lambda attack: attack.__name__)
async def test_floods_take_turns(tmp_path: Path, attack: Attack) -> None:
    """As much as their sockets hold waits to be read, and an honest device is heard a few turns later."""
    peers, turns = 4, 12
    async with a_world(tmp_path, peers) as (world, honest):
        if attack is attacks.flood_fetches:
            await world.create_batch(range="directed", devices=[f"x{number}" for number in range(peers)])
        with Crowd(world.address, attack, peers) as crowd:
            begun = await counted(world, *METRICS[FLOODS[attack]])
            while await counted(world, *METRICS[FLOODS[attack]]) < begun + 100 * peers:
                crowd.step()
                await trio.lowlevel.checkpoint()
            total = 0
            for _ in range(3):
                for _ in range(40):
                    crowd.step()
                # asked of the plane itself: /metrics waits for a thread, and the flood goes on meanwhile
                before = world.gateway.plane.statistics()[FLOODS[attack]]
                assert (await honest.ask("check"))["type"] == "ack"
                heard = world.gateway.plane.statistics()[FLOODS[attack]] - before
                if FLOODS[attack] != "bytes_in":
                    assert heard <= turns * peers * limits.turn_messages_max
                total += heard
            assert total > 0
            await serve_honest(world, honest)
            assert len(crowd) == peers


@pytest.mark.parametrize(
    ("attack", "metric", "sessions"),
    [
        (attacks.flood_logins, ("otagate_logins_refused_total",), False),
        (attacks.flood_connections, ("otagate_connections_ended_total", "lost"), False),
        (attacks.oversize, ("otagate_connections_ended_total", "broken"), True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_floods_of_connections(
    tmp_path: Path, attack: Attack, metric: tuple[str, ...], sessions: bool
) -> None:
    """They come again and again; an honest device logs in meanwhile."""
    peers = 20
    async with a_world(tmp_path, peers if sessions else 0) as (world, honest):
        with Crowd(world.address, attack, peers, again=True) as crowd:
            while await counted(world, *metric) < 10 * peers:
                crowd.step()
                await serve_honest(world, honest)
            await serve_honest(world, honest)


async def test_many_connections_of_one_address(tmp_path: Path) -> None:
    async with a_world(tmp_path, 0, strangers_per_address_max=50) as (world, honest):
        with Crowd(world.address, attacks.silent, 80, sources=["127.0.0.2"]) as crowd:
            await wait_crowd(world, crowd, lambda: len(crowd) == 50)
            assert await counted(world, "otagate_strangers_refused_total") == 30
            await serve_honest(world, honest)


async def test_logins_sent_away_are_counted(tmp_path: Path) -> None:
    async with a_world(tmp_path, 0) as (world, honest):
        for _ in range(limits.takeovers_free):
            honest = await world.log_in("d1", "tcp")
        rival = await world.connect("d1", "tcp")
        await rival.send(**rival.hello(OLD))
        assert (await rival.receive("error"))["code"] == "overloaded"
        assert await rival.wait_closed() == 4005
        assert await counted(world, "otagate_logins_sent_away_total", "rival") == 1
        assert await counted(world, "otagate_logins_sent_away_total", "overloaded") == 0
        await serve_honest(world, honest)
