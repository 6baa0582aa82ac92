"""Networks that break, on purpose."""

import random

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from otagate.sdk.simulation import Drops


@pytest.mark.parametrize(
    ("text", "drops"),
    [
        ("30s", Drops(seconds=30)),
        ("0.5s", Drops(seconds=0.5)),
        ("500KB", Drops(size=500_000)),
        ("2MiB", Drops(size=2 * 1024**2)),
        ("7B", Drops(size=7)),
        ("30s,2MiB", Drops(seconds=30, size=2 * 1024**2)),
    ],
)
def test_parse(text: str, drops: Drops) -> None:
    assert Drops.parse(text) == drops


@pytest.mark.parametrize("text", ["", "30", "s", "0s", "-1s", "5 parsecs", "1s,", "2 MiB", "1e3s"])
def test_parse_nonsense(text: str) -> None:
    with pytest.raises(ValueError):
        Drops.parse(text)


async def test_breaks_after_so_many_bytes() -> None:
    ours, theirs = memory_stream_pair()

    async def dial(host: str, port: int) -> trio.abc.Stream:
        return ours

    stream = await Drops(size=1000).dial(random.Random(3), dial)("h", 1)
    await theirs.send_all(b"x" * 5000)
    received = 0
    try:
        while True:
            received += len(await stream.receive_some(100))
    except trio.BrokenResourceError:
        pass
    assert 500 <= received <= 1600


async def test_breaks_after_so_long(autojump_clock: MockClock) -> None:
    ours, _theirs = memory_stream_pair()

    async def dial(host: str, port: int) -> trio.abc.Stream:
        return ours

    stream = await Drops(seconds=100).dial(random.Random(3), dial)("h", 1)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    assert 50 <= trio.current_time() <= 150
