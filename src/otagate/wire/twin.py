"""The frame codec and the handshake once more, in the shortest readable Python.

This is the specification that one can read in a sitting, and the oracle of the tests: the compiled
functions of `otagate.wire.codec` and these have the same names, arguments and answers, for every input.
Nothing in production imports it. Sources: RFC 6455 sections 4.2 and 5, RFC 9112, docs/protocol.md.
"""

import base64
import hashlib
import re
from typing import Final

from otagate.wire.constants import (
    CONTROL_PAYLOAD_BYTES_MAX,
    SUBPROTOCOL,
    TCP_FRAME_BYTES_MAX,
    WEBSOCKET_GUID,
    WEBSOCKET_PATH,
    CloseCode,
    Opcode,
)

Data = bytes | bytearray | memoryview
Header = tuple[int, bool, bytes, int, int]  # opcode, fin, mask, header bytes, payload bytes

# -- headers ---------------------------------------------------------------------------------------

OPCODES: Final = frozenset(Opcode)


def parse_websocket_header(data: Data, from_client: bool) -> Header | int | None:
    """RFC 6455 section 5.2, no extensions. None: more bytes are needed; an int: broken, the close code."""
    if len(data) == 0:
        return None
    fin, reserved, opcode = data[0] >= 0x80, data[0] & 0x70, data[0] & 0x0F
    control = opcode >= Opcode.CLOSE
    if reserved or opcode not in OPCODES or (control and not fin):
        return CloseCode.PROTOCOL_ERROR
    if len(data) == 1:
        return None
    masked, length = data[1] >= 0x80, data[1] & 0x7F
    if masked != bool(from_client) or (control and length > CONTROL_PAYLOAD_BYTES_MAX):
        return CloseCode.PROTOCOL_ERROR
    extended, length_min = {126: (2, 126), 127: (8, 0x10000)}.get(length, (0, 0))
    size = 2 + extended + 4 * masked
    if len(data) < size:
        return None
    if extended:
        length = int.from_bytes(data[2 : 2 + extended], "big")
    if not length_min <= length < 2**63:
        return CloseCode.PROTOCOL_ERROR
    return opcode, fin, bytes(data[size - 4 : size]) if masked else b"", size, length


def parse_tcp_header(data: Data) -> Header | int | None:
    """`opcode` u8, `length` u24 big-endian; answers as parse_websocket_header."""
    if len(data) == 0:
        return None
    opcode = data[0]
    if opcode == Opcode.CONTINUATION or opcode not in OPCODES:
        return CloseCode.PROTOCOL_ERROR
    if len(data) < 4:
        return None
    length = int.from_bytes(data[1:4], "big")
    if opcode >= Opcode.CLOSE and length > CONTROL_PAYLOAD_BYTES_MAX:
        return CloseCode.PROTOCOL_ERROR
    return opcode, True, b"", 4, length


def encode_websocket_frame(opcode: int, payload: Data, mask: bytes = b"") -> bytes:
    """A whole frame in the shortest form; `mask` (4 bytes) on the client's side, empty on the server's."""
    if len(mask) not in (0, 4):
        raise ValueError("a mask has 4 bytes")
    size = len(payload)
    masked = 0x80 if mask else 0
    if size < 126:
        head = bytes([0x80 | opcode, masked | size])
    elif size < 0x10000:
        head = bytes([0x80 | opcode, masked | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, masked | 127]) + size.to_bytes(8, "big")
    body = bytearray(payload)
    if mask:
        unmask(body, mask)
    return head + mask + body


def encode_tcp_frame(opcode: int, payload: Data) -> bytes:
    """A whole frame; ValueError above 2**24 - 1 bytes."""
    if len(payload) > TCP_FRAME_BYTES_MAX:
        raise ValueError("a TCP frame holds at most 2**24 - 1 bytes")
    return bytes([opcode]) + len(payload).to_bytes(3, "big") + bytes(payload)


def encode_chunk_header(transfer: int, xxh32: int, offset: int) -> bytes:
    """The 16 bytes before a chunk's data."""
    return transfer.to_bytes(4, "big") + xxh32.to_bytes(4, "big") + offset.to_bytes(8, "big")


# -- payloads --------------------------------------------------------------------------------------


def unmask(data: bytearray | memoryview, mask: bytes, phase: int = 0) -> None:
    """Masks or unmasks in place; `phase`: bytes of this payload already done."""
    if len(mask) != 4:
        raise ValueError("a mask has 4 bytes")
    for i in range(len(data)):
        data[i] ^= mask[(phase + i) % 4]


# Unicode 16, table 3-7: first bytes, how many follow, and the range of the second. A state is how many are
# still to come, and the lowest and the highest value of the next.
UTF8_SEQUENCES: Final = (
    (range(0xC2, 0xE0), 1, 0x80, 0xBF),
    (range(0xE0, 0xE1), 2, 0xA0, 0xBF),
    (range(0xE1, 0xED), 2, 0x80, 0xBF),
    (range(0xED, 0xEE), 2, 0x80, 0x9F),  # no surrogates
    (range(0xEE, 0xF0), 2, 0x80, 0xBF),
    (range(0xF0, 0xF1), 3, 0x90, 0xBF),
    (range(0xF1, 0xF4), 3, 0x80, 0xBF),
    (range(0xF4, 0xF5), 3, 0x80, 0x8F),  # nothing above U+10FFFF
)
UTF8_ACCEPT: Final = 0
UTF8_REJECT: Final = 0xFF01
UTF8_FIRST: Final = dict.fromkeys(range(0x80), UTF8_ACCEPT) | {
    first: follow | low << 8 | high << 16 for firsts, follow, low, high in UTF8_SEQUENCES for first in firsts
}


def utf8_feed(state: int, data: Data) -> int:
    """The state after these bytes: UTF8_ACCEPT between characters, UTF8_REJECT from the first byte that no
    text can have there."""
    for byte in bytes(data):
        if state == UTF8_ACCEPT:
            state = UTF8_FIRST.get(byte, UTF8_REJECT)
        elif not state >> 8 & 0xFF <= byte <= state >> 16 & 0xFF:
            return UTF8_REJECT
        else:
            follow = (state & 0xFF) - 1
            state = follow | 0x80 << 8 | 0xBF << 16 if follow else UTF8_ACCEPT
    return state


def close_code_valid(code: int) -> bool:
    """May a peer send this code in a close frame (RFC 6455 section 7.4 and its registry)?"""
    return code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)


# -- handshake -------------------------------------------------------------------------------------

NAME = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 section 5.6.2
REQUEST_LINE = re.compile(rf"({NAME}) ([!-~]+) HTTP/([0-9]\.[0-9])\r\n")
FIELD = re.compile(rf"({NAME}):[ \t]*([\t -~\x80-\xff]*)\r\n")
HOST = re.compile(r"[0-9A-Za-z\-._~%!$&'()*+,;=:\[\]]+")
KEY = re.compile(r"[0-9A-Za-z+/]{22}==")  # 16 bytes in base64
AUTHORITY = re.compile(r"https?://[^/?]*", re.IGNORECASE)  # absolute form: RFC 9112 section 3.2.2

LINES: Final = {
    400: "400 Bad Request",
    404: "404 Not Found",
    405: "405 Method Not Allowed\r\nAllow: GET",
    426: "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
    505: "505 HTTP Version Not Supported",
}


class RefusedError(Exception):
    """The handshake is refused: (status, reason)."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


BROKEN_LINE = (400, "The request line is broken.")
BROKEN_FIELD = (400, "A header field is broken.")
BAD_SUBPROTOCOL = (400, "Of the subprotocols offered none is otagate.v1.")


def elements(values: list[str], element: str, refusal: tuple[int, str]) -> list[str]:
    """The elements of a comma-separated list; empty ones do not count (RFC 9110 section 5.6.1.2)."""
    found = [part for value in values for part in (each.strip(" \t") for each in value.split(",")) if part]
    if not all(re.fullmatch(element, part) for part in found):
        raise RefusedError(*refusal)
    return found


def parse_request(head: str) -> tuple[re.Match[str], dict[str, list[str]]]:
    """The request line and the fields by lower-case name; refuses a head that is broken."""
    line = REQUEST_LINE.match(head)
    if line is None or "#" in line[2]:
        raise RefusedError(*BROKEN_LINE)
    fields: dict[str, list[str]] = {}
    position = line.end()
    while not head.startswith("\r", position):
        field = FIELD.match(head, position)
        if field is None:
            raise RefusedError(*BROKEN_FIELD)
        name, value = field[1].lower(), field[2].rstrip(" \t")
        fields.setdefault(name, []).append(value)
        if name == "upgrade":
            elements([value], f"{NAME}(/{NAME})?", BROKEN_FIELD)
        elif name == "connection":
            elements([value], NAME, BROKEN_FIELD)
        elif name == "sec-websocket-protocol":
            elements([value], NAME, BAD_SUBPROTOCOL)
        position = field.end()
    if head[position:] != "\r\n":
        raise RefusedError(*BROKEN_FIELD)
    return line, fields


def judge(line: re.Match[str], fields: dict[str, list[str]], any_path: bool) -> tuple[str, bool]:
    """The key, and whether otagate.v1 was offered; refuses what we do not serve, in a fixed order."""

    def names(field: str) -> list[str]:
        return elements(fields.get(field, []), ".*", BROKEN_FIELD)

    def require(holds: bool, status: int, reason: str) -> None:
        if not holds:
            raise RefusedError(status, reason)

    method, target, version = line.groups()
    require(method == "GET", 405, "The method must be GET.")
    require(version == "1.1", 505, "The HTTP version must be 1.1.")
    path = AUTHORITY.sub("", target, count=1) if AUTHORITY.match(target) else target
    require(any_path or path.partition("?")[0] == WEBSOCKET_PATH, 404, "Devices connect to /device.")
    hosts = fields.get("host", [])
    require(
        len(hosts) == 1 and HOST.fullmatch(hosts[0]) is not None, 400, "There must be exactly one valid Host."
    )
    lengths = fields.get("content-length", [])
    bodiless = "transfer-encoding" not in fields and all(length == "0" for length in lengths)
    require(bodiless, 400, "The request must have no body.")
    upgrade = any(name.lower() == "websocket" for name in names("upgrade"))
    connection = any(name.lower() == "upgrade" for name in names("connection"))
    missing = "This is a WebSocket server: Upgrade: websocket and Connection: Upgrade are missing."
    require(upgrade and connection, 426, missing)
    versions = fields.get("sec-websocket-version", [])
    require(len(versions) < 2, *BROKEN_FIELD)
    require(versions == ["13"], 426, "Sec-WebSocket-Version must be 13.")
    keys = fields.get("sec-websocket-key", [])
    key_holds = len(keys) == 1 and KEY.fullmatch(keys[0]) is not None
    require(key_holds, 400, "Sec-WebSocket-Key must be 16 bytes in base64, exactly once.")
    ours = SUBPROTOCOL in names("sec-websocket-protocol")
    require(ours or any_path or "sec-websocket-protocol" not in fields, *BAD_SUBPROTOCOL)
    return keys[0], ours


def parse_head(head: Data, any_path: bool = False) -> tuple[int, bytes, bool]:
    """The handshake of a head (up to and including CRLF CRLF): (status, accept, subprotocol)."""
    try:
        key, ours = judge(*parse_request(bytes(head).decode("latin-1")), any_path)
    except RefusedError as refused:
        return refused.status, b"", False
    accept = base64.b64encode(hashlib.sha1(key.encode() + WEBSOCKET_GUID, usedforsecurity=False).digest())
    return 101, accept, ours


def handshake_response(head: Data, any_path: bool = False) -> bytes:
    """The server's whole answer to a head."""
    try:
        judge(*parse_request(bytes(head).decode("latin-1")), any_path)
    except RefusedError as refused:
        connection = "upgrade, close" if refused.status == 426 else "close"
        return (
            f"HTTP/1.1 {LINES[refused.status]}\r\nConnection: {connection}\r\nContent-Type: text/plain\r\n"
            f"Content-Length: {len(refused.reason) + 1}\r\n\r\n{refused.reason}\n"
        ).encode()
    _, accept, ours = parse_head(head, any_path)
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept.decode()}\r\n"
        + (f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n" if ours else "")
        + "\r\n"
    ).encode()
