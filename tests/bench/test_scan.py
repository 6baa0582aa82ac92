"""The fleet's reading of JSON: any object, in any key order and spacing."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate.bench.scan import fields_of

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=10), VALUES, max_size=16)


@given(OBJECTS, st.sampled_from([None, 2]), st.booleans())
def test_any_object(value: dict[str, object], indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    found = fields_of(text.encode())
    assert found is not None
    raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    expected = {}
    for name, item in raw.items():
        written = bytes(item)
        key = json.dumps(name, ensure_ascii=ascii_only)[1:-1].encode()
        expected[key] = written[1:-1] if written.startswith(b'"') else written
    assert found == expected


@given(st.binary(max_size=80))
def test_any_bytes_end(data: bytes) -> None:
    fields_of(data)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'"a"', b"1", b'{"a":1', b'{"a"}', b'{"a":', b'{"a":1,', b"{a:1}"]
)
def test_no_object(text: bytes) -> None:
    assert fields_of(text) is None


def test_fields_beyond_the_bound_are_passed_over() -> None:
    found = fields_of(json.dumps({f"k{number}": number for number in range(40)}).encode())
    assert found is not None
    assert list(found) == [b"k%d" % number for number in range(16)]
