"""Everything that docs/protocol.md calls broken or wrong, from a device, on both links.

Broken: one error, then the close code named there. Wrong: one error that names the field, and the very next
message is served as if nothing had happened.
"""

from contextlib import suppress
from typing import Any

import pytest
import trio

from tests.end_to_end.device import (
    BINARY,
    CLOSE,
    PING,
    SECRET,
    TEXT,
    Device,
    encode,
    hmac_hex,
    tcp_frame,
    websocket_frame,
)
from tests.end_to_end.test_table import begin
from tests.end_to_end.world import OLD, World

LONG = "x" * 5000

# name → (close code, bytes of the frame on either link; None: this link has no such thing)
BROKEN: dict[str, tuple[int, bytes | None, bytes | None]] = {
    "opcode_3": (1002, websocket_frame(3, b""), tcp_frame(3, b"")),
    "opcode_0": (1002, websocket_frame(0, b"x"), tcp_frame(0, b"x")),
    "opcode_11": (1002, websocket_frame(11, b""), tcp_frame(11, b"")),
    "opcode_255": (1002, None, tcp_frame(255, b"")),
    "not_masked": (1002, websocket_frame(TEXT, b"{}", mask=False), None),
    "reserved_bit": (1002, b"\xc1\x80\0\0\0\0", None),
    "control_in_pieces": (1002, websocket_frame(PING, b"", final=False), None),
    "text_within_text": (
        1002,
        websocket_frame(TEXT, b"{", final=False) + websocket_frame(TEXT, b"}"),
        None,
    ),
    "long_ping": (1002, websocket_frame(PING, bytes(126)), tcp_frame(PING, bytes(126))),
    "close_of_one_byte": (1002, websocket_frame(CLOSE, b"\x03"), tcp_frame(CLOSE, b"\x03")),
    "close_code_1005": (1002, websocket_frame(CLOSE, b"\x03\xed"), tcp_frame(CLOSE, b"\x03\xed")),
    "not_utf_8": (1007, websocket_frame(TEXT, b'{"type":"\xff"}'), tcp_frame(TEXT, b'{"type":"\xff"}')),
    "surrogate": (1007, websocket_frame(TEXT, b"\xed\xa0\x80"), tcp_frame(TEXT, b"\xed\xa0\x80")),
    "not_json": (1007, websocket_frame(TEXT, b'{"type":'), tcp_frame(TEXT, b'{"type":')),
    "empty": (1007, websocket_frame(TEXT, b""), tcp_frame(TEXT, b"")),
    "no_object": (1007, websocket_frame(TEXT, b'["hello"]'), tcp_frame(TEXT, b'["hello"]')),
    "two_objects": (1007, websocket_frame(TEXT, b"{}{}"), tcp_frame(TEXT, b"{}{}")),
    "broken_behind_a_bad_field": (
        1007,
        websocket_frame(TEXT, b'{"type":"nonsense","x":'),
        tcp_frame(TEXT, b'{"type":"nonsense","x":'),
    ),
    "deep": (1007, websocket_frame(TEXT, b'{"a":' * 200), tcp_frame(TEXT, b'{"a":' * 200)),
    "too_large": (1009, websocket_frame(TEXT, LONG.encode()), tcp_frame(TEXT, LONG.encode())),
    "much_too_large": (1009, b"\x81\xff" + b"\x7f" + b"\xff" * 7 + bytes(4), b"\x01\xff\xff\xff"),
    "binary": (1003, websocket_frame(BINARY, b"\0" * 20), tcp_frame(BINARY, b"\0" * 20)),
}


async def expect_broken(device: Device, code: int) -> None:
    error = await device.receive("error")
    assert error["code"] == "bad_message"
    assert await device.wait_closed() == code
    assert not device.inbox


BROKEN_ON_LINK = [
    (link, name)
    for name, (_, websocket, tcp) in BROKEN.items()
    for link, data in (("websocket", websocket), ("tcp", tcp))
    if data is not None
]


@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize(("link", "name"), BROKEN_ON_LINK)
async def test_broken_is_one_error_and_the_end(world: World, link: str, name: str, logged_in: bool) -> None:
    code, websocket, tcp = BROKEN[name]
    data = tcp if link == "tcp" else websocket
    assert data is not None
    device = await world.connect("d1", link)
    if logged_in:
        await device.log_in(OLD)
    await device.send_bytes(data)
    await expect_broken(device, code)
    # and nobody else minds
    other = await world.log_in("d1", link)
    await other.quiet()


@pytest.mark.parametrize("logged_in", [False, True])
async def test_the_bound_of_a_message(world: World, link: str, logged_in: bool) -> None:
    bound = 4096 if logged_in else 1024
    for size, fits in ((bound, True), (bound + 1, False)):
        device = await world.connect("d1", link)
        if logged_in:
            await device.log_in(OLD)
        text = encode("version", version="1", filling="")
        await device.send_frame(TEXT, text[:-2] + b"x" * (size - len(text)) + text[-2:])
        if not fits:
            await expect_broken(device, 1009)
        elif logged_in:
            await device.quiet()
        else:
            assert (await device.receive("error"))["code"] == "conflict"
            await device.log_in(OLD)


@pytest.mark.parametrize(
    "first", [b"X", b"OTG\x02", b"OTGX", b"\x16\x03\x01", b"\r\n\r\n", b"\0", b"POST /device HTTP/1.1\r\n"]
)
async def test_another_first_byte_is_closed_at_once(world: World, first: bytes) -> None:
    stream = await trio.open_tcp_stream(*world.address)
    async with stream:
        await stream.send_all(first)
        with trio.fail_after(10):
            with suppress(trio.BrokenResourceError):
                assert await stream.receive_some() == b""


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (("GET /device", "GET /elsewhere"), 404),
        (("Upgrade: websocket", "Upgrade: h2c"), 426),
        (("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"), 426),
        (("otagate.v1", "mqtt"), 400),
        (("Sec-WebSocket-Key: ", "Sec-WebSocket-Key: x"), 400),
        (("HTTP/1.1", "HTTP/1.0"), 505),
        (("Host: gateway\r\n", ""), 400),
        (("Host: gateway", f"Host: gateway\r\nX-Long: {LONG}"), 431),
    ],
)
async def test_a_refused_handshake(world: World, change: tuple[str, str], status: int) -> None:
    head = (
        "GET /device HTTP/1.1\r\nHost: gateway\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: otagate.v1\r\n\r\n"
    )
    assert change[0] in head
    stream = await trio.open_tcp_stream(*world.address)
    async with stream:
        await stream.send_all(head.replace(*change, 1).encode())
        with trio.fail_after(10):
            answer = await stream.receive_some()
    assert answer.split(b" ")[1] == str(status).encode(), answer


# -- wrong -----------------------------------------------------------------------------------------

ATTEMPT = {"batch": "b1", "attempt": 1}
PROGRESS = {"type": "progress", **ATTEMPT, "stage": "downloading", "percent": 1}
RESULT = {"type": "result", **ATTEMPT, "outcome": "failed"}
FETCH = {"type": "fetch", "transfer": 1, "firmware": "f1", "offset": 0}
MISSING = object()

# (a good message, the field, its bad values)
WRONG: list[tuple[dict[str, Any], str, list[Any]]] = [
    ({"type": "received", **ATTEMPT}, "type", [MISSING, None, 1, "", "Received", "welcome", LONG[:99]]),
    ({"type": "received", **ATTEMPT}, "batch", [MISSING, None, 1, "", "b 1", "b/1", "ü", "b" * 65]),
    ({"type": "received", **ATTEMPT}, "attempt", [MISSING, None, "1", -1, 1.5, 2**53, True, 1e300]),
    ({"type": "received", **ATTEMPT}, "id", [1, "", "a b", "é", "i" * 65]),
    (PROGRESS, "stage", [MISSING, None, "", "Burning", "sleeping", 1]),
    (PROGRESS, "percent", [MISSING, None, -1, 101, "1", 0.5]),
    (RESULT, "outcome", [MISSING, None, "", "maybe", 0]),
    (RESULT, "reason", ["", "push_failed", "upgrade_timeout", 1]),
    (RESULT | {"outcome": "succeeded"}, "reason", ["other"]),
    (RESULT, "detail", ["d" * 257, 1]),
    (RESULT, "version", ["", "v" * 101, "v\n", "vé", 2]),
    ({"type": "version"}, "version", [MISSING, None, "", "v" * 101, "\x7f", 2.0]),
    (FETCH, "transfer", [MISSING, None, -1, 2**32, "1"]),
    (FETCH, "firmware", [MISSING, None, "", "f 1", 1]),
    (FETCH, "offset", [MISSING, None, -1, 2**53, 300_000]),
    (FETCH, "length", [0, -1, 2**53, "all"]),
    (FETCH, "chunk_size", [0, 128, 255, 1000, 2**19, "64K"]),
    ({"type": "stop"}, "transfer", [MISSING, None, -1, 2**32]),
    ({"type": "check"}, "id", ["a b"]),
]
HELLO_WRONG: list[tuple[str, list[Any]]] = [
    ("type", [MISSING, "hallo"]),
    ("product", [MISSING, None, "", "p p", "p" * 65, 1]),
    ("device", [MISSING, None, "", "-d", "d d", "d" * 129, 1]),
    ("version", [MISSING, None, "", "v" * 101, "\n"]),
    ("mac", ["", "0" * 63, "G" * 64, "A" * 64, 1]),
    ("nonce", ["", "0" * 31, "G" * 32, 1]),
    ("id", ["", "a b", 1]),
]


def changed(message: dict[str, Any], field: str, value: Any) -> bytes:
    found = {**message, field: value}
    if value is MISSING:
        del found[field]
    if "type" not in found:
        return encode("", **found).replace(b'"type":"",', b"").replace(b'"type":""', b"")
    return encode(**found)


@pytest.mark.parametrize(("message", "field", "values"), WRONG)
async def test_wrong_is_one_error_and_the_connection_stays(
    world: World, link: str, message: dict[str, Any], field: str, values: list[Any]
) -> None:
    batch, device = await begin(world, link, "upgrading", retries=1)
    assert batch == "b1"
    before = await world.details(batch, "d1")
    for value in values:
        named = message if field == "id" else message | {"id": "mine"}
        await device.send_frame(TEXT, changed(named, field, value))
        error = await device.receive("error")
        assert (error["code"], error["field"]) == ("bad_message", field), (value, error)
        assert error.get("id") == (None if field == "id" else "mine")
        assert LONG[:99] not in error["message"]
    await device.quiet()
    assert await world.details(batch, "d1") == before
    assert (await device.ask("check"))["type"] == "upgrade"


@pytest.mark.parametrize(("field", "values"), HELLO_WRONG)
async def test_a_wrong_hello_may_be_said_again(
    world: World, link: str, field: str, values: list[Any]
) -> None:
    device = await world.connect("d1", link)
    for value in values:
        await device.send_frame(TEXT, changed(device.hello(OLD), field, value))
        error = await device.receive("error")
        assert (error["code"], error["field"]) == ("bad_message", field), (value, error)
    await device.log_in(OLD, unknown_field={"of": ["a", "newer", "device"]}, nonce=None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mac": "0" * 64},
        {"mac": None},
        {"device": "d2"},
        {"device": "nobody"},
        {"product": "none"},
    ],
)
async def test_who_does_not_prove_itself_is_unauthorized(
    world: World, link: str, wrong: dict[str, Any]
) -> None:
    device = await world.connect("d1", link)
    await device.send(**device.hello(OLD, id="h") | wrong)
    error = await device.receive("error")
    assert error.pop("message") == "unknown device or wrong mac"
    assert error == {"type": "error", "code": "unauthorized", "id": "h"}
    assert await device.wait_closed() == 4001


async def test_messages_at_the_wrong_moment(world: World, link: str) -> None:
    device = await world.connect("d1", link)
    assert (await device.ask("check"))["code"] == "conflict"
    assert (await device.ask("received", **ATTEMPT))["code"] == "conflict"
    await device.log_in(OLD)
    answer = await device.ask(**device.hello(OLD))
    assert (answer["type"], answer["code"]) == ("error", "conflict")
    answer = await device.ask(**FETCH)
    assert (answer["code"], answer["transfer"]) == ("not_found", 1)
    assert (await device.ask("stop", transfer=1))["type"] == "ack"
    assert (await device.ask("check"))["type"] == "ack"


async def test_only_the_own_firmware(world: World, link: str) -> None:
    other = await world.add_firmware("7.0")
    _, device = await begin(world, link, "to_be_upgraded")
    for name in (other, "f99", "nonsense"):
        answer = await device.ask("fetch", transfer=7, firmware=name, offset=0)
        assert (answer["type"], answer["code"], answer["transfer"]) == ("error", "not_found", 7)
    answer = await device.ask("fetch", transfer=8, firmware="f1", offset=300_000)
    assert (answer["code"], answer["field"], answer["transfer"]) == ("bad_message", "offset", 8)


async def test_the_gateway_proves_itself(world: World, link: str) -> None:
    device = await world.connect("d1", link)
    nonce = "0123456789abcdef" * 2
    welcome = await device.log_in(OLD, nonce=nonce)
    assert welcome["mac"] == hmac_hex(SECRET, f"gateway:{nonce}:{device.nonce}")
