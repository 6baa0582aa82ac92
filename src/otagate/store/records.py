"""Values on disk: the packed row of a device upgrade, and records.

A device-upgrade row is read at each login and written at each transition, so it is packed by hand.
Big-endian, 27 bytes, then what varies:

    u8   layout (1)
    u64  state 8 bits, attempt 8, due_ms 48
    u64  remark 8, progress 8, completed_at_ms 48
    u64  stage 8, entries in the timeline 8, time of the first entry 48
    u16  bytes of the version
         the version in UTF-8
         6 bytes per timeline entry, oldest first:
             u32  time since the entry before it: ms, or from 2³¹ on seconds with the top bit set
             u16  state 3 bits, remark 3, cause 5, attempt 3
         the detail in UTF-8, up to the end

State and attempt stand at fixed places, so that a compare-and-set and a filter need not unpack the row.
An entry more than 24 days after the one before it keeps its time to the second.

Other records are a layout byte and a MessagePack array of the fields in their order. A newer layout of a
record may add fields with defaults at the end; fields are never moved or given another meaning.
"""

import struct
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from otagate.store.interface import Batch, Device, Firmware, Product
from otagate.store.operators import Delivery, KeptAnswer, Token, Webhook
from otagate.store.signed import SigningKey
from otagate.upgrade.model import Cause, Remark, Row, Stage, State, TimelineEntry

ROW_LAYOUT: Final = 1
RECORD_LAYOUT: Final = 1

_HEAD: Final = struct.Struct(">BQQQH")
_HEAD_BYTES: Final = _HEAD.size
_MASK_48: Final = 2**48 - 1
_SECONDS_FLAG: Final = 2**31
_ENTRIES: Final = tuple(struct.Struct(">" + "IH" * number) for number in range(256))

_STATES: Final = (None, *State)
_REMARKS: Final = tuple(Remark)
_STAGES: Final = tuple(Stage)

assert [int(state) for state in State] == list(range(1, 8))
assert [int(remark) for remark in Remark] == list(range(8))
assert [int(stage) for stage in Stage] == list(range(len(Stage)))


def _moves() -> tuple[tuple[State, Remark, Cause, int] | None, ...]:
    """What each of the 2¹⁴ codes of a timeline entry says; built once, so that unpacking only looks up."""
    causes = {int(cause): cause for cause in Cause}
    moves: list[tuple[State, Remark, Cause, int] | None] = []
    for code in range(2**14):
        state, cause = _STATES[code >> 11], causes.get(code >> 3 & 31)
        moves.append((state, _REMARKS[code >> 8 & 7], cause, code & 7) if state and cause else None)
    return tuple(moves)


_MOVES: Final = _moves()


def pack_row(row: Row) -> bytes:
    """The row's value on disk: at most 320 bytes without detail, for a version of 100 ASCII characters."""
    version = row.version.encode()
    timeline = row.timeline
    packed_timeline = b""
    base_ms = 0
    if timeline:
        base_ms = before_ms = timeline[0].at_ms
        numbers: list[int] = []
        for entry in timeline:
            at_ms = entry.at_ms
            since_ms = at_ms - before_ms
            before_ms = at_ms
            if since_ms >= _SECONDS_FLAG:
                seconds = min(since_ms // 1000, _SECONDS_FLAG - 1)
                # the next entry counts from the time that will be read back
                before_ms += seconds * 1000 - since_ms
                since_ms = _SECONDS_FLAG | seconds
            numbers.append(since_ms)
            numbers.append(entry.state << 11 | entry.remark << 8 | entry.cause << 3 | entry.attempt)
        packed_timeline = _ENTRIES[len(timeline)].pack(*numbers)
    head = _HEAD.pack(
        ROW_LAYOUT,
        row.state << 56 | row.attempt << 48 | row.due_ms,
        row.remark << 56 | row.progress << 48 | row.completed_at_ms,
        row.stage << 56 | len(timeline) << 48 | base_ms,
        len(version),
    )
    if row.detail:
        return b"".join((head, version, packed_timeline, row.detail.encode()))
    return head + version + packed_timeline


def unpack_row(value: bytes) -> Row:
    """The row of a value that `pack_row` made."""
    if value == FRESH_ROW:
        return _FRESH  # what a new batch has by the hundred thousand
    layout, first, second, third, version_bytes = _HEAD.unpack_from(value)
    assert layout == ROW_LAYOUT, f"a device upgrade has layout {layout}"
    place = _HEAD_BYTES
    version = ""
    if version_bytes:
        version = value[place : place + version_bytes].decode()
        place += version_bytes
    entries = third >> 48 & 255
    timeline: tuple[TimelineEntry, ...] = ()
    if entries:
        layout_of_entries = _ENTRIES[entries]
        numbers = layout_of_entries.unpack_from(value, place)
        place += layout_of_entries.size
        at_ms = third & _MASK_48
        collected = []
        for index in range(0, 2 * entries, 2):
            since_ms = numbers[index]
            if since_ms >= _SECONDS_FLAG:
                since_ms = (since_ms - _SECONDS_FLAG) * 1000
            at_ms += since_ms
            state, remark, cause, attempt = _MOVES[numbers[index + 1]]
            collected.append(TimelineEntry(at_ms, state, remark, cause, attempt))
        timeline = tuple(collected)
    return Row(
        cast(State, _STATES[first >> 56]),
        first >> 48 & 255,
        first & _MASK_48,
        _REMARKS[second >> 56],
        value[place:].decode() if place < len(value) else "",
        _STAGES[third >> 56],
        second >> 48 & 255,
        version,
        second & _MASK_48,
        timeline,
    )


def state_of(value: bytes) -> State:
    """The state of a packed row."""
    return cast(State, _STATES[value[1]])


def attempt_of(value: bytes) -> int:
    """The attempt of a packed row."""
    return value[2]


def due_of(value: bytes) -> int:
    """The due time of a packed row, UTC ms or 0."""
    return int.from_bytes(value[3:9], "big")


_FRESH: Final = Row()
FRESH_ROW: Final = pack_row(_FRESH)


# -- the numbers of a slice ---------------------------------------------------------------------------


def pack_numbers(numbers: Sequence[int]) -> bytes:
    """Device numbers of a slice; in the machine's byte order, as LMDB's own pages are."""
    return array("Q", numbers).tobytes()


def unpack_numbers(value: bytes) -> "array[int]":
    """The numbers of a value that `pack_numbers` made."""
    numbers = array("Q")
    numbers.frombytes(value)
    return numbers


# -- records ------------------------------------------------------------------------------------------

T = TypeVar("T", bound=msgspec.Struct)


class Record(Generic[T]):
    """How structs of one type are kept: the layout byte, then their fields as a MessagePack array.

    One that an earlier otagate wrote may lack fields at its end: they have their defaults.
    """

    def __init__(self, type_: type[T]) -> None:
        self._fields = msgspec.structs.fields(type_)
        self._type = type_
        self._decode = self._decoder(len(self._fields))
        self._encode = msgspec.msgpack.Encoder().encode

    def pack(self, value: T) -> bytes:
        """The record's value on disk."""
        return _LAYOUT + self._encode(msgspec.structs.astuple(value))

    def unpack(self, value: bytes) -> T:
        """The struct of a value that `pack` made."""
        assert value[0] == RECORD_LAYOUT, f"a {self._type.__name__} has layout {value[0]}"
        try:
            return self._type(*self._decode(value[1:]))
        except msgspec.ValidationError:
            shorter = len(msgspec.msgpack.decode(value[1:]))
            if shorter >= len(self._fields):
                raise
            return self._type(*self._decoder(shorter)(value[1:]))

    def _decoder(self, length: int) -> Callable[[bytes], tuple[Any, ...]]:
        types = tuple(field.type for field in self._fields[:length])
        return msgspec.msgpack.Decoder(tuple[types]).decode  # type: ignore[valid-type]


_LAYOUT: Final = bytes((RECORD_LAYOUT,))


class ProductRecord(msgspec.Struct, frozen=True, gc=False):
    """A product, and how many devices and firmware it has."""

    number: int
    key: str
    name: str
    auth: str
    created_at_ms: int
    devices: int = 0
    firmware: int = 0
    require_signature: bool = False
    keys: tuple[SigningKey, ...] = ()

    @property
    def product(self) -> Product:
        """What is shown of it."""
        return Product(
            number=self.number,
            key=self.key,
            name=self.name,
            auth=self.auth,
            created_at_ms=self.created_at_ms,
            require_signature=self.require_signature,
            keys=self.keys,
        )


_PRODUCTS = Record(ProductRecord)
_DEVICES = Record(Device)
_FIRMWARE = Record(Firmware)
_BATCHES = Record(Batch)
_TOKENS = Record(Token)
_ANSWERS = Record(KeptAnswer)
_WEBHOOKS = Record(Webhook)
_DELIVERIES = Record(Delivery)
pack_product = _PRODUCTS.pack
unpack_product = _PRODUCTS.unpack
pack_device = _DEVICES.pack
unpack_device = _DEVICES.unpack
pack_firmware = _FIRMWARE.pack
unpack_firmware = _FIRMWARE.unpack
pack_batch = _BATCHES.pack
unpack_batch = _BATCHES.unpack
pack_token = _TOKENS.pack
unpack_token = _TOKENS.unpack
pack_answer = _ANSWERS.pack
unpack_answer = _ANSWERS.unpack
pack_webhook = _WEBHOOKS.pack
unpack_webhook = _WEBHOOKS.unpack
pack_delivery = _DELIVERIES.pack
unpack_delivery = _DELIVERIES.unpack
