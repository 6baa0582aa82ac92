"""The messages: the table, its bounds, and what any other bytes come to."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otagate import limits
from otagate.wire import codec, messages
from otagate.wire.messages import BadMessage, BrokenMessage, decode_device_message, decode_gateway_message

ATTEMPT = {"batch": "b-1", "attempt": 1}
DIGESTS = {"md5": "0" * 32, "sha256": "a" * 64}
OFFER = {"id": "f-1", "version": "2.0", "size": 1, **DIGESTS, "chunk_size": 65536}
DEVICE_SAMPLES: dict[str, dict[str, Any]] = {
    "hello": {"product": "lamp", "device": "d:0", "version": "1.0 (x)", "mac": "0f" * 32, "nonce": "0" * 32},
    "received": ATTEMPT,
    "fetch": {"transfer": 0, "firmware": "f-1", "offset": 0, "length": 1, "chunk_size": 256},
    "stop": {"transfer": 2**32 - 1},
    "progress": {**ATTEMPT, "stage": "burning", "percent": 100},
    "result": {**ATTEMPT, "outcome": "failed", "reason": "burn_failed", "detail": "é" * 256, "version": "1"},
    "version": {"version": "~" * 100},
    "check": {},
}
SIGNATURE = {
    "key": "0123456789abcdef",
    "value": "A" * 86 + "==",
    "name": "灯-2.0",
    "expires": 2**31,
    "not_before": "1.0 1.1",
}
GATEWAY_SAMPLES: dict[str, dict[str, Any]] = {
    "challenge": {"nonce": "0" * 32, "protocol": [1]},
    "welcome": {"server_time": 1, "heartbeat_s": 60, "mac": "0" * 64},
    "upgrade": {
        **ATTEMPT,
        "policy": "silent",
        "firmware": OFFER | {"signature": SIGNATURE},
        "timeout_s": 60,
        "expires_at": 2**53 - 1,
        "allow_rollback": True,
    },
    "cancel": {**ATTEMPT, "reason": "timed_out"},
    "ack": {"id": "x"},
    "error": {"transfer": 1, "code": "not_found", "message": "m", "field": "firmware", "retry_after_s": 1},
    "goodbye": {"retry_after_s": 5},
}

NOT_IDS = ["", "a" * 65, "a\n", "a b", "a.b", "é", "a\x00", 7, True, [], {}]
NOT_COUNTS = [-1, 2**53, 2**64, 1.0, 1.5, "1", True, None, []]
NOT_HEX = [
    "",
    "0" * 31,
    "0" * 33,
    "0" * 63,
    "0" * 65,
    "A" * 32,
    "A" * 64,
    "g" * 32,
    "g" * 64,
    "0" * 32 + "\n",
    1,
]
NOT_VERSIONS = ["", "v" * 101, "v\n", "v\x7f", "é", "\t", 1]
BAD_VALUES: dict[tuple[str, str], list[Any]] = {
    ("hello", "product"): [*NOT_IDS, None],
    ("hello", "device"): ["", "a" * 129, "-a", ":a", "a/b", "a\n", "é", 1, None],
    ("hello", "version"): [*NOT_VERSIONS, None],
    ("hello", "mac"): NOT_HEX,
    ("hello", "nonce"): NOT_HEX,
    ("received", "batch"): [*NOT_IDS, None],
    ("received", "attempt"): NOT_COUNTS,
    ("fetch", "transfer"): [*NOT_COUNTS, 2**32],
    ("fetch", "firmware"): [*NOT_IDS, None],
    ("fetch", "offset"): NOT_COUNTS,
    ("fetch", "length"): [0, -1, 2**53, 1.0, "1", True],
    ("fetch", "chunk_size"): [0, 1, 128, 255, 257, 300, 65535, 524288, -256, 256.0, "256", True, None],
    ("stop", "transfer"): [*NOT_COUNTS, 2**32],
    ("progress", "batch"): [*NOT_IDS, None],
    ("progress", "attempt"): NOT_COUNTS,
    ("progress", "stage"): ["", "Burning", "burning ", "verified", 1, None],
    ("progress", "percent"): [*NOT_COUNTS, 101],
    ("result", "batch"): [*NOT_IDS, None],
    ("result", "attempt"): NOT_COUNTS,
    ("result", "outcome"): ["", "success", 0, None],
    ("result", "reason"): ["", "push_failed", "upgrade_timeout", 1],
    ("result", "detail"): ["x" * 257, 1, []],
    ("result", "version"): NOT_VERSIONS,
    ("version", "version"): [*NOT_VERSIONS, None],
    **{(kind, "id"): NOT_IDS for kind in DEVICE_SAMPLES},
}


def wire(kind: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, **fields}, ensure_ascii=False).encode()


def bad(payload: bytes) -> BadMessage:
    with pytest.raises(BadMessage) as caught:
        decode_device_message(payload)
    return caught.value


@pytest.mark.parametrize("kind", DEVICE_SAMPLES)
def test_device_message_there_and_back(kind: str) -> None:
    for fields in (DEVICE_SAMPLES[kind], DEVICE_SAMPLES[kind] | {"id": "A_z-9" * 12}):
        message = decode_device_message(wire(kind, fields))
        assert msgspec.to_builtins(message) == {"type": kind, **fields}
        assert json.loads(messages.encode(message)) == {"type": kind, **fields}


@pytest.mark.parametrize("kind", GATEWAY_SAMPLES)
def test_gateway_message_there_and_back(kind: str) -> None:
    message = decode_gateway_message(wire(kind, GATEWAY_SAMPLES[kind]))
    expected = {"type": kind, **GATEWAY_SAMPLES[kind]}
    if kind == "upgrade":
        assert isinstance(message, messages.Upgrade)
        assert message.firmware.chunk_size == 65536
    assert json.loads(messages.encode(message)) == expected


def test_samples_cover_the_table() -> None:
    for sender, samples in (("device", DEVICE_SAMPLES), ("gateway", GATEWAY_SAMPLES)):
        for entry in (each for each in messages.table() if each.sender == sender):
            names = {field.name for field in entry.fields}
            assert names - {"id"} == set(samples[entry.name]) - {"id"}
    device_fields = {
        (entry.name, field.name)
        for entry in messages.table()
        for field in entry.fields
        if entry.sender == "device"
    }
    assert device_fields == set(BAD_VALUES)


def test_every_field_is_described() -> None:
    for entry in messages.table():
        assert entry.meaning
        for field in entry.fields:
            assert field.expected
            assert field.expected != "an object" or field.name == "firmware"


@pytest.mark.parametrize(
    ("kind", "field", "value"), [(*where, value) for where, values in BAD_VALUES.items() for value in values]
)
def test_bad_field_is_named(kind: str, field: str, value: Any) -> None:
    error = bad(wire(kind, {"id": "q-1", **DEVICE_SAMPLES[kind], field: value}))
    assert error.field == field
    assert error.message.startswith(f"{field} must be ")
    assert error.id == (None if field == "id" else "q-1")


@pytest.mark.parametrize("kind", DEVICE_SAMPLES)
def test_missing_field_is_named(kind: str) -> None:
    entry = next(each for each in messages.table() if each.name == kind)
    for field in entry.fields:
        rest = {name: value for name, value in DEVICE_SAMPLES[kind].items() if name != field.name}
        if field.required:
            error = bad(wire(kind, rest | {"id": "q"}))
            assert (error.field, error.message, error.id) == (field.name, f"{field.name} is missing", "q")
        else:
            assert getattr(decode_device_message(wire(kind, rest)), field.name) in (None, 65536)


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"id": "q"}',
        b'{"type": 1}',
        b'{"type": null}',
        b'{"type": ["hello"]}',
        b'{"type": ""}',
        b'{"type": "Hello"}',
        b'{"type": "welcome"}',
        b'{"type": "upgrade", "batch": "b"}',
        b'{"type": "check", "type": "stop"}',
        b'{"type": "' + b"x" * 3000 + b'"}',
    ],
)
def test_unknown_type(payload: bytes) -> None:
    error = bad(payload)
    assert error.field == "type"
    assert len(error.message) < 100


def test_id_is_echoed_whatever_is_bad() -> None:
    assert bad(b'{"id": "q", "type": "nothing"}').id == "q"
    assert bad(b'{"transfer": -1, "type": "stop", "id": "q"}').id == "q"
    assert bad(b'{"type": "stop", "transfer": 99999999999999999999999, "id": "q"}').id == "q"
    assert bad(b'{"type": "stop", "transfer": 1e999, "id": "q"}').id == "q"
    assert bad(b'{"type": "stop", "id": "a b"}').id is None


def test_reason_only_for_failed() -> None:
    fields = {**ATTEMPT, "outcome": "succeeded", "version": "2"}
    assert decode_device_message(wire("result", fields)) == messages.Result(
        batch="b-1", attempt=1, outcome="succeeded", version="2"
    )
    assert bad(wire("result", fields | {"reason": "other"})).field == "reason"


def test_unknown_fields_are_ignored_and_null_is_absent() -> None:
    extra = {"future": {"a": [1, 2.5, None, "x"]}, "id": None}
    assert decode_device_message(wire("check", extra)) == messages.Check()
    assert decode_device_message(b'{"type":"check","x":' + b"9" * 3000 + b"}") == messages.Check()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"null",
        b"1",
        b'"hello"',
        b"[]",
        b'[{"type":"check"}]',
        b"{",
        b'{"type":"check"',
        b'{"type":"check",}',
        b'{"type":"check"} x',
        b'{"type":"check"}{"type":"check"}',
        b"{'type':'check'}",
        b'{"type":"check","x":NaN}',
        b'{"type":"check","x":Infinity}',
        b'{"type":"stop","transfer":NaN}',
        b'{"type":"stop","transfer":01}',
        b'{"type":"stop","transfer":-1',  # bad, and then broken: broken
        b'{"type":"nothing"',
        b'\xef\xbb\xbf{"type":"check"}',
        b'{"type":"check","id":"\\ud800"}',
        b'{"type":"check","id":"\\udc00"}',
        b'{"type":"\\ud800"}',
        b'{"type":"result","batch":"b","attempt":1,"outcome":"failed","detail":"\\ud800\\u0041"}',
        b'{"type":"check","id":"\xff"}',
        b'{"type":"check","x":' + b"[" * 4000 + b"]" * 4000 + b"}",
        b"[" * 4000,
        b'{"x":' * 800,
        b'{"type":"check","id":"a\x01"}',
    ],
)
def test_broken(payload: bytes) -> None:
    with pytest.raises(BrokenMessage):
        decode_device_message(payload)
    with pytest.raises(BrokenMessage):
        decode_gateway_message(payload)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a", "burning", "failed", "other", 0, 1, 256, "0" * 32]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted({field.name for entry in messages.table() for field in entry.fields}))
KINDS = st.sampled_from([*DEVICE_SAMPLES, *GATEWAY_SAMPLES])
OBJECTS = st.tuples(KINDS, st.dictionaries(NAMES, JSON, max_size=6), st.booleans()).map(
    lambda parts: json.dumps(
        {"type": parts[0]}
        | (({**DEVICE_SAMPLES, **GATEWAY_SAMPLES}[parts[0]] if parts[2] else {}) | parts[1])
    ).encode()
)


@settings(max_examples=1000)
@given(
    st.one_of(
        st.binary(max_size=64),
        st.text(max_size=64).map(lambda text: text.encode()),
        JSON.map(lambda value: json.dumps(value).encode()),
        OBJECTS,
        st.tuples(OBJECTS, st.integers(0, 200), st.binary(max_size=3)).map(
            lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
        ),
    )
)
@example(b'{"type":"result","batch":"b","attempt":1,"outcome":"failed","detail":"\\udfff"}')
def test_three_outcomes_and_no_fourth(payload: bytes) -> None:
    for decode in (decode_device_message, decode_gateway_message):
        outcome = outcome_of(decode, payload)
        if isinstance(outcome, BadMessage):
            assert len(outcome.message) <= 200
            assert outcome.id is None or set(outcome.id) <= set(messages.ID_ALPHABET)
        elif not isinstance(outcome, BrokenMessage):
            assert decode(messages.encode(outcome)) == outcome
        if codec.utf8_feed(codec.UTF8_ACCEPT, payload) == codec.UTF8_ACCEPT:  # else it never leaves the link
            assert isinstance(outcome, BrokenMessage) != is_json_object(payload)


def outcome_of(decode: Callable[[bytes], Any], payload: bytes) -> Any:
    try:
        return decode(payload)
    except (BrokenMessage, BadMessage) as error:
        return error


def is_json_object(payload: bytes) -> bool:
    """Asked of Python's own parser, without its leniencies: NaN, lone surrogates, a byte order mark."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(payload.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return False
    return isinstance(value, dict)


def test_longest_gateway_messages_fit() -> None:
    longest = "x" * 64
    offer = messages.FirmwareOffer(
        id=longest, version="\\" * 100, size=2**53 - 1, md5="0" * 32, sha256="0" * 64, chunk_size=262144
    )
    upgrade = messages.Upgrade(
        batch=longest,
        attempt=2**53 - 1,
        policy="standard",
        firmware=offer,
        timeout_s=2**53 - 1,
        expires_at=2**53 - 1,
        id=longest,
    )
    error = messages.Error(
        id=longest,
        transfer=2**32 - 1,
        code=messages.ErrorCode.UNAUTHORIZED,
        message="é" * 200,
        field="x" * 32,
        retry_after_s=2**53 - 1,
    )
    for message in (upgrade, error):
        assert len(messages.encode(message)) <= limits.gateway_message_bytes_max


def test_too_large_gateway_message_is_a_programmers_error() -> None:
    error = messages.Error(code=messages.ErrorCode.INTERNAL, message="\x01" * 200)
    with pytest.raises(AssertionError):
        messages.encode(error)


def test_structs_check_ids_when_made() -> None:
    with pytest.raises(messages.FieldError, match="batch"):
        messages.Received(batch="a b", attempt=1)


def test_login_mac() -> None:
    secret, nonce = "s000000000000000000000000000001", "00112233445566778899aabbccddeeff"
    mac = messages.login_mac(secret, nonce, "lamp", "d0")
    assert mac == "40e3367dcc350b32242f2a0003e8f9b0328bafb295e7d37f9b528f15c6f28e33"
    assert messages.login_mac(secret, nonce, "lamp", "d1") != mac


def test_gateway_mac() -> None:
    mac = messages.gateway_mac("s000000000000000000000000000001", "f" * 32, "0" * 32)
    assert mac == "7da2523601c5dfe9a0db546b1f085463e36c95606dc27550015a17de66142f2e"
