"""The short form of the fuzzing: every kept input once, and some mutations of them, on the ordinary build.

tools/fuzz is the long form, with sanitizers and coverage (docs/reliability.md, Fuzzing).
"""

import random
from pathlib import Path

import pytest

from otagate import plane
from tests.fuzz import traces
from tests.fuzz.stage import Session, Stage
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
MUTATIONS = {
    "frames": 1_000,
    "handshake": 1_000,
    "messages": 2_000,
    "stream": 200,
    "tls": 60,
    "proxy": 500,
    "plane": 300,
    "texts": 1_000,
}
CORPUS_BYTES_MAX = 512 * 1024


def inputs_of(target: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def mutated(random_: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four changes: a bit, a byte, a part doubled, taken out, or taken from another input."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 4)):
        at = random_.randrange(len(out) + 1)
        size = random_.randint(1, 16)
        change = random_.randrange(5)
        if change == 0 and at < len(out):
            out[at] ^= 1 << random_.randrange(8)
        elif change == 1 and at < len(out):
            out[at] = random_.randrange(256)
        elif change == 2:
            out[at:at] = out[at : at + size]
        elif change == 3:
            del out[at : at + size]
        else:
            start = random_.randrange(len(other) + 1)
            out[at:at] = other[start : start + size]
    return bytes(out)


@pytest.mark.parametrize("target", TARGETS)
def test_every_kept_input(target: str) -> None:
    kept = inputs_of(target)
    assert kept
    for data in kept:
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_mutations(target: str) -> None:
    random_ = random.Random(20_260)
    kept = inputs_of(target)
    for number in range(MUTATIONS[target]):
        data = mutated(random_, random_.choice(kept), random_.choice(kept))
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"mutation {number} of {target}: {data.hex()}") from error


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < CORPUS_BYTES_MAX


def test_the_judge_notices_a_second_end() -> None:
    stage = Stage()
    session = Session()
    session.device = 7
    stage.judge(session, plane.CLOSED, 1, 7, 1000)
    with pytest.raises(AssertionError):
        stage.judge(session, plane.CLOSED, 1, 7, 1000)
    stage.close()


@pytest.mark.parametrize("counts_memory", [False, True])
def test_a_descriptor_that_is_left_is_noticed(monkeypatch: pytest.MonkeyPatch, counts_memory: bool) -> None:
    allocated = iter(range(1_000))
    monkeypatch.setattr(traces, "_allocated", (lambda: next(allocated)) if counts_memory else None)
    stages: list[Stage] = []
    with pytest.raises(AssertionError, match="descriptor"):
        traces.without_a_trace(lambda data: stages.append(Stage()))(b"")
    stages[0].close()


def test_memory_that_grows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    allocated = iter(range(1_000))
    monkeypatch.setattr(traces, "_allocated", lambda: next(allocated))
    with pytest.raises(AssertionError, match="memory grows"):
        traces.without_a_trace(lambda data: None)(b"")
