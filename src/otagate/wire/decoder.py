"""An incremental decoder of either link: bytes in, events out, no I/O.

It reads what one peer sends after the handshake (WebSocket) or from the first byte (TCP; a device's preface
included). The device's SDK reads the gateway with it, tests read either side; the plane does the same in C.

The invariant: events depend on the bytes alone, never on how they were cut. After `Close` or `Broken`
nothing more is read.
"""

from enum import Enum
from types import ModuleType

import msgspec

from otagate import limits
from otagate.wire import codec as compiled
from otagate.wire.constants import TCP_PREFACE, CloseCode, Opcode


class Link(Enum):
    """How messages are framed."""

    WEBSOCKET = "websocket"
    TCP = "tcp"


class Text(msgspec.Struct, frozen=True, gc=False):
    """A whole text message: valid UTF-8, JSON by agreement."""

    payload: bytes


class Binary(msgspec.Struct, frozen=True, gc=False):
    """A whole binary message: a chunk."""

    payload: bytes


class Ping(msgspec.Struct, frozen=True, gc=False):
    """To be answered by a pong with the same payload."""

    payload: bytes


class Pong(msgspec.Struct, frozen=True, gc=False):
    """The answer to a ping, or a heartbeat nobody asked for."""

    payload: bytes


class Close(msgspec.Struct, frozen=True, gc=False):
    """The peer closes; `code` is 1005 if it gave none."""

    code: int
    reason: bytes


class Broken(msgspec.Struct, frozen=True, gc=False):
    """The peer broke the protocol: close with this code."""

    code: int
    message: str


Event = Text | Binary | Ping | Pong | Close | Broken


class BrokenError(Exception):
    """Inside the decoder: ends it with `Broken`."""


class Decoder:
    """Decodes one direction of one connection.

    `from_client`: the peer is the device (its WebSocket frames are masked, its TCP link opens with the
    preface). `message_bytes_max` bounds a message over all its frames.
    """

    def __init__(
        self,
        link: Link,
        *,
        from_client: bool,
        message_bytes_max: int = limits.chunk_header_bytes + limits.chunk_bytes_max,
        codec: ModuleType = compiled,
    ) -> None:
        self._link = link
        self._from_client = from_client
        self._message_bytes_max = message_bytes_max
        self._codec = codec
        self._received = bytearray()
        self._preface_due = link is Link.TCP and from_client
        self._ended = False
        self._header: tuple[int, bool, bytes, int, int] | None = None  # of the frame being read
        self._frame = bytearray()  # its payload so far, unmasked
        self._message_opcode: int = Opcode.CONTINUATION  # of the fragmented message being read
        self._message = bytearray()
        self._utf8: int = compiled.UTF8_ACCEPT

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[Event]:
        """The events that these bytes complete, in order."""
        events: list[Event] = []
        if self._ended:
            return events
        self._received += data
        try:
            while not self._ended and self._step(events):
                pass
        except BrokenError as error:
            code, message = error.args
            events.append(Broken(code, message))
            self._ended = True
        return events

    def _step(self, events: list[Event]) -> bool:
        """One header or one piece of payload; False: more bytes are needed."""
        if self._preface_due:
            return self._read_preface()
        if self._header is None:
            return self._read_header()
        return self._read_payload(self._header, events)

    def _read_preface(self) -> bool:
        if not TCP_PREFACE.startswith(self._received[: len(TCP_PREFACE)]):
            raise BrokenError(CloseCode.PROTOCOL_ERROR, "the first bytes are not those of the protocol")
        if len(self._received) < len(TCP_PREFACE):
            return False
        del self._received[: len(TCP_PREFACE)]
        self._preface_due = False
        return True

    def _read_header(self) -> bool:
        if self._link is Link.TCP:
            header = self._codec.parse_tcp_header(self._received)
        else:
            header = self._codec.parse_websocket_header(self._received, self._from_client)
        if header is None:
            return False
        if isinstance(header, int):
            raise BrokenError(header, "a frame's header is broken")
        opcode, _, _, size, length = header
        continued = self._message_opcode != Opcode.CONTINUATION
        if opcode < Opcode.CLOSE and continued != (opcode == Opcode.CONTINUATION):
            raise BrokenError(CloseCode.PROTOCOL_ERROR, "a fragment is out of place")
        if opcode < Opcode.CLOSE and len(self._message) + length > self._message_bytes_max:
            raise BrokenError(CloseCode.MESSAGE_TOO_BIG, "the message is too large")
        if opcode in (Opcode.TEXT, Opcode.BINARY):
            self._message_opcode = opcode
        self._header = header
        del self._received[:size]
        return True

    def _read_payload(self, header: tuple[int, bool, bytes, int, int], events: list[Event]) -> bool:
        opcode, fin, mask, _, length = header
        piece = self._received[: length - len(self._frame)]
        if mask:
            self._codec.unmask(piece, mask, len(self._frame))
        if opcode < Opcode.CLOSE and self._message_opcode == Opcode.TEXT:
            self._utf8 = self._codec.utf8_feed(self._utf8, piece)
            if self._utf8 == self._codec.UTF8_REJECT:
                raise BrokenError(CloseCode.INVALID_DATA, "the text is not UTF-8")
        self._frame += piece
        del self._received[: len(piece)]
        if len(self._frame) < length:
            return False
        payload, self._frame, self._header = bytes(self._frame), bytearray(), None
        if opcode >= Opcode.CLOSE:
            events.append(self._control(opcode, payload))
        else:
            self._message += payload
            if fin:
                events.append(self._complete_message())
        return True

    def _complete_message(self) -> Event:
        if self._utf8 != self._codec.UTF8_ACCEPT:
            raise BrokenError(CloseCode.INVALID_DATA, "the text is not UTF-8")
        opcode, payload = self._message_opcode, bytes(self._message)
        self._message_opcode, self._message = Opcode.CONTINUATION, bytearray()
        return Text(payload) if opcode == Opcode.TEXT else Binary(payload)

    def _control(self, opcode: int, payload: bytes) -> Event:
        if opcode == Opcode.PING:
            return Ping(payload)
        if opcode == Opcode.PONG:
            return Pong(payload)
        self._ended = True
        if not payload:
            return Close(CloseCode.NO_STATUS, b"")
        code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
        if len(payload) == 1 or not self._codec.close_code_valid(code):
            raise BrokenError(CloseCode.PROTOCOL_ERROR, "the close code is broken")
        if self._codec.utf8_feed(self._codec.UTF8_ACCEPT, reason) != self._codec.UTF8_ACCEPT:
            raise BrokenError(CloseCode.INVALID_DATA, "the close reason is not UTF-8")
        return Close(code, reason)
