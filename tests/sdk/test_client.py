"""The client against a scripted gateway, on both links, in virtual time."""

import itertools
import math
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from otagate.sdk.agent import Agent
from otagate.sdk.client import Client, Reconnect, Refused
from otagate.sdk.devices import Device, SimulatedDevice
from otagate.sdk.effects import Note, Phase
from otagate.sdk.simulation import Drops, UnreliableStream
from otagate.wire import messages

from .gateway import IMAGE, SECRET, URLS, Gateway, Peer, Script, upgrade


@pytest.fixture(params=URLS, ids=["websocket", "tcp"])
def url(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


class Recorder(SimulatedDevice):
    """Keeps the image and what was called."""

    def __init__(self, **options: Any) -> None:
        super().__init__("1.0", **options)
        self.image = bytearray()
        self.calls: list[str] = []

    async def open_image(self, firmware: messages.FirmwareOffer) -> None:
        await super().open_image(firmware)
        self.calls.append("open")
        self.image.clear()

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        assert offset == len(self.image)
        self.image += data
        await super().write(offset, data)

    async def burn(self) -> None:
        self.calls.append("burn")
        await super().burn()

    async def reboot(self) -> str:
        self.calls.append("reboot")
        return await super().reboot()

    async def discard(self) -> None:
        self.calls.append("discard")
        await super().discard()


class Stage:
    """A client running against a gateway."""

    def __init__(self, client: Client, gateway: Gateway, device: Device, notes: list[Note]) -> None:
        self.client = client
        self.gateway = gateway
        self.device = device
        self.notes = notes

    @property
    def events(self) -> list[str]:
        return [note.event for note in self.notes]


@asynccontextmanager
async def running(
    url: str, scripts: Sequence[Script], device: Device | None = None, **options: Any
) -> AsyncGenerator[Stage, None]:
    device = device or Recorder()
    notes: list[Note] = []
    async with trio.open_nursery() as nursery:
        gateway = Gateway(nursery, scripts, url)
        agent = Agent("lamp", "d0", SECRET, "1.0")
        options = {"source": random.Random(1), "dial": gateway.dial} | options
        if wrap := options.pop("wrap", None):
            options["dial"] = wrap(gateway.dial)
        client = Client(url, agent, device, observe=notes.append, **options)
        nursery.start_soon(client.run)
        yield Stage(client, gateway, device, notes)
        nursery.cancel_scope.cancel()


async def finish_upgrade(peer: Peer, fetch: messages.Fetch) -> None:
    """From the fetch to the reboot, as a gateway sees it."""
    await peer.stream_image(fetch)
    assert (await peer.expect(messages.Progress)).stage == "verifying"
    question = await peer.expect(messages.Progress)
    assert question.stage == "burning"
    await peer.send(messages.Ack(id=question.id))
    assert await peer.receive() is None


async def whole_upgrade(peer: Peer) -> None:
    hello = await peer.login()
    assert hello.version == "1.0"
    await peer.send(upgrade())
    await peer.expect(messages.Received)
    await finish_upgrade(peer, await peer.expect(messages.Fetch))


async def login_as_new(peer: Peer) -> None:
    hello = await peer.login()
    assert hello.version == "2.0"
    result = await peer.expect(messages.Result)
    assert (result.outcome, result.version) == ("succeeded", "2.0")
    await peer.send(messages.Ack(id=result.id))


async def test_a_whole_upgrade(autojump_clock: MockClock, url: str) -> None:
    async with running(url, [whole_upgrade, login_as_new]) as stage:
        await stage.gateway.done.wait()
        device = stage.device
        assert isinstance(device, Recorder)
        assert device.image == IMAGE
        assert device.calls == ["open", "burn", "reboot"]
        assert device.version == "2.0"
        assert stage.gateway.dialled[1] == stage.gateway.dialled[0]  # back at once after the reboot


async def test_slow_burning_and_rebooting_while_the_connection_lives(
    autojump_clock: MockClock, url: str
) -> None:
    async def burns_through_a_cancel(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        await peer.stream_image(await peer.expect(messages.Fetch))
        await peer.expect(messages.Progress)
        question = await peer.expect(messages.Progress)
        await peer.send(messages.Ack(id=question.id))
        await peer.send(messages.Cancel(batch="b1", attempt=1, reason="aborted"))
        assert await peer.receive() is None
        assert peer.pings >= 2

    device = Recorder(burn_s=100, reboot_s=50)
    async with running(url, [burns_through_a_cancel, login_as_new], device) as stage:
        await stage.gateway.done.wait()
        assert stage.gateway.dialled[1] - stage.gateway.dialled[0] == pytest.approx(150)


async def test_resumes_after_a_lost_connection(autojump_clock: MockClock, url: str) -> None:
    async def breaks_off(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        await peer.stream_image(await peer.expect(messages.Fetch), end=40_960)

    async def resumes(peer: Peer) -> None:
        await peer.login()
        fetch = await peer.expect(messages.Fetch)
        assert fetch.offset == 40_960
        await finish_upgrade(peer, fetch)

    async with running(url, [breaks_off, resumes, login_as_new]) as stage:
        await stage.gateway.done.wait()
        assert isinstance(stage.device, Recorder)
        assert stage.device.image == IMAGE


async def test_a_connection_lost_while_burning_does_not_matter(autojump_clock: MockClock, url: str) -> None:
    async def breaks_off(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        await peer.stream_image(await peer.expect(messages.Fetch))
        await peer.expect(messages.Progress)
        await peer.send(messages.Ack(id=(await peer.expect(messages.Progress)).id))

    async def old_version_meanwhile(peer: Peer) -> None:
        assert (await peer.login()).version == "1.0"
        assert await peer.receive() is None

    device = Recorder(burn_s=1000)
    async with running(url, [breaks_off, old_version_meanwhile, login_as_new], device) as stage:
        await stage.gateway.done.wait()
        assert device.calls == ["open", "burn", "reboot"]


async def test_burning_that_ends_offline_reboots_at_once(autojump_clock: MockClock, url: str) -> None:
    async def breaks_off(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        await peer.stream_image(await peer.expect(messages.Fetch))
        await peer.expect(messages.Progress)
        await peer.send(messages.Ack(id=(await peer.expect(messages.Progress)).id))
        await trio.sleep(1)
        await peer.close(4002)  # come back in 30-60 s

    device = Recorder(burn_s=5)
    async with running(url, [breaks_off, login_as_new], device) as stage:
        await stage.gateway.done.wait()
        assert stage.gateway.dialled[1] - stage.gateway.dialled[0] == pytest.approx(5)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("download_failed", "download_failed"),
        ("verification_failed", "verification_failed"),
        ("burn_failed", "burn_failed"),
        ("other", "other"),
        ("wrong_version", "other"),
    ],
)
async def test_simulated_failures_are_reported(
    autojump_clock: MockClock, url: str, failure: str, reason: str
) -> None:
    results = []

    async def answers(peer: Peer) -> None:
        while (message := await peer.receive()) is not None:
            if isinstance(message, messages.Fetch):
                await peer.stream_image(message)
            elif isinstance(message, messages.Result):
                results.append(message)
                await peer.send(messages.Ack(id=message.id))
                return
            elif message.id is not None:
                await peer.send(messages.Ack(id=message.id))

    async def upgrades(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await answers(peer)

    async def again(peer: Peer) -> None:
        await peer.login()
        await answers(peer)

    scripts = [upgrades, again] if failure == "wrong_version" else [upgrades]
    async with running(url, scripts, Recorder(failure=failure)) as stage:
        await stage.gateway.done.wait()
        assert [(result.outcome, result.reason, result.version) for result in results] == [
            ("failed", reason, "1.0")
        ]


async def test_cancel_stops_a_slow_step(autojump_clock: MockClock, url: str) -> None:
    async def cancels(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade(policy="silent"))
        await peer.expect(messages.Received)
        await peer.send(messages.Cancel(batch="b1", attempt=1, reason="aborted"))
        await peer.send(upgrade(policy="silent", attempt=2))
        await peer.expect(messages.Received)
        started = trio.current_time()
        await peer.expect(messages.Fetch)
        assert trio.current_time() - started == pytest.approx(50)

    async with running(url, [cancels], Recorder(choose_s=50)) as stage:
        await stage.gateway.done.wait()
        assert stage.device.calls == ["discard", "open"]  # type: ignore[attr-defined]


async def test_a_device_that_cannot_open_or_write_reports_it(autojump_clock: MockClock, url: str) -> None:
    class Full(Recorder):
        async def open_image(self, firmware: messages.FirmwareOffer) -> None:
            raise OSError(28, "No space left on device")

    async def script(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        result = await peer.expect(messages.Result)
        assert (result.reason, result.detail) == ("download_failed", "[Errno 28] No space left on device")

    async with running(url, [script], Full()) as stage:
        await stage.gateway.done.wait()


async def test_the_last_write_may_fail(autojump_clock: MockClock, url: str) -> None:
    class Flaw(Recorder):
        async def write(self, offset: int, data: bytes | memoryview) -> None:
            if offset + len(data) == len(IMAGE):
                raise OSError(5, "Input/output error")

    async def script(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        await peer.stream_image(await peer.expect(messages.Fetch))
        await peer.expect(messages.Progress)
        assert (await peer.expect(messages.Result)).reason == "download_failed"

    async with running(url, [script], Flaw()) as stage:
        await stage.gateway.done.wait()
        assert stage.device.calls == ["open", "discard"]  # type: ignore[attr-defined]


# -- staying alive -----------------------------------------------------------------------------------


async def test_pings_within_each_heartbeat(autojump_clock: MockClock, url: str) -> None:
    async def listens(peer: Peer) -> None:
        await peer.login(heartbeat_s=60)
        with trio.move_on_after(600):
            await peer.receive()
        assert 10 <= peer.pings <= 25

    async with running(url, [listens]) as stage:
        await stage.gateway.done.wait()


async def test_a_dead_gateway_is_found_out(autojump_clock: MockClock, url: str) -> None:
    async def dies(peer: Peer) -> None:
        await peer.login(heartbeat_s=60)
        peer.answers_pings = False
        started = trio.current_time()
        assert await peer.receive() is None
        assert trio.current_time() - started == pytest.approx(90, abs=2)

    async with running(url, [dies]) as stage:
        await stage.gateway.done.wait()
        assert stage.notes[-2].facts["reason"] == "the gateway is silent"


async def test_a_gateway_that_never_answers_the_login_is_left(autojump_clock: MockClock, url: str) -> None:
    async def mute(peer: Peer) -> None:
        assert await peer.receive() is None

    async with running(url, [mute]) as stage:
        await stage.gateway.done.wait()
        assert stage.notes[0].facts["reason"] == "the gateway did not answer the login"


@pytest.mark.parametrize("garbage", [b"{", b"[1]", b'{"type":"challenge"}', b'{"type":"new"}'])
async def test_what_the_gateway_garbles_is_no_crash(
    autojump_clock: MockClock, url: str, garbage: bytes
) -> None:
    async def garbles(peer: Peer) -> None:
        await peer.send_frame(1, garbage)  # type: ignore[arg-type]
        if garbage in (b"{", b"[1]"):
            assert await peer.receive() is None
        else:
            await peer.login()

    async with running(url, [garbles]) as stage:
        await stage.gateway.done.wait()
        assert stage.events[0] in ("disconnected", "not_understood")


async def test_broken_framing_is_no_crash(autojump_clock: MockClock, url: str) -> None:
    async def garbles(peer: Peer) -> None:
        await peer.stream.send_all(b"\xff\xff\xff\xff")
        while await peer.receive() is not None:
            pass

    async with running(url, [garbles]) as stage:
        await stage.gateway.done.wait()
        assert stage.events[0] == "disconnected"


# -- coming back -------------------------------------------------------------------------------------


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)]


async def test_back_off_is_jittered_doubles_and_is_capped(autojump_clock: MockClock, url: str) -> None:
    async with running(url, [], reconnect=Reconnect(base_s=1, cap_s=60)) as stage:
        await trio.sleep(3600)
        waits = gaps(stage.gateway.dialled)
        expected = random.Random(1)
        expected.random()  # drawn for the heartbeat
        spans = [min(60, 2**n) for n in range(len(waits))]
        assert waits == [pytest.approx(expected.random() * span) for span in spans]
        assert len(waits) > 60


async def test_a_login_resets_the_back_off(autojump_clock: MockClock, url: str) -> None:
    async def login(peer: Peer) -> None:
        await peer.login()

    async def nothing(peer: Peer) -> None:
        pass

    reconnect = Reconnect(base_s=1, cap_s=1000)
    async with running(url, [nothing] * 8 + [login], reconnect=reconnect) as stage:
        await stage.gateway.done.wait()
        assert max(gaps(stage.gateway.dialled)[:8]) > 1
        assert gaps(stage.gateway.dialled)[-1] <= 1


async def farewell(peer: Peer, message: messages.GatewayMessage) -> None:
    await peer.send(messages.Challenge(nonce="0" * 32, protocol=[1]))
    await peer.expect(messages.Hello)
    await peer.send(message)
    await peer.receive()


async def close(peer: Peer, code: int) -> None:
    await peer.login()
    await peer.close(code)
    await peer.receive()


@pytest.mark.parametrize(
    ("script", "low", "high"),
    [
        (partial(farewell, message=messages.Goodbye(retry_after_s=5)), 5, 10),
        (partial(farewell, message=messages.Goodbye(retry_after_s=2**53 - 1)), 3600, 7200),
        (partial(farewell, message=messages.Error(code="overloaded", message="m", retry_after_s=7)), 7, 14),
        (partial(farewell, message=messages.Error(code="unauthorized", message="m")), 30, 60),
        (partial(close, code=4002), 30, 60),
        (partial(close, code=4005), 30, 60),
        (partial(close, code=4003), 0, 1),
        (partial(close, code=4001), 30, 60),
    ],
)
@pytest.mark.parametrize("seed", range(5))
async def test_how_long_it_stays_away(
    autojump_clock: MockClock, url: str, script: Script, low: float, high: float, seed: int
) -> None:
    async with running(url, [script], source=random.Random(seed)) as stage:
        await stage.gateway.done.wait()
        assert low <= gaps(stage.gateway.dialled)[0] <= high


async def test_a_refusal_ends_it_if_asked_to(autojump_clock: MockClock, url: str) -> None:
    script = partial(farewell, message=messages.Error(code="unauthorized", message="no such device"))
    with pytest.raises(ExceptionGroup) as caught:
        async with running(url, [script], stop_when_refused=True):
            await trio.sleep_forever()
    assert caught.group_contains(Refused, match="unauthorized: no such device", depth=None)


async def test_mutual_login(autojump_clock: MockClock, url: str) -> None:
    async def knows(peer: Peer) -> None:
        assert (await peer.login()).nonce is not None
        await peer.send(messages.Goodbye(retry_after_s=1))
        await peer.receive()

    async def pretends(peer: Peer) -> None:
        await peer.send(messages.Challenge(nonce="0" * 32, protocol=[1]))
        await peer.expect(messages.Hello)
        await peer.send(messages.Welcome(server_time=1, heartbeat_s=60))
        assert await peer.receive() is None

    async with running(url, [knows, pretends], mutual=True) as stage:
        await stage.gateway.done.wait()
        assert stage.events[0] == "logged_in"
        assert "logged_in" not in stage.events[1:]


async def test_an_unreliable_network_only_delays(autojump_clock: MockClock, url: str) -> None:
    """Connections break every few kilobytes; in the end all bytes are there, once."""

    async def serves(peer: Peer) -> None:
        try:
            hello = await peer.login()
            if hello.version == "1.0":
                await peer.send(upgrade())
            while (message := await peer.receive()) is not None:
                if isinstance(message, messages.Fetch):
                    await peer.stream_image(message)
                elif isinstance(message, messages.Result):
                    assert message.outcome == "succeeded"
                    done.set()
                elif message.id is not None:
                    await peer.send(messages.Ack(id=message.id))
        except (trio.BrokenResourceError, AssertionError):
            assert not done.is_set()

    done = trio.Event()
    source = random.Random(7)
    wrap: Callable[[Any], Any] = lambda dial: Drops(size=20_000).dial(source, dial)  # noqa: E731
    async with running(url, [serves] * 100, wrap=wrap) as stage:
        await done.wait()
        assert isinstance(stage.device, Recorder)
        assert stage.device.image == IMAGE
        assert len(stage.gateway.dialled) > 5


class SlowStream(UnreliableStream):
    """Four hundred bytes in a second."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep(1)
        return await super().receive_some(400)


async def test_a_chunk_may_take_longer_than_a_heartbeat(autojump_clock: MockClock, url: str) -> None:
    """A slow network is no dead gateway and no stalled download: nothing is fetched twice."""

    async def serves(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade(chunk_size=65_536))  # 164 s
        await peer.expect(messages.Received)
        await finish_upgrade(peer, await peer.expect(messages.Fetch))

    def wrap(dial: Any) -> Any:
        async def dial_slow(host: str, port: int) -> trio.abc.Stream:
            return SlowStream(await dial(host, port), breaks_at=math.inf, bytes_left=math.inf)

        return dial_slow

    async with running(url, [serves, login_as_new], wrap=wrap) as stage:
        await stage.gateway.done.wait()
        assert stage.events.count("logged_in") == 2
        assert isinstance(stage.device, Recorder)
        assert bytes(stage.device.image) == IMAGE


async def test_a_message_that_cannot_leave_takes_nothing_with_it(autojump_clock: MockClock, url: str) -> None:
    """The connection is lost with the last chunk: "verifying" cannot be said, but it must be done."""

    async def breaks_off(peer: Peer) -> None:
        await peer.login()
        await peer.send(upgrade())
        await peer.expect(messages.Received)
        await peer.stream_image(await peer.expect(messages.Fetch))

    async def asked(peer: Peer) -> None:
        await peer.login()
        assert (await peer.expect(messages.Progress)).stage == "burning"

    async def cut(host: str, port: int) -> trio.abc.Stream:
        stream = await dial(host, port)
        if len(stage.gateway.dialled) == 1:
            send_all = stream.send_all

            async def send_until_the_last_chunk(data: bytes) -> None:
                if stage.client.agent.job is not None and stage.client.agent.job.phase is Phase.VERIFYING:
                    raise trio.BrokenResourceError
                await send_all(data)

            monkeypatch.setattr(stream, "send_all", send_until_the_last_chunk)
        return stream

    def wrap(original: Any) -> Any:
        nonlocal dial
        dial = original
        return cut

    dial: Any = None
    with pytest.MonkeyPatch.context() as monkeypatch:
        async with running(url, [breaks_off, asked], wrap=wrap) as stage:
            await stage.gateway.done.wait()


async def test_cancelling_closes_the_connection(autojump_clock: MockClock, url: str) -> None:
    closed = trio.Event()

    async def waits(peer: Peer) -> None:
        await peer.login()
        assert await peer.receive() is None
        closed.set()

    async with trio.open_nursery() as nursery:
        gateway = Gateway(nursery, [waits], url)
        client = Client(url, Agent("lamp", "d0", SECRET, "1.0"), Recorder(), dial=gateway.dial)
        with trio.move_on_after(5):
            await client.run()
        await closed.wait()


async def test_check_is_sent_at_once(autojump_clock: MockClock, url: str) -> None:
    async def answers(peer: Peer) -> None:
        await peer.login()
        ready.set()
        started = trio.current_time()
        check = await peer.expect(messages.Check)
        assert trio.current_time() == started
        await peer.send(messages.Ack(id=check.id))

    ready = trio.Event()
    async with running(url, [answers]) as stage:
        await ready.wait()
        await trio.testing.wait_all_tasks_blocked()
        stage.client.check()
        await stage.gateway.done.wait()
