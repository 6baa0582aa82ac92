"""The fixed numbers and names of the device protocol, version 1 (docs/protocol.md)."""

from enum import IntEnum, StrEnum
from typing import Final

from otagate import limits

PROTOCOL_VERSION: Final = 1
TCP_PREFACE: Final = b"OTG\x01"  # a device's first bytes on the TCP link; the last one is the version
SUBPROTOCOL: Final = "otagate.v1"
WEBSOCKET_PATH: Final = "/device"
WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3

CONTROL_PAYLOAD_BYTES_MAX: Final = limits.control_payload_bytes_max
TCP_FRAME_BYTES_MAX: Final = limits.tcp_frame_bytes_max
CHUNK_HEADER_BYTES: Final = limits.chunk_header_bytes

INTEGER_END: Final = 2**53  # above it JSON numbers are not exact everywhere (RFC 8259 section 6)
TRANSFER_END: Final = 2**32

NONCE_CHARS: Final = 32  # 16 random bytes
MAC_CHARS: Final = 64  # HMAC-SHA256


class Opcode(IntEnum):
    """Kinds of frames, those of RFC 6455 section 5.2 on both links."""

    CONTINUATION = 0  # WebSocket only
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """Codes in a close frame (both links). 1005 and 1006 are never sent: they stand for "none given" and
    "the TCP connection was lost" (RFC 6455 section 7.4)."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    MESSAGE_TOO_BIG = 1009
    UNAUTHORIZED = 4001
    SUPERSEDED = 4002
    SILENT = 4003
    OVERLOADED = 4005


CLOSE_MEANINGS: Final = {
    CloseCode.NORMAL: "the sender has nothing more to say",
    CloseCode.PROTOCOL_ERROR: "broken framing",
    CloseCode.UNSUPPORTED_DATA: "a binary message from a device",
    CloseCode.INVALID_DATA: "a text message that is not UTF-8, or not a JSON object",
    CloseCode.MESSAGE_TOO_BIG: "a message above the bound",
    CloseCode.UNAUTHORIZED: "no login in time, or not a valid one",
    CloseCode.SUPERSEDED: "the same device logged in on a newer connection: wait 30-60 s, jittered, before "
    "returning, so that two devices with one identity do not chase each other",
    CloseCode.SILENT: "nothing was heard for 2.5 heartbeats",
    CloseCode.OVERLOADED: "too many logins at a time, too many of this device, or more messages from it than "
    "can be answered. Where a login is refused, an `error` `overloaded` before it says when to return",
}


class ErrorCode(StrEnum):
    """The `code` of an `error` message."""

    BAD_MESSAGE = "bad_message"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    OVERLOADED = "overloaded"
    INTERNAL = "internal"


ERROR_MEANINGS: Final = {
    ErrorCode.BAD_MESSAGE: "the message breaks the protocol; `field` names the field at fault, if it is one. "
    "Broken framing, UTF-8, JSON or size also end the connection",
    ErrorCode.UNAUTHORIZED: "an unknown device or a wrong `mac` (the answer does not tell which); the "
    "connection ends with 4001",
    ErrorCode.NOT_FOUND: "nothing of that name for this device",
    ErrorCode.CONFLICT: "known, but not now",
    ErrorCode.OVERLOADED: "come back after `retry_after_s`",
    ErrorCode.INTERNAL: "the gateway's fault; the same message may be sent again",
}


class CancelReason(StrEnum):
    """The `reason` of a `cancel` message. Devices take any other word as `ended`."""

    ABORTED = "aborted"
    EXPIRED = "expired"
    TIMED_OUT = "timed_out"
    NOT_ACKNOWLEDGED = "not_acknowledged"
    ENDED = "ended"


CANCEL_MEANINGS: Final = {
    CancelReason.ABORTED: "an operator aborted the batch",
    CancelReason.EXPIRED: "the batch's validity ran out",
    CancelReason.TIMED_OUT: "the upgrade took longer than `timeout_s`",
    CancelReason.NOT_ACKNOWLEDGED: "no `received` came",
    CancelReason.ENDED: "it has ended in any other way, or a later attempt has begun",
}
