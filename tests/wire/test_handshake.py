"""The WebSocket handshake: compiled = twin on every head, and both against `websockets` as an oracle.

Where ours is stricter than the oracle on purpose (see `stricter_on_purpose`): a path other than /device,
Host not exactly once and valid, an offer of subprotocols without otagate.v1, a `#` or a control character in
the target, a request line that is no token, a second Content-Length or one with an odd form of 0. Where it
is looser: other protocols beside websocket in Upgrade, an empty list in Upgrade or Connection beside a good
one, extensions and Origin, which are ignored and not parsed.
"""

import re
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from otagate.wire import codec, twin

CODECS = [pytest.param(codec, id="compiled"), pytest.param(twin, id="twin")]
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # of RFC 6455 section 1.3
LINE = "GET /device HTTP/1.1"
HOST = "Host: gateway.example:7700"
UPGRADE = "Upgrade: websocket"
CONNECTION = "Connection: Upgrade"
SECRET = f"Sec-WebSocket-Key: {KEY}"
VERSION = "Sec-WebSocket-Version: 13"
GOOD = [LINE, HOST, UPGRADE, CONNECTION, SECRET, VERSION]


def head_of(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def without(line: str) -> list[str]:
    return [each for each in GOOD if each != line]


def instead(line: str, *others: str) -> list[str]:
    return [other for each in GOOD for other in (others if each == line else (each,))]


ACCEPTED = [
    GOOD,
    instead(LINE, "GET /device?firmware=1.2.3&x=%20 HTTP/1.1"),
    instead(LINE, "GET /device? HTTP/1.1"),
    instead(LINE, "GET http://gateway.example:7700/device HTTP/1.1"),
    instead(LINE, "GET HTTPS://gateway.example/device?x HTTP/1.1"),
    instead(UPGRADE, "upgrade:WebSocket"),
    instead(UPGRADE, "UPGRADE: \t websocket \t "),
    instead(CONNECTION, "Connection: keep-alive, Upgrade"),
    instead(CONNECTION, "Connection: keep-alive", "connection: ,, upgrade ,"),
    instead(SECRET, "sec-websocket-key:" + KEY),
    instead(SECRET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="),  # spare bits set
    [*GOOD, "Content-Length: 0"],
    [*GOOD, "Origin: http://x", "User-Agent: \xe9t\xe9", "Empty:", "X: " + "y" * 3000],
]

OURS_ONLY = [  # the oracle refuses these, we need not
    instead(UPGRADE, "Upgrade: h2c, websocket"),
    instead(UPGRADE, "Upgrade: websocket/13, websocket"),
    instead(UPGRADE, "Upgrade:", "Upgrade: websocket"),
    [*GOOD, "Sec-WebSocket-Extensions: ;;;"],
]

REFUSED = [
    ([], 400),
    ([""], 400),
    (["GET"], 400),
    (["GET /device"], 400),
    (instead(LINE, " GET /device HTTP/1.1"), 400),
    (instead(LINE, "GET  /device HTTP/1.1"), 400),
    (instead(LINE, "GET /device HTTP/1.1 "), 400),
    (instead(LINE, "GET /de vice HTTP/1.1"), 400),
    (instead(LINE, "GET /device#x HTTP/1.1"), 400),
    (instead(LINE, "GET /dev\x00ice HTTP/1.1"), 400),
    (instead(LINE, "GET /devic\xe9 HTTP/1.1"), 400),
    (instead(LINE, "G@T /device HTTP/1.1"), 400),
    (instead(LINE, "GET /device HTTP/1"), 400),
    (instead(LINE, "GET /device http/1.1"), 400),
    (instead(LINE, "GET /device HTTP/1.11"), 400),
    (instead(LINE, "GET /device HTTP/1.0"), 505),
    (instead(LINE, "GET /device HTTP/2.0"), 505),
    (instead(LINE, "POST /device HTTP/1.1"), 405),
    (instead(LINE, "get /device HTTP/1.1"), 405),
    (instead(LINE, "GETT /device HTTP/1.1"), 405),
    (instead(LINE, "GET / HTTP/1.1"), 404),
    (instead(LINE, "GET /device/ HTTP/1.1"), 404),
    (instead(LINE, "GET /devic HTTP/1.1"), 404),
    (instead(LINE, "GET /devices HTTP/1.1"), 404),
    (instead(LINE, "GET device HTTP/1.1"), 404),
    (instead(LINE, "GET * HTTP/1.1"), 404),
    (instead(LINE, "GET http://h HTTP/1.1"), 404),
    (instead(LINE, "GET http://h?/device HTTP/1.1"), 404),
    (instead(LINE, "GET ftp://h/device HTTP/1.1"), 404),
    (without(HOST), 400),
    ([*GOOD, HOST], 400),
    (instead(HOST, "Host:"), 400),
    (instead(HOST, "Host: a b"), 400),
    (instead(HOST, "Host: a/b"), 400),
    (instead(HOST, "Host: a@b"), 400),
    (instead(HOST, "Host : a"), 400),
    (instead(HOST, " Host: a"), 400),
    (instead(HOST, "Host"), 400),
    (instead(HOST, ": a"), 400),
    ([*GOOD, "X: a", " folded"], 400),
    ([*GOOD, "X: a\x00b"], 400),
    ([*GOOD, "X: a\x7fb"], 400),
    ([*GOOD, "X: a\rb"], 400),
    ([*GOOD, "X: a\nb: c"], 400),
    ([*GOOD, "X\xe9: a"], 400),
    ([*GOOD, "Content-Length: 1"], 400),
    ([*GOOD, "Content-Length: +0"], 400),
    ([*GOOD, "Content-Length: 0", "Content-Length: 5"], 400),
    ([*GOOD, "Transfer-Encoding: chunked"], 400),
    (without(UPGRADE), 426),
    (instead(UPGRADE, "Upgrade: h2c"), 426),
    (instead(UPGRADE, "Upgrade: websockets"), 426),
    (instead(UPGRADE, "Upgrade: websocket/13"), 426),
    (instead(UPGRADE, "Upgrade: websocket x"), 400),
    (instead(UPGRADE, "Upgrade: websocket/"), 400),
    (instead(UPGRADE, "Upgrade: web@socket"), 400),
    (without(CONNECTION), 426),
    (instead(CONNECTION, "Connection: close"), 426),
    (instead(CONNECTION, "Connection: upgrade;x"), 400),
    (without(VERSION), 426),
    (instead(VERSION, "Sec-WebSocket-Version: 8"), 426),
    (instead(VERSION, "Sec-WebSocket-Version: 013"), 426),
    (instead(VERSION, "Sec-WebSocket-Version: 13, 8"), 426),
    ([*GOOD, VERSION], 400),
    (without(SECRET), 400),
    ([*GOOD, SECRET], 400),
    (instead(SECRET, "Sec-WebSocket-Key:"), 400),
    (instead(SECRET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ="), 400),
    (instead(SECRET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==="), 400),
    (instead(SECRET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA"), 400),
    (instead(SECRET, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j-Q=="), 400),
    ([*GOOD, "Sec-WebSocket-Protocol: mqtt"], 400),
    ([*GOOD, "Sec-WebSocket-Protocol: OTAGATE.V1"], 400),
    ([*GOOD, "Sec-WebSocket-Protocol:"], 400),
    ([*GOOD, "Sec-WebSocket-Protocol: otagate.v1 x"], 400),
]


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize("lines", ACCEPTED + OURS_ONLY)
def test_accepted(implementation: ModuleType, lines: list[str]) -> None:
    status, accept, subprotocol = implementation.parse_head(head_of(lines))
    assert status == 101
    assert len(accept) == 28
    assert not subprotocol
    if SECRET in lines:
        assert accept == ACCEPT


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(
    "offer",
    [
        ["Sec-WebSocket-Protocol: otagate.v1"],
        ["Sec-WebSocket-Protocol: mqtt,otagate.v1 , x"],
        ["Sec-WebSocket-Protocol: mqtt", "sec-websocket-protocol:otagate.v1"],
    ],
)
def test_subprotocol_is_answered(implementation: ModuleType, offer: list[str]) -> None:
    head = head_of([*GOOD, *offer])
    assert implementation.parse_head(head) == (101, ACCEPT, True)
    assert implementation.handshake_response(head) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\nSec-WebSocket-Protocol: otagate.v1\r\n\r\n"
    )


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(("lines", "status"), REFUSED)
def test_refused(implementation: ModuleType, lines: list[str], status: int) -> None:
    head = head_of(lines)
    assert implementation.parse_head(head) == (status, b"", False)
    response = implementation.handshake_response(head)
    assert response.startswith(b"HTTP/1.1 %d " % status)
    fields, _, body = response.partition(b"\r\n\r\n")
    assert b"\r\nContent-Length: %d" % len(body) in fields
    assert re.search(rb"\r\nConnection: (upgrade, )?close(\r\n|$)", fields)
    assert (b"\r\nSec-WebSocket-Version: 13" in fields) == (status == 426)
    assert (b"\r\nAllow: GET" in fields) == (status == 405)


@pytest.mark.parametrize("implementation", CODECS)
@pytest.mark.parametrize(
    "head",
    [
        head_of(GOOD)[:-2],
        head_of(GOOD)[:-1],
        head_of(GOOD) + b"x",
        head_of(GOOD).replace(b"\r\n", b"\n"),
        head_of(GOOD)[:-2] + b"\n\n",
        head_of(GOOD)[:-4] + b"\n\r\n",
        head_of(GOOD)[:-2] + b"\rx",
        b"\r\n" + head_of(GOOD),
    ],
)
def test_head_that_ends_wrongly_is_refused(implementation: ModuleType, head: bytes) -> None:
    assert implementation.parse_head(head)[0] == 400


@pytest.mark.parametrize("implementation", CODECS)
def test_echo_takes_any_path_and_subprotocol(implementation: ModuleType) -> None:
    head = head_of([*instead(LINE, "GET /chat?x HTTP/1.1"), "Sec-WebSocket-Protocol: chat"])
    assert implementation.parse_head(head, any_path=True) == (101, ACCEPT, False)
    assert implementation.parse_head(head) == (404, b"", False)
    assert implementation.parse_head(head_of(instead(LINE, "POST / HTTP/1.1")), any_path=True)[0] == 405


def oracle_accepts(head: bytes) -> bytes | None:
    """The Sec-WebSocket-Accept of `websockets`, or None if it refuses the head."""
    protocol = ServerProtocol()
    protocol.receive_data(head)
    requests = [event for event in protocol.events_received() if isinstance(event, Request)]
    if not requests:
        return None
    response = protocol.accept(requests[0])
    return response.headers["Sec-WebSocket-Accept"].encode() if response.status_code == 101 else None


def stricter_on_purpose(head: bytes) -> bool:
    """Does ours refuse this head for a rule that the oracle leaves to others?"""
    line, _, rest = head.decode("latin-1").partition("\r\n")
    target = re.fullmatch(r"GET (\S+) HTTP/1\.1", line)
    if target is None or re.search(r"[^!-~]|#", target[1]):
        return True
    if re.sub(r"^https?://[^/?]*", "", target[1], flags=re.IGNORECASE).partition("?")[0] != "/device":
        return True
    hosts = re.findall(r"(?mi)^host:[ \t]*(.*?)[ \t]*\r$", rest)
    if len(hosts) != 1 or not re.fullmatch(twin.HOST, hosts[0]):
        return True
    offers = re.findall(r"(?mi)^sec-websocket-protocol:[ \t]*(.*?)[ \t]*\r$", rest)
    offered = [name.strip(" \t") for offer in offers for name in offer.split(",")]
    return bool(offers) and "otagate.v1" not in offered


def looser_on_purpose(head: bytes) -> bool:
    text = head.decode("latin-1")
    upgrades = re.findall(r"(?mi)^upgrade:[ \t]*(.*?)[ \t]*\r$", text)
    lists = upgrades + re.findall(r"(?mi)^(?:connection|sec-websocket-protocol):[ \t]*(.*?)[ \t]*\r$", text)
    names = [name for upgrade in upgrades for name in upgrade.split(",") if name.strip(" \t")]
    empty = any(not value.strip(" \t,") for value in lists)
    origins = re.findall(r"(?mi)^origin:", text)
    extensions = re.findall(r"(?mi)^sec-websocket-extensions:", text)
    return len(names) != 1 or empty or len(origins) > 1 or bool(extensions)


def check_against_oracle(head: bytes) -> None:
    status, accept, _ = codec.parse_head(head)
    theirs = oracle_accepts(head)
    if status == 101:
        assert theirs == accept or (theirs is None and looser_on_purpose(head))
    else:
        assert theirs is None or stricter_on_purpose(head)


@pytest.mark.parametrize("lines", [*ACCEPTED, *OURS_ONLY, *(lines for lines, _ in REFUSED)])
def test_table_against_oracle(lines: list[str]) -> None:
    check_against_oracle(head_of(lines))


@pytest.mark.parametrize("lines", ACCEPTED)
def test_oracle_accepts_what_we_accept(lines: list[str]) -> None:
    assert oracle_accepts(head_of(lines)) is not None


FIELD_LINES = st.sampled_from(
    [
        *GOOD[1:],
        *(line for lines in (*ACCEPTED, *OURS_ONLY, *(bad for bad, _ in REFUSED)) for line in lines[1:]),
    ]
)
REQUEST_LINES = st.one_of(
    st.just(LINE),
    st.sampled_from([lines[0] for lines, _ in REFUSED if lines] + [lines[0] for lines in ACCEPTED]),
)


@st.composite
def heads(draw: st.DrawFn) -> bytes:
    """A good head with fields dropped, added, shuffled, and now and then bytes changed."""
    fields = [line for line in GOOD[1:] if draw(st.integers(0, 19))] + draw(st.lists(FIELD_LINES, max_size=2))
    head = bytearray(head_of([draw(REQUEST_LINES), *draw(st.permutations(fields))]))
    if draw(st.integers(0, 2)) == 0:
        for _ in range(draw(st.integers(1, 3))):
            position = draw(st.integers(0, len(head) - 5))
            change = draw(
                st.sampled_from([b"", b" ", b"\t", b",", b":", b"\r", b"\n", b"\x00", b"\xff", b"/", b"="])
            )
            head[position : position + draw(st.integers(0, 1))] = change
    return bytes(head[: head.index(b"\r\n\r\n") + 4])  # exactly one head is fed


@settings(max_examples=1000)
@given(heads())
def test_generated_heads(head: bytes) -> None:
    assert codec.parse_head(head) == twin.parse_head(head)
    assert codec.handshake_response(head) == twin.handshake_response(head)
    assert codec.parse_head(head, any_path=True) == twin.parse_head(head, any_path=True)
    check_against_oracle(head)


@given(
    st.one_of(
        st.binary(max_size=300),
        heads().flatmap(lambda head: st.sampled_from([head[:i] for i in range(len(head))])),
    )
)
def test_any_bytes_same_in_both(head: bytes) -> None:
    assert codec.handshake_response(head) == twin.handshake_response(head)
