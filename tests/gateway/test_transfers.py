"""Downloads: what may be fetched, what the plane is told, and which stream belongs to which attempt.

Where digests are computed a worker thread is at work, so time is real there (a clock that does not jump):
these tests wait for what they wait for, never for time.
"""

import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import xxhash

from otagate import hashing, plane
from otagate.gateway import transfers
from otagate.wire import messages
from tests.gateway.harness import (
    RUNNING,
    SIZE,
    Harness,
    SimulatedDevice,
    failure,
    gateway_harness,
    kinds,
    reach,
)

IMAGE = bytes(number * 7 % 251 for number in range(SIZE))


def fetch(transfer: int = 1, offset: int = 0, **fields: Any) -> messages.Fetch:
    return messages.Fetch(**{"transfer": transfer, "firmware": "f1", "offset": offset} | fields)


async def wait(condition: Callable[[], object]) -> None:
    """Until it holds."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - a thread or the gateway, which tell no event
            await trio.sleep(0.001)


# -- what may be fetched -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "firmware"),
    [
        ("to_be_retried", "f1"),
        ("failed", "f1"),
        ("succeeded", "f1"),
        *((state, "f2") for state in RUNNING),
        *((state, "nothing") for state in RUNNING),
    ],
)
async def test_only_the_firmware_of_the_running_upgrade(
    autojump_clock: object, state: str, firmware: str
) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, state)
        await harness.add_firmware("3.0")
        device.send(fetch(9, firmware=firmware, id="f"))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.transfer, refusal.id) == ("not_found", 9, "f")
        await device.expect_silence()
        assert harness.plane.streams == []
        assert await harness.state(batch, "d1") == state


async def test_nothing_may_be_fetched_without_an_upgrade(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        await harness.set_up("d1")
        device = await harness.log_in("d1")
        device.send(fetch(9))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.transfer, refusal.id) == ("not_found", 9, None)


@pytest.mark.parametrize("offset", [SIZE, SIZE + 1, 2**53 - 1])
async def test_an_offset_behind_the_end(autojump_clock: object, offset: int) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        device.send(fetch(9, offset, id="f"))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.field, refusal.transfer, refusal.id) == (
            "bad_message",
            "offset",
            9,
            "f",
        )
        assert await harness.state(batch, "d1") == "pushed", "what is refused acknowledges nothing"


@pytest.mark.parametrize(
    ("field", "value"), [("chunk_size", 1000), ("chunk_size", 128), ("chunk_size", 2**19), ("length", 0)]
)
async def test_bad_fields_of_a_fetch(autojump_clock: object, field: str, value: int) -> None:
    async with gateway_harness() as harness:
        device, _ = await reach(harness, "pushed")
        body = {"type": "fetch", "transfer": 1, "firmware": "f1", "offset": 0, "id": "f"} | {field: value}
        device.send_raw(messages.msgspec.json.encode(body))
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.field, refusal.id) == ("bad_message", field, "f")


async def test_a_fetch_acknowledges_the_push(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "pushed")
        harness.have_image()
        device.send(fetch(5, id="f"))
        assert await device.receive_all() == [messages.Ack(id="f")]
        details = await harness.details(batch, "d1")
        assert (details.state, details.waiting_for) == ("to_be_upgraded", "a download slot")
        assert harness.plane.streams == [(device.conn, 5, 1, 0, SIZE, 65536, 0, 0)]
        harness.plane.start(device)
        await harness.rest()
        details = await harness.details(batch, "d1")
        assert (details.state, details.stage, details.waiting_for) == ("upgrading", "downloading", None)
        device.send(fetch(6, 65536, id="g"))
        assert await device.receive_all() == [messages.Ack(id="g")]
        assert harness.plane.streams[-1] == (device.conn, 6, 1, 65536, SIZE, 65536, 0, 0)


# -- streams that follow each other --------------------------------------------------------------------


async def streaming(harness: Harness) -> tuple[SimulatedDevice, str]:
    """A device whose transfer 1 runs."""
    device, batch = await reach(harness, "to_be_upgraded")
    harness.have_image()
    device.send(fetch(1))
    await harness.rest()
    harness.plane.start(device)
    await harness.rest()
    assert harness.plane.running == {device.conn: 1}
    return device, batch


@pytest.mark.parametrize("transfer", [1, 2], ids=["the same number", "another number"])
async def test_a_new_fetch_replaces(autojump_clock: object, transfer: int) -> None:
    async with gateway_harness() as harness:
        device, batch = await streaming(harness)
        device.send(fetch(transfer, 65536))
        await harness.rest()
        assert harness.plane.running == {device.conn: transfer}
        await harness.service.abort_batch(batch)
        assert harness.plane.running == {}


@pytest.mark.parametrize("transfer", [1, 2], ids=["the same number", "another number"])
async def test_stop_and_fetch_anew(autojump_clock: object, transfer: int) -> None:
    async with gateway_harness() as harness:
        device, batch = await streaming(harness)
        device.send(messages.Stop(transfer=1, id="s"), fetch(transfer, 65536, id="f"))
        assert [each.id for each in await device.receive_all()] == ["s", "f"]
        assert harness.plane.running == {device.conn: transfer}
        await harness.rest()
        await harness.service.abort_batch(batch)
        assert harness.plane.running == {}, "the gateway still knows whose stream this is"


async def test_stop_of_another_transfer(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, _ = await streaming(harness)
        device.send(messages.Stop(transfer=2, id="s"))
        assert await device.receive_all() == [messages.Ack(id="s")]
        assert harness.plane.running == {device.conn: 1}
        device.send(messages.Stop(transfer=1, id="t"))
        assert await device.receive_all() == [messages.Ack(id="t")]
        assert harness.plane.running == {}


async def test_a_failed_stream_is_told(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await streaming(harness)
        harness.plane.end(device, plane.FAILED)
        refusal = await device.receive(messages.Error)
        assert (refusal.code, refusal.transfer) == ("internal", 1)
        assert await harness.state(batch, "d1") == "upgrading"


async def test_a_stream_that_is_done(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, _ = await streaming(harness)
        harness.plane.end(device, plane.DONE)
        await device.expect_silence()
        assert harness.gateway.transfers.downloads == {}


@pytest.mark.parametrize("how", ["failure", "success", "time-out", "lost", "superseded"])
async def test_what_ends_an_attempt_ends_its_stream(autojump_clock: object, how: str) -> None:
    async with gateway_harness() as harness:
        device, batch = await streaming(harness)
        if how == "failure":
            device.send(failure(batch))
        elif how == "success":
            device.send(messages.Version(version="2.0"))
        elif how == "time-out":
            await harness.jump(601)
        elif how == "lost":
            device.lose()
        else:
            await harness.log_in("d1")
        await harness.rest()
        assert harness.plane.running == {}
        assert harness.gateway.transfers.downloads == {}


async def test_a_late_report_of_an_older_attempt_leaves_the_stream_alone(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await reach(harness, "to_be_retried")
        harness.have_image()
        await harness.jump(300)
        await device.receive(messages.Upgrade)
        device.send(fetch(4))
        await harness.rest()
        device.send(failure(batch, attempt=1, id="m"))
        assert kinds(await device.receive_all()) == ["ack", "cancel"]
        assert harness.plane.running == {device.conn: 4}


async def test_the_image_is_dropped_with_its_last_batch(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await streaming(harness)
        await harness.add_firmware("2.1")  # the same bytes
        await harness.add_device("d3")
        other = await harness.create_batch("f2", range="directed", devices=["d3"])
        await harness.service.abort_batch(batch)
        await harness.jump(1)
        assert 1 in harness.plane.paths, "another batch in progress has the same bytes"
        await harness.service.abort_batch(other)
        await harness.jump(1)
        assert harness.plane.paths == {}
        assert device.closed is None


async def test_the_image_is_dropped_when_its_batch_completes(autojump_clock: object) -> None:
    async with gateway_harness() as harness:
        device, batch = await streaming(harness)
        device.send(messages.Version(version="2.0"))
        second = await harness.log_in("d2", "2.0")
        await harness.jump(1)
        assert (await harness.service.get_batch(batch)).status == "completed"
        assert harness.plane.paths == {}
        assert second.closed is None


# -- digests of a real file ----------------------------------------------------------------------------


@asynccontextmanager
async def with_image(folder: Path, data: bytes = IMAGE) -> AsyncIterator[tuple[Harness, SimulatedDevice]]:
    """A device pushed firmware f1, whose image is a file; time is real."""
    sha256 = hashlib.sha256(data).hexdigest()
    (folder / sha256).write_bytes(data)
    async with gateway_harness(path_of=lambda name: folder / name) as harness:
        await harness.service.create_product(_product())
        await harness.add_firmware("2.0", size=SIZE, sha256=sha256)
        for name in ("d1", "d2"):
            await harness.add_device(name)
        await wait(lambda: len(harness.gateway.presence) == 0)
        device = await harness.log_in("d1")
        await harness.create_batch()
        await device.receive(messages.Upgrade)
        yield harness, device


def _product() -> Any:
    from otagate.gateway.views import CreateProductRequest

    return CreateProductRequest("lamp", "Lamp")


@pytest.mark.parametrize(
    ("offset", "length", "chunk"),
    [
        (0, None, 65536),
        (0, SIZE, 256),
        (0, 2**40, 1024),
        (0, 65536, 65536),
        (65536, None, 65536),
        (1, None, 65536),
        (65535, 2, 65536),
        (100, 50, 256),
        (0, 100, 256),
        (256, 300, 256),
        (300, 1000, 256),
        (SIZE - 1, None, 256),
        (SIZE - 1, 1, 65536),
        (SIZE - 700, 699, 256),
        (0, SIZE - 1, 65536),
        (99_999, 5, 262144),
    ],
)
async def test_digests_of_every_chunk(tmp_path: Path, offset: int, length: int | None, chunk: int) -> None:
    """A chunk's digest is that of the table where the plane takes it from there, and else head or tail."""
    async with with_image(tmp_path) as (harness, device):
        device.send(fetch(3, offset, length=length, chunk_size=chunk, id="f"))
        await device.receive(messages.Ack)
        await wait(lambda: harness.plane.streams)
        ((conn, transfer, image, start, end, chunk_bytes, head, tail),) = harness.plane.streams
        assert (conn, transfer, start, chunk_bytes) == (device.conn, 3, offset, chunk)
        assert end == min(SIZE, offset + (length or SIZE))
        table = struct.unpack(f">{-(-SIZE // chunk)}I", harness.plane.digests[image][chunk])
        at = start
        while at < end:
            stop = min(end, (at // chunk + 1) * chunk)
            whole = at % chunk == 0 and (stop % chunk == 0 or stop == SIZE)
            digest = table[at // chunk] if whole else head if at == start else tail
            assert digest == xxhash.xxh32_intdigest(IMAGE[at:stop])
            at = stop


async def test_digests_are_computed_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = hashing.chunk_digests_of_file
    monkeypatch.setattr(hashing, "chunk_digests_of_file", lambda *args: calls.append(args) or real(*args))
    async with with_image(tmp_path) as (harness, device):
        second = await harness.log_in("d2")
        await second.receive(messages.Upgrade)
        device.send(fetch(1))
        second.send(fetch(1))
        await wait(lambda: len(harness.plane.streams) == 2)
        device.send(fetch(2, 1))
        await wait(lambda: len(harness.plane.streams) == 3)
        assert len(calls) == 1
        device.send(fetch(3, chunk_size=256))
        await wait(lambda: len(harness.plane.streams) == 4)
        assert len(calls) == 2
        assert [command[0] for command in harness.plane.commands].count(plane.IMAGE) == 1


def preparing(harness: Harness) -> bool:
    """Whether digests are being computed for anybody."""
    return any("_prepare" in task.name for task in harness.gateway.nursery.child_tasks)


class Held:
    """Digests are computed while the test lets them be."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = trio.Event()
        self.go_on = trio.Event()
        real = transfers.trio.to_thread.run_sync

        async def run_sync(function: Any, *args: Any, **kwargs: Any) -> Any:
            self.begun.set()
            await self.go_on.wait()
            return await real(function, *args, **kwargs)

        monkeypatch.setattr(transfers.trio.to_thread, "run_sync", run_sync)


async def test_a_flood_of_odd_fetches_costs_one_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each needs digests of its own; what is computed is the first one's, then the newest's."""
    held = Held(monkeypatch)
    async with with_image(tmp_path) as (harness, device):
        device.send(*(fetch(number, 1 + number, id=f"f{number}") for number in range(100)))
        for _ in range(100):
            await device.receive(messages.Ack)
        await held.begun.wait()
        assert sum("_prepare" in task.name for task in harness.gateway.nursery.child_tasks) == 1
        held.go_on.set()
        await wait(lambda: not preparing(harness))
        assert [(transfer, offset) for _, transfer, _, offset, *_ in harness.plane.streams] == [(99, 100)]


@pytest.mark.parametrize("how", ["stop", "failure", "abort", "lost", "superseded"])
async def test_what_is_over_before_its_digests_are_ready_is_not_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    held = Held(monkeypatch)
    async with with_image(tmp_path) as (harness, device):
        device.send(fetch(1))
        await held.begun.wait()
        if how == "stop":
            device.send(messages.Stop(transfer=1, id="s"))
            await device.receive(messages.Ack)
        elif how == "failure":
            device.send(failure("b1", id="r"))
            await device.receive(messages.Ack)
        elif how == "abort":
            await harness.service.abort_batch("b1")
        elif how == "lost":
            device.lose()
            await wait(lambda: len(harness.gateway.presence) == 0)
        else:
            await harness.log_in("d1")
        held.go_on.set()
        await wait(lambda: not preparing(harness))
        assert harness.plane.streams == []


@pytest.mark.parametrize("transfer", [1, 2], ids=["the same number", "another number"])
@pytest.mark.parametrize("then", ["done", "stop", "abort"])
async def test_a_fetch_that_waits_for_digests_while_an_older_stream_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transfer: int, then: str
) -> None:
    async with with_image(tmp_path) as (harness, device):
        device.send(fetch(1))
        await wait(lambda: harness.plane.running)
        held = Held(monkeypatch)
        device.send(fetch(transfer, chunk_size=256))
        await held.begun.wait()
        if then == "done":
            harness.plane.put(plane.ENDED, device.conn, device.number, 1, plane.DONE)  # the older one
            device.send(messages.Check(id="c"))
            await device.receive(messages.Upgrade)
            held.go_on.set()
            await wait(lambda: len(harness.plane.streams) == 2)
            assert harness.plane.running == {device.conn: transfer}
            return
        if then == "stop":
            device.send(messages.Stop(transfer=transfer, id="s"))
            await device.receive(messages.Ack)
        else:
            await harness.service.abort_batch("b1")
        assert harness.plane.running == {}, "nothing streams that nobody wants"
        held.go_on.set()
        await wait(lambda: not preparing(harness))
        assert harness.plane.running == {}


@pytest.mark.parametrize("how", ["missing", "short"])
@pytest.mark.parametrize("offset", [0, 77])
async def test_an_image_that_cannot_be_read(tmp_path: Path, how: str, offset: int) -> None:
    async with with_image(tmp_path) as (harness, device):
        path = tmp_path / hashlib.sha256(IMAGE).hexdigest()
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes(IMAGE[:10])
        device.send(fetch(4, offset, id="f"))
        found = [await device.receive(), await device.receive()]
        error = next(each for each in found if isinstance(each, messages.Error))
        assert (error.code, error.transfer) == ("internal", 4)
        assert harness.gateway.transfers.downloads == {}
        path.write_bytes(IMAGE)
        device.send(fetch(5, offset))
        await wait(lambda: harness.plane.streams)
