"""A session cut in two at every byte, and at all of them: on both links, plain and below TLS."""

import ssl

import pytest

from otagate import plane
from tests.fuzz.stage import LINKS
from tests.fuzz.streams import Heard, check_words, play, play_sealed, steps
from tests.plane.rig import CLOSE, CONTINUATION, OPENINGS, PING, PONG, TEXT, both_links, frame

EURO = "€ and 𝄞".encode()


def session(link: str) -> bytes:
    """What may come behind the opening: bytes of each kind of frame, of each form of length."""
    said = [frame(link, TEXT, b"hello again"), frame(link, PONG, b""), frame(link, TEXT, b"hello")]
    said += [frame(link, PING, b"one"), frame(link, TEXT, EURO), frame(link, TEXT, b"x" * 130)]
    if link == "websocket":
        for at in range(1, len(EURO), 3):  # within characters, too
            said += [frame(link, TEXT, EURO[:at], fin=False), frame(link, PING, b"between %d" % at)]
            said += [frame(link, CONTINUATION, b"", fin=False), frame(link, CONTINUATION, EURO[at:])]
    return b"".join([*said, frame(link, TEXT, b""), frame(link, CLOSE, b"\x03\xe8" + EURO)])


@pytest.fixture(params=LINKS)
def whole(request: pytest.FixtureRequest) -> tuple[str, bytes, Heard]:
    """A link, what is said, and what comes of it in one piece."""
    link: str = request.param
    said = OPENINGS[link] + session(link)
    heard = play(link, said, [])
    check_words(link, session(link), heard[0])
    assert heard[0][-1] == (plane.CLOSED, 1000)
    return link, said, heard


def test_at_every_byte(whole: tuple[str, bytes, Heard]) -> None:
    link, said, heard = whole
    for at in range(1, len(said)):
        assert play(link, said, [at]) == heard, at


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_into_many(whole: tuple[str, bytes, Heard], step: int) -> None:
    link, said, heard = whole
    assert play(link, said, list(range(step, len(said), step))) == heard


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_records_at_every_byte(whole: tuple[str, bytes, Heard], version: ssl.TLSVersion) -> None:
    link, said, heard = whole
    for step in (1, 7, 40):
        assert play_sealed(link, said, steps(len(said), 37), step, version, None) == heard
    for at in range(1, len(said), 5):
        assert play_sealed(link, said, [at], 1 << 20, version, None) == heard, at


@both_links
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_changed_byte_of_a_record_is_noticed(link: str, version: ssl.TLSVersion) -> None:
    said = OPENINGS[link] + frame(link, TEXT, b"hello")
    for at in range(0, len(said) + 20, 3):
        heard, frames, _ = play_sealed(link, said, [len(said) - 1], 1 << 20, version, (at, 4))
        assert heard == []
        assert all(opcode == TEXT for opcode, _ in frames)  # the challenge, or nothing
