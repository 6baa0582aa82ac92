"""MD5 in lanes against hashlib: every variant of this processor, ragged lengths, cuts anywhere."""

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate.hashing.lanes import md5_of_streams, variants

EDGES = [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 1000]


def expected(streams: list[bytes]) -> list[bytes]:
    return [hashlib.md5(stream).digest() for stream in streams]


@pytest.mark.parametrize("variant", variants())
def test_ragged_lengths(variant: str) -> None:
    chance = random.Random(1)
    for count in [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 40]:
        lengths = [chance.choice([*EDGES, chance.randrange(20_000)]) for _ in range(count)]
        streams = [chance.randbytes(length) for length in lengths]
        for rounds in [1, 2, 5]:
            assert md5_of_streams(streams, rounds, variant) == expected(streams), (lengths, rounds)


@pytest.mark.parametrize("variant", variants())
def test_equal_streams_fill_every_lane(variant: str) -> None:
    streams = [bytes([number]) * 8192 for number in range(32)]
    assert md5_of_streams(streams, variant=variant) == expected(streams)


@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(1, 9), st.sampled_from(variants()))
def test_any_streams(streams: list[bytes], rounds: int, variant: str) -> None:
    assert md5_of_streams(streams, rounds, variant) == expected(streams)


def test_every_variant_is_named() -> None:
    assert variants()[-1] == "plain"
    with pytest.raises(ValueError, match="variant"):
        md5_of_streams([], variant="imagined")
