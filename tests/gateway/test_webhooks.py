"""Webhooks: what is told, when it is told again, and that a bad receiver harms nobody.

The first part has attempts answered by `Receiver`, on virtual time; the second one makes real attempts at a
real server.
"""

import hashlib
import hmac
import itertools
import json
import logging
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from otagate import limits
from otagate.errors import Invalid
from otagate.gateway.posting import Poster, Result, checked_url, signature
from otagate.gateway.views_operators import CreateWebhookRequest
from otagate.gateway.webhooks import backoff_ms
from otagate.store.operators import Webhook
from otagate.store.sealing import Sealer, about_webhook
from otagate.wire import messages
from tests.gateway.harness import Harness, TestStore, failure, gateway_harness, reach

TAKEN = Result(status=204)
DOWN = Result(error="refused")


class Receiver:
    """Stands in for the poster: notes attempts, and answers as it is told."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.attempts: list[tuple[int, str, str, dict[str, Any]]] = []  # ms, webhook, delivery, body
        self.answer: Callable[[str], Awaitable[Result] | Result] = lambda webhook: TAKEN
        harness.gateway.webhooks.poster = self  # type: ignore[assignment]

    async def post(self, webhook: Webhook, delivery: str, event: str, body: bytes) -> Result:
        found = json.loads(body)
        assert (found["id"], found["event"]) == (delivery, event)
        self.attempts.append((self.harness.now_ms, webhook.id, delivery, found))
        answer = self.answer(webhook.id)
        return answer if isinstance(answer, Result) else await answer

    @property
    def events(self) -> list[tuple[str, str]]:
        """(webhook, event) of every attempt."""
        return [(webhook, body["event"]) for _, webhook, _, body in self.attempts]


async def subscribe(harness: Harness, *events: str, url: str = "http://192.0.2.9/hook") -> str:
    request = CreateWebhookRequest(url, list(events or ("batch_ended", "device_failed")))  # type: ignore[arg-type]
    return (await harness.service.create_webhook(request)).id


async def pending(harness: Harness) -> list[int]:
    return [webhook.pending for webhook in await harness.store.webhooks()]


@asynccontextmanager
async def told() -> AsyncIterator[tuple[Harness, Receiver]]:
    """A gateway with a subscription and its receiver."""
    async with gateway_harness() as harness:
        receiver = Receiver(harness)
        await subscribe(harness)
        yield harness, receiver


async def fail_a_device(harness: Harness) -> str:
    """Device d1 fails in a batch in which d2 stays offline."""
    _, batch = await reach(harness, "failed")
    await harness.rest()
    return batch


async def test_what_happens_is_told_once(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        batch = await fail_a_device(harness)
        assert receiver.events == [("w1", "device_failed")]
        body = receiver.attempts[0][3]
        assert (body["data"]["identifier"], body["data"]["batch"]) == ("d1", batch)
        assert body["data"]["remark"] == (await harness.details(batch, "d1")).remark
        await harness.service.abort_batch(batch)
        await harness.rest()
        assert receiver.events[1:] == [("w1", "batch_ended")]
        assert receiver.attempts[1][3]["data"]["status"] == "aborted"
        await trio.sleep(7200)
        assert len(receiver.attempts) == 2
        assert await pending(harness) == [0]


async def test_an_expired_batch_is_told(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        await reach(harness, "to_be_pushed", validity_days=1)
        await harness.jump(86_400)
        assert receiver.events == [("w1", "batch_ended")]
        assert receiver.attempts[0][3]["data"]["ended_by"] == "expired"


async def test_the_outbox_is_written_with_what_it_tells(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        await reach(harness, "upgrading")
        device = await harness.log_in("d1")
        harness.store.hold()
        device.send(failure("b1", id="f"))
        await harness.rest()
        assert receiver.events == []
        assert await pending(harness) == [0]
        harness.store.release()
        await harness.rest()
        assert receiver.events == [("w1", "device_failed")]


async def test_nobody_has_subscribed(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        receiver = Receiver(harness)
        await fail_a_device(harness)
        assert not harness.gateway.webhooks
        assert receiver.events == []
        assert await harness.store.deliveries(1, limit=10) == []


async def test_what_fails_is_tried_again_ever_more_seldom_for_a_day(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with told() as (harness, receiver):
        tried, take = trio.open_memory_channel[None](1000)

        def refuse(webhook: str) -> Result:
            tried.send_nowait(None)
            return Result(status=500)

        receiver.answer = refuse
        await fail_a_device(harness)
        longest = limits.webhook_backoff_ms_min
        with trio.move_on_after(limits.webhook_give_up_ms / 1000 + 1):
            async for _ in take:
                await harness.rest()
                await harness.jump(longest / 2000 - 1)  # nothing may come before half of the wait
                longest = min(2 * longest, limits.webhook_backoff_ms_max)
        first = receiver.attempts[0][2]  # when the batch expires there is another one
        times = [ms for ms, _, delivery, _ in receiver.attempts if delivery == first]
        waits = [after - before for before, after in itertools.pairwise(times)]
        for failures, wait_ms in enumerate(waits):
            longest = min(limits.webhook_backoff_ms_min * 2**failures, limits.webhook_backoff_ms_max)
            assert longest / 2 - 50 <= wait_ms <= longest + 50, (failures, wait_ms)
        assert times[-1] - times[0] < limits.webhook_give_up_ms
        assert times[-1] - times[0] > limits.webhook_give_up_ms - 2 * limits.webhook_backoff_ms_max
        for _ in range(48):
            await harness.jump(3600)
        assert await pending(harness) == [0]
    assert "webhook_given_up" in caplog.text
    assert Result(status=500).reason == "answered 500"


async def test_it_comes_through_when_the_receiver_is_back(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        receiver.answer = lambda webhook: DOWN
        await fail_a_device(harness)
        await trio.sleep(600)
        receiver.answer = lambda webhook: TAKEN
        await trio.sleep(1200)
        count = len(receiver.attempts)
        assert await pending(harness) == [0]
        await trio.sleep(7200)
        assert len(receiver.attempts) == count


async def test_after_a_restart_what_waits_is_sent(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        receiver.answer = lambda webhook: DOWN
        batch = await fail_a_device(harness)
        delivery = receiver.attempts[0][2]
        store: TestStore = harness.store
    async with gateway_harness(store) as harness:
        receiver = Receiver(harness)
        await harness.rest()
        assert [(found[2], found[3]["data"]["batch"]) for found in receiver.attempts] == [(delivery, batch)]
        assert await pending(harness) == [0]


async def test_a_slow_receiver_delays_nobody(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        receiver = Receiver(harness)
        slow, _ = await subscribe(harness), await subscribe(harness)

        async def never() -> Result:
            await trio.sleep_forever()
            raise AssertionError

        receiver.answer = lambda webhook: never() if webhook == slow else TAKEN
        batch = await fail_a_device(harness)
        device = await harness.log_in("d2")
        upgrade = await device.receive(messages.Upgrade, within_s=1)
        assert upgrade.batch == batch
        await harness.service.abort_batch(batch)
        await harness.rest()
        assert receiver.events.count(("w2", "device_failed")) == 1
        assert receiver.events.count(("w2", "batch_ended")) == 1
        assert await pending(harness) == [2, 0]


async def test_few_attempts_at_a_time(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        running = most = 0

        async def slowly() -> Result:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await trio.sleep(1)
            running -= 1
            return TAKEN

        receiver.answer = lambda webhook: slowly()
        names = [f"d{n}" for n in range(10)]
        await harness.set_up(*names)
        devices = [await harness.log_in(name) for name in names]
        batch = await harness.create_batch()
        for device in devices:
            await device.receive(messages.Upgrade)
            device.send(failure(batch, id="f"))
        await trio.sleep(60)
        assert most == limits.webhook_attempts_running_max
        assert len(receiver.attempts) == 11
        assert await pending(harness) == [0]


async def test_a_webhook_that_goes_is_told_nothing_more(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        receiver.answer = lambda webhook: DOWN
        await fail_a_device(harness)
        count = len(receiver.attempts)
        await harness.service.delete_webhook("w1")
        await trio.sleep(3600)
        assert len(receiver.attempts) == count
        assert not harness.gateway.webhooks
        assert await harness.store.deliveries(1, limit=10) == []


async def test_a_full_outbox_says_so(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(limits, "outbox_deliveries_max", 1)
    async with told() as (harness, receiver):
        receiver.answer = lambda webhook: DOWN
        batch = await fail_a_device(harness)
        await harness.service.abort_batch(batch)
        await harness.rest()
        (found,) = await harness.store.webhooks()
        assert (found.pending, found.dropped) == (1, 1)
    assert "webhook_outbox_full" in caplog.text


def test_back_off_is_bounded_and_jittered() -> None:
    waits = {backoff_ms(100) for _ in range(100)}
    assert len(waits) > 50
    assert max(waits) <= limits.webhook_backoff_ms_max
    assert min(waits) >= limits.webhook_backoff_ms_max // 2


# -- batches that do not move ---------------------------------------------------------------------------


@asynccontextmanager
async def watched(minutes: int = 10) -> AsyncIterator[tuple[Harness, Receiver]]:
    async with gateway_harness(webhook={"stalled_minutes": minutes}) as harness:
        receiver = Receiver(harness)
        await subscribe(harness, "batch_stalled")
        yield harness, receiver


async def test_a_stall_is_told_once(autojump_clock: object) -> None:
    async with watched() as (harness, receiver):
        await reach(harness, "to_be_upgraded", timeout_minutes=1000)
        await trio.sleep(9 * 60)
        assert receiver.events == []
        await trio.sleep(3 * 60)
        assert receiver.events == [("w1", "batch_stalled")]
        data = receiver.attempts[0][3]["data"]
        assert (data["batch"], data["devices_online"]) == ("b1", 1)
        assert 600 <= data["quiet_s"] <= 720
        await trio.sleep(3600)
        assert len(receiver.events) == 1


async def test_after_a_transition_it_may_stall_again(autojump_clock: object) -> None:
    async with watched() as (harness, receiver):
        device, batch = await reach(harness, "to_be_upgraded", timeout_minutes=1000)
        await trio.sleep(15 * 60)
        assert len(receiver.events) == 1
        device.send(messages.Progress(batch=batch, attempt=1, stage="downloading", percent=1, id="p"))
        await device.receive(messages.Ack)
        await trio.sleep(9 * 60)
        assert len(receiver.events) == 1
        await trio.sleep(5 * 60)
        assert len(receiver.events) == 2


async def test_who_is_offline_does_not_stall_a_batch(autojump_clock: object) -> None:
    async with watched() as (harness, receiver):
        await reach(harness, "to_be_pushed")
        await trio.sleep(3600)
        assert receiver.events == []


async def test_nor_does_who_has_ended(autojump_clock: object) -> None:
    async with watched() as (harness, receiver):
        await reach(harness, "failed")
        await trio.sleep(3600)
        assert receiver.events == []


# -- real attempts --------------------------------------------------------------------------------------

Answer = Callable[[trio.abc.Stream], Awaitable[None]]


class Server:
    """An HTTP server of few words: reads a request, then does as it is told with the connection."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.asked = trio.Event()
        self.url = ""

    async def handle(self, stream: trio.abc.Stream) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            data = await stream.receive_some()
            if not data:
                return
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < size:
            body += await stream.receive_some()
        self.heads.append(head)
        self.bodies.append(body)
        self.asked.set()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.answer(stream)

    def header(self, name: str) -> str:
        """A header of the last request."""
        lines = self.heads[-1].decode().split("\r\n")[1:]
        return {key.lower(): value for key, value in (line.split(": ", 1) for line in lines)}[name]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, server.handle, 0, host="127.0.0.1"))
        server.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/hook?x=1"
        yield server
        nursery.cancel_scope.cancel()


SEALER = Sealer(bytes(32))


def saying(text: bytes) -> Answer:
    return lambda stream: stream.send_all(text)


def hook(url: str) -> Webhook:
    return Webhook(1, url, ("batch_ended",), SEALER.seal("secret", about_webhook(url)), 0)


async def attempt(server: Server) -> Result:
    poster = Poster(SEALER, lambda: 1_800_000_000.7)
    return await poster.post(hook(server.url), "d7", "batch_ended", b'{"id":"d7"}')


async def test_a_delivery_is_signed() -> None:
    async with serving(saying(b"HTTP/1.1 204 No Content\r\n\r\n")) as server:
        assert await attempt(server) == Result(204)
        assert server.heads[0].startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
        assert server.bodies == [b'{"id":"d7"}']
        assert server.header("content-type") == "application/json"
        assert server.header("x-otagate-event") == "batch_ended"
        assert server.header("x-otagate-delivery") == "d7"
        digest = hmac.new(b"secret", b'1800000000.{"id":"d7"}', hashlib.sha256).hexdigest()
        assert server.header("x-otagate-signature") == f"t=1800000000,v1={digest}"
        assert signature("other", 1_800_000_000, b'{"id":"d7"}') != server.header("x-otagate-signature")


@pytest.mark.parametrize("status", [200, 201, 299, 301, 302, 400, 404, 410, 500, 503])
async def test_only_2xx_is_a_delivery(status: int) -> None:
    text = b"HTTP/1.1 %d X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 2\r\n\r\nok" % status
    async with serving(saying(text)) as server:
        result = await attempt(server)
        assert result == Result(status)
        assert result.delivered == (status < 300)
        assert len(server.heads) == 1  # no redirect is followed


async def test_a_flood_is_not_read() -> None:
    async def flood(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            await stream.send_all(bytes(10_000))

    async with serving(flood) as server:
        assert await attempt(server) == Result(200)


@pytest.mark.parametrize(
    "text", [b"", b"what?\r\n\r\n", b"HTTP/1.1 200 OK\r\nX", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
async def test_broken_answers(text: bytes) -> None:
    async with serving(saying(text)) as server:
        result = await attempt(server)
        assert not result.delivered
        assert result.error


async def test_the_status_decides_though_the_rest_is_cut_off() -> None:
    async with serving(saying(HEAD)) as server:
        assert await attempt(server) == Result(200)


async def test_nobody_is_there() -> None:
    async with serving(saying(b"")) as server:
        url = server.url
    result = await Poster(SEALER).post(hook(url), "d1", "test", b"{}")
    assert result.error
    assert not result.delivered


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
TOO_LATE = Result(error="no answer within 10 s")


@pytest.mark.parametrize(
    ("begun", "expected"), [(b"", TOO_LATE), (HEAD[:-10], TOO_LATE), (HEAD, Result(200))]
)
async def test_who_does_not_answer_is_given_ten_seconds(
    mock_clock: MockClock, begun: bytes, expected: Result
) -> None:
    async def hang(stream: trio.abc.Stream) -> None:
        await stream.send_all(begun)
        await trio.sleep_forever()

    async with serving(hang) as server:
        results = []

        async def run() -> None:
            results.append(await attempt(server))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await server.asked.wait()
            mock_clock.jump(limits.webhook_timeout_ms / 1000 - 0.1)
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            mock_clock.jump(0.2)
        assert results == [expected]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of localhost, signed by itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    return certificate, key


async def test_https_needs_a_certificate_that_is_trusted(certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = Server(saying(b"HTTP/1.1 204 No Content\r\n\r\n"))
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(trio.serve_tcp, handler(server, context), 0, host="127.0.0.1")
        )
        port = listener.socket.getsockname()[1]
        poster = Poster(SEALER)
        result = await poster.post(hook(f"https://localhost:{port}/"), "d1", "test", b"{}")
        assert not result.delivered
        assert "CERTIFICATE_VERIFY_FAILED" in result.reason
        assert server.bodies == []
        assert poster._trust is not None
        poster._trust.load_verify_locations(certificate[0])
        assert await poster.post(hook(f"https://localhost:{port}/"), "d1", "test", b"{}") == Result(204)
        assert server.bodies == [b"{}"]
        nursery.cancel_scope.cancel()


def handler(server: Server, context: ssl.SSLContext) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """What a server does with a connection, behind TLS."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await server.handle(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    return handle


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://h/",
        "http://",
        "http:///path",
        "//h/",
        "http://h:0/",
        "http://h:99999/",
        "http://h:x/",
        "http://[::1/",
        "http://u:p@h/",
        "http://u@h/",
        "http://h/ü",
        "http://h/a b",
        "http://h/a\nb",
        "javascript:alert(1)",
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked_url(url)
    assert caught.value.field == "url"


@pytest.mark.parametrize(
    "url", ["http://h", "https://h.example:8443/a?b=c", "http://[::1]:80/", "http://10.0.0.1/"]
)
def test_good_urls(url: str) -> None:
    assert checked_url(url) == url


async def test_a_trial(autojump_clock: object) -> None:
    async with told() as (harness, receiver):
        found = await harness.service.test_webhook("w1")
        assert (found.delivered, found.status, found.error) == (True, 204, None)
        assert receiver.events == [("w1", "test")]
        receiver.answer = lambda webhook: DOWN
        found = await harness.service.test_webhook("w1")
        assert (found.delivered, found.status, found.error) == (False, None, "refused")
