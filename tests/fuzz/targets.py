"""What is fuzzed: each target takes bytes, and raises if anything that must hold does not.

The same functions run under libFuzzer (tools/fuzz), over the kept corpus, and over mutations of it in the
tests. The oracle of frames and handshakes is the twin; of whole streams the decoder over the twin.
"""

import zlib
from collections.abc import Callable

import msgspec

from otagate import limits
from otagate.upgrade.model import Stage
from otagate.wire import codec, messages, twin
from otagate.wire.progress import read_progress
from tests.fuzz.planes import fuzz_plane
from tests.fuzz.reader import Reader
from tests.fuzz.streams import fuzz_proxy, fuzz_stream, fuzz_tls
from tests.fuzz.texts import fuzz_texts


def note(number: int) -> None:
    """Replaced by the harness: tells libFuzzer of what happened in Python."""


def note_words(words: str) -> None:
    note(zlib.crc32(words.encode()))


def fuzz_frames(data: bytes) -> None:
    """Headers, masks and UTF-8: the compiled codec answers as the twin does."""
    reader = Reader(data)
    choice, phase, cut = reader.byte(), reader.byte(), reader.byte()
    mask = reader.take(4).ljust(4, b"\0")
    rest = reader.rest()
    from_client = bool(choice & 1)
    for stop in {len(rest), min(cut, len(rest))}:
        start = rest[:stop]
        websocket = codec.parse_websocket_header(start, from_client)
        assert websocket == twin.parse_websocket_header(start, from_client)
        assert codec.parse_tcp_header(start) == twin.parse_tcp_header(start)
    # At any alignment: the payload begins anywhere in a larger buffer.
    payload = rest[:64]
    buffers = bytearray(phase & 7) + payload, bytearray(phase & 7) + payload
    codec.unmask(memoryview(buffers[0])[phase & 7 :], mask, phase)
    twin.unmask(memoryview(buffers[1])[phase & 7 :], mask, phase)
    assert buffers[0] == buffers[1]
    state = codec.UTF8_ACCEPT
    for piece in (rest[:cut], rest[cut:]):
        assert codec.utf8_feed(state, piece) == twin.utf8_feed(state, piece)
        state = codec.utf8_feed(state, piece)
    opcode = choice & 15
    for key in (b"", mask):
        assert codec.encode_websocket_frame(opcode, rest, key) == twin.encode_websocket_frame(
            opcode, rest, key
        )
    assert codec.encode_tcp_frame(opcode, rest) == twin.encode_tcp_frame(opcode, rest)
    code = int.from_bytes(mask[:2], "big")
    assert codec.close_code_valid(code) == twin.close_code_valid(code)


def fuzz_handshake(data: bytes) -> None:
    """Heads: the compiled parser answers as the twin does, and always with a whole HTTP answer."""
    reader = Reader(data)
    any_path = bool(reader.byte() & 1)
    head = reader.rest()
    answer = codec.parse_head(head, any_path)
    assert answer == twin.parse_head(head, any_path)
    response = codec.handshake_response(head, any_path)
    assert response == twin.handshake_response(head, any_path)
    assert response.startswith(b"HTTP/1.1 %d " % answer[0])


def fuzz_messages(data: bytes) -> None:
    """Messages: two errors and no other, and what was read is written and read again as the same."""
    short = read_progress(data)
    if short is not None:
        # The short cut for progress reports reads nothing that the protocol reads otherwise.
        batch, attempt, stage, percent, identity = short
        assert messages.decode_device_message(data) == messages.Progress(
            batch=f"b{batch}",
            attempt=attempt,
            stage=Stage(stage).label,  # type: ignore[arg-type]
            percent=percent,
            id=identity,
        )
        note(percent)
    decoders: tuple[Callable[[bytes], msgspec.Struct], ...] = (
        messages.decode_device_message,
        messages.decode_gateway_message,
    )
    for decode in decoders:
        try:
            message = decode(data)
        except messages.BrokenMessage as error:
            note_words(str(error))
        except messages.BadMessage as error:
            note_words(f"{error.field} {error.message}")
            # Whatever was wrong, the answer to it is a message that can be sent.
            fields = {"id": error.id, "code": "bad_message", "message": error.message, "field": error.field}
            answer = msgspec.json.encode(
                {"type": "error"} | {k: v for k, v in fields.items() if v is not None}
            )
            assert isinstance(messages.decode_gateway_message(answer), messages.Error)
            assert len(answer) <= limits.gateway_message_bytes_max
        else:
            note_words(
                type(message).__name__
                + repr([getattr(message, field) is None for field in message.__struct_fields__])
            )
            assert decode(msgspec.json.encode(message)) == message


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": fuzz_frames,
    "handshake": fuzz_handshake,
    "messages": fuzz_messages,
    "stream": fuzz_stream,
    "tls": fuzz_tls,
    "proxy": fuzz_proxy,
    "plane": fuzz_plane,
    "texts": fuzz_texts,
}
