"""The messages of the device protocol, version 1: one struct each, in both directions.

The structs are the table of docs/protocol.md, which `tools/generate_protocol` writes from them: the type of
a field states its bounds, the docstring of a struct what it means, and below it, `name: words`, what a
field means.

Decoding has three outcomes and no fourth, whatever the bytes are: the struct; `BrokenMessage` (not a JSON
object: the connection must close with 1007); `BadMessage` (well-formed, but of an unknown type or with a bad
field: the connection stays). Unknown fields are ignored, an optional field that is null counts as absent,
of a field that stands twice the last counts, but each must be valid.

A message is first decoded straight into its struct. Only if that fails are the bytes read once more, without
types, to tell broken from bad: a bad field may stand before the place where the JSON breaks.
"""

import hmac
import re
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct

from otagate import limits
from otagate.wire.constants import INTEGER_END, MAC_CHARS, NONCE_CHARS, TRANSFER_END, ErrorCode

ID_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"
ID_CHARS_MAX: Final = 64
CHUNK_SIZES: Final = tuple(1 << i for i in range(limits.chunk_bytes_min.bit_length() - 1, 19))
assert CHUNK_SIZES[0] == limits.chunk_bytes_min
assert CHUNK_SIZES[-1] == limits.chunk_bytes_max


# -- types of fields -------------------------------------------------------------------------------


def _integer(low: int, end: int, words: str) -> Meta:
    return Meta(ge=low, lt=end, description=words)


def _hexadecimal(chars: int) -> Meta:
    return Meta(pattern=rf"^[0-9a-f]{{{chars}}}\Z", description=f"{chars} lower-case hex characters")


# The alphabet of an id is checked by `_check_id`: a pattern would cost a message half of its time.
Id = Annotated[
    str,
    Meta(min_length=1, max_length=ID_CHARS_MAX, description=f"1-{ID_CHARS_MAX} of `0-9 A-Z a-z _ -`"),
]
Product = Annotated[
    str,
    Meta(
        pattern=rf"^[0-9A-Za-z_-]{{1,{limits.product_key_chars_max}}}\Z",
        description=f"1-{limits.product_key_chars_max} of `0-9 A-Z a-z _ -`",
    ),
]
Identifier = Annotated[
    str,
    Meta(
        pattern=rf"^[0-9A-Za-z][0-9A-Za-z_.:@-]{{0,{limits.identifier_chars_max - 1}}}\Z",
        description=f"1-{limits.identifier_chars_max} of `0-9 A-Z a-z _ . : @ -`, "
        "the first a letter or digit",
    ),
]
VersionString = Annotated[
    str,
    Meta(
        pattern=rf"^[ -~]{{1,{limits.reported_version_chars_max}}}\Z",
        description=f"1-{limits.reported_version_chars_max} printable ASCII characters",
    ),
]
Nonce = Annotated[str, _hexadecimal(NONCE_CHARS)]
Mac = Annotated[str, _hexadecimal(MAC_CHARS)]
Md5 = Annotated[str, _hexadecimal(32)]
Sha256 = Annotated[str, _hexadecimal(64)]
KeyId = Annotated[str, _hexadecimal(16)]
SignatureText = Annotated[
    str, Meta(pattern=r"^[0-9A-Za-z+/]{86}==\Z", description="64 bytes in base64, padded")
]
FirmwareName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.firmware_name_chars_max,
        description=f"1-{limits.firmware_name_chars_max} characters",
    ),
]
VersionList = Annotated[
    str,
    Meta(
        pattern=rf"^[0-9A-Za-z_. -]{{0,{limits.manifest_bytes_max}}}\Z",
        description=f"at most {limits.manifest_bytes_max} of `0-9 A-Z a-z _ . -` and spaces",
    ),
]
Truth = Annotated[bool, Meta(description="`true` or `false`")]
Count = Annotated[int, _integer(0, INTEGER_END, "an integer from 0 to 2^53 - 1")]
Length = Annotated[int, _integer(1, INTEGER_END, "an integer from 1 to 2^53 - 1")]
Transfer = Annotated[int, _integer(0, TRANSFER_END, "an integer from 0 to 2^32 - 1")]
Percent = Annotated[int, _integer(0, 101, "an integer from 0 to 100")]
Detail = Annotated[
    str, Meta(max_length=limits.detail_chars_max, description=f"at most {limits.detail_chars_max} characters")
]
Words = Annotated[str, Meta(max_length=200, description="at most 200 characters")]
Word = Annotated[str, Meta(pattern=r"^[0-9a-z_]{1,32}\Z", description="1-32 of `0-9 a-z _`")]
Protocols = Annotated[list[Count], Meta(max_length=16, description="a list of integers")]
Policy = Annotated[Literal["standard", "silent"], Meta(description="`standard` or `silent`")]
Stage = Annotated[
    Literal["downloading", "verifying", "burning"],
    Meta(description="`downloading`, `verifying` or `burning`"),
]
Outcome = Annotated[Literal["succeeded", "failed"], Meta(description="`succeeded` or `failed`")]
Reason = Annotated[
    Literal["download_failed", "verification_failed", "burn_failed", "other"],
    Meta(
        description="`download_failed`, `verification_failed`, `burn_failed` or `other`, only with `failed`"
    ),
]
Code = Annotated[ErrorCode, Meta(description="one of the codes below")]
if TYPE_CHECKING:
    ChunkSize = int
else:
    ChunkSize = Annotated[Literal[CHUNK_SIZES], Meta(description="a power of two from 256 to 262144")]


class FieldError(ValueError):
    """A field breaks a rule that its type cannot state."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


def _check_id(field: str, value: str | None) -> None:
    if value is not None and value.strip(ID_ALPHABET):
        raise FieldError(field)


# -- messages of the device ------------------------------------------------------------------------


class Message(Struct, frozen=True, gc=False, omit_defaults=True, tag_field="type", kw_only=True):
    """Any message that may carry an id, which its answer carries back."""

    id: Id | None = None

    def __post_init__(self) -> None:
        if self.id is not None and self.id.strip(ID_ALPHABET):
            raise FieldError("id")


class AttemptMessage(Message, frozen=True, gc=False, omit_defaults=True):
    """Any message about one attempt of one batch."""

    batch: Id
    attempt: Count

    def __post_init__(self) -> None:
        if self.batch.strip(ID_ALPHABET):
            raise FieldError("batch")
        if self.id is not None and self.id.strip(ID_ALPHABET):
            raise FieldError("id")


class Hello(Message, frozen=True, gc=False, omit_defaults=True, tag="hello"):
    """Log in, and report the running version.

    device: its identifier
    version: the one that runs now
    mac: see *Login*; may be absent only if the product logs in by certificate
    nonce: 16 random bytes of the device's own, if it wants to know the gateway
    """

    product: Product
    device: Identifier
    version: VersionString
    mac: Mac | None = None
    nonce: Nonce | None = None


class Received(AttemptMessage, frozen=True, gc=False, omit_defaults=True, tag="received"):
    """The acknowledgement of `upgrade`."""


class Fetch(Message, frozen=True, gc=False, omit_defaults=True, tag="fetch"):
    """Stream these bytes: begins or resumes a download. One transfer per connection; a new one replaces it,
    and chunks of the old one are to be ignored. Counts as a report of the current attempt. Only the firmware
    of the device's own running upgrade: else `error` `not_found`, which carries `transfer`.

    transfer: the device's choice; stands in each chunk
    offset: of the first byte; at or above the size is `bad_message`
    length: to the end if absent; clipped to the size
    chunk_size: 65536 if absent
    """

    transfer: Transfer
    firmware: Id
    offset: Count
    length: Length | None = None
    chunk_size: ChunkSize = limits.chunk_bytes_default

    def __post_init__(self) -> None:
        _check_id("firmware", self.firmware)
        _check_id("id", self.id)


class Stop(Message, frozen=True, gc=False, omit_defaults=True, tag="stop"):
    """Stop streaming; what has begun to leave is finished."""

    transfer: Transfer


class Progress(AttemptMessage, frozen=True, gc=False, omit_defaults=True, tag="progress"):
    """How far it is. See *Burning* for the stage `burning`."""

    stage: Stage
    percent: Percent


class Result(AttemptMessage, frozen=True, gc=False, omit_defaults=True, tag="result"):
    """The end of the attempt. Success is judged by `version` alone.

    reason: `other` if absent
    detail: the device's own words, shown to operators
    version: the one that runs now
    """

    outcome: Outcome
    reason: Reason | None = None
    detail: Detail | None = None
    version: VersionString | None = None

    def __post_init__(self) -> None:
        if self.reason is not None and self.outcome != "failed":
            raise FieldError("reason")
        _check_id("batch", self.batch)
        _check_id("id", self.id)


class Version(Message, frozen=True, gc=False, omit_defaults=True, tag="version"):
    """Report the running version, at any time."""

    version: VersionString


class Check(Message, frozen=True, gc=False, omit_defaults=True, tag="check"):
    """Is anything for me? Answered by `upgrade` (a current one again) or `ack`; moves nothing by itself."""


# -- messages of the gateway -----------------------------------------------------------------------


class SignatureOffer(Struct, frozen=True, gc=False):
    """The signature of a firmware. With the device's product and the fields of `firmware` its fields make the
    manifest that was signed (docs/signing.md).

    key: the id of the key that signed it
    value: of Ed25519 over the manifest
    name: of the firmware
    expires: Unix seconds
    not_before: versions with one space between them, or empty
    """

    key: KeyId
    value: SignatureText
    name: FirmwareName
    expires: Count
    not_before: VersionList


class FirmwareOffer(Struct, frozen=True, gc=False, omit_defaults=True):
    """The firmware of an `upgrade`.

    signature: only of signed firmware; see below
    """

    id: Id
    version: VersionString
    size: Length
    md5: Md5
    sha256: Sha256
    chunk_size: ChunkSize
    signature: Annotated[SignatureOffer | None, Meta(description="an object")] = None

    def __post_init__(self) -> None:
        _check_id("firmware", self.id)


class Challenge(Struct, frozen=True, tag_field="type", tag="challenge"):
    """The first message on every connection.

    nonce: 16 random bytes
    protocol: the versions that the gateway speaks: `[1]`
    """

    nonce: Nonce
    protocol: Protocols


class Welcome(Message, frozen=True, gc=False, omit_defaults=True, tag="welcome"):
    """Logged in. The newest login of a device wins: the older connection is closed as superseded, and nothing
    read from it counts any more.

    server_time: Unix seconds
    heartbeat_s: send at least one frame in each such interval
    mac: proves the gateway, if `hello` carried a `nonce`; see *Login*
    """

    server_time: Count
    heartbeat_s: Count
    mac: Mac | None = None


class Upgrade(AttemptMessage, frozen=True, gc=False, omit_defaults=True, tag="upgrade"):
    """Upgrade to this firmware. A device that already works on this batch and attempt answers `received` and
    goes on.

    policy: `standard`: at once; `silent`: the device chooses when, and neither fetches nor reports before
    firmware: see below; its `chunk_size` is a suggestion
    timeout_s: from the first report or chunk of the attempt to its end
    expires_at: Unix seconds; the end of the batch's validity
    allow_rollback: whether a version that the signature does not name in `not_before` may be replaced too
    """

    policy: Policy
    firmware: FirmwareOffer
    timeout_s: Count
    expires_at: Count
    allow_rollback: Truth = False


class Cancel(AttemptMessage, frozen=True, gc=False, omit_defaults=True, tag="cancel"):
    """This attempt is over. Ignored by a device that is burning.

    reason: see below
    """

    reason: Word


class Ack(Message, frozen=True, gc=False, omit_defaults=True, tag="ack"):
    """What the message with this `id` changed is durable. A `progress` that changes no state is acked once it
    is applied in memory: a crash may lose its percentage, never a state."""


class Error(Message, frozen=True, gc=False, omit_defaults=True, kw_only=True, tag="error"):
    """The message is refused.

    transfer: of the `fetch` or `stop` that is refused
    message: for the person who can mend it
    field: the field at fault
    retry_after_s: when to come back
    """

    transfer: Transfer | None = None
    code: Code
    message: Words
    field: Word | None = None
    retry_after_s: Count | None = None


class Goodbye(Struct, frozen=True, gc=False, tag_field="type", tag="goodbye"):
    """The gateway drains. The TCP connection then ends without a close handshake, so that stock clients that
    take a clean close as final come back.

    retry_after_s: return after so many seconds, and a random few more
    """

    retry_after_s: Count


DeviceMessage = Hello | Received | Fetch | Stop | Progress | Result | Version | Check
GatewayMessage = Challenge | Welcome | Upgrade | Cancel | Ack | Error | Goodbye


# -- decoding and encoding -------------------------------------------------------------------------


class BrokenMessage(Exception):  # noqa: N818 - an outcome, named as the protocol names it
    """Not a JSON object: one `error bad_message`, then close with 1007."""


class BadMessage(Exception):  # noqa: N818
    """Well-formed, but of an unknown type or with a bad field: one `error bad_message`, and go on.

    `field` names the field at fault, `message` says what it must be (never with words of the sender), `id`
    is the message's own, if one could be read, for the answer to carry back.
    """

    def __init__(self, field: str, message: str, id: str | None) -> None:
        super().__init__(field, message, id)
        self.field = field
        self.message = message
        self.id = id


_device_decoder: msgspec.json.Decoder[DeviceMessage] = msgspec.json.Decoder(DeviceMessage)
_gateway_decoder: msgspec.json.Decoder[GatewayMessage] = msgspec.json.Decoder(GatewayMessage)
_decode_device = _device_decoder.decode
_decode_gateway = _gateway_decoder.decode
_decode_untyped = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_FAULT_AT = re.compile(r"`\$\.([a-z0-9_]+)[^`]*`\Z")
_FAULT_MISSING = re.compile(r"missing required field `([a-z0-9_]+)`")


def decode_device_message(payload: bytes | bytearray | memoryview) -> DeviceMessage:
    """Raises BrokenMessage or BadMessage and nothing else. The link saw to it that the payload is UTF-8."""
    try:
        return _decode_device(payload)
    except (ValueError, RecursionError) as error:
        raise _fault(payload, error, DEVICE_TYPES) from None


def decode_gateway_message(payload: bytes | bytearray | memoryview) -> GatewayMessage:
    """As decode_device_message, for the device's side."""
    try:
        return _decode_gateway(payload)
    except (ValueError, RecursionError) as error:
        raise _fault(payload, error, GATEWAY_TYPES) from None


def encode(message: DeviceMessage | GatewayMessage) -> bytes:
    """The JSON of a message. The gateway's have at most `gateway_message_bytes_max` bytes."""
    payload = _encode(message)
    assert len(payload) <= limits.gateway_message_bytes_max or isinstance(message, DeviceMessage), message
    return payload


def _fault(
    payload: bytes | bytearray | memoryview, error: Exception, types: dict[str, type[Struct]]
) -> BrokenMessage | BadMessage:
    """What is wrong with a payload that is no message."""
    try:
        fields = _decode_untyped(payload)
        kind = _string_of(fields.get("type"))
        identity = _string_of(fields.get("id"))
    except (ValueError, RecursionError):
        return BrokenMessage("the text is not a JSON object")
    if identity is not None and (not 0 < len(identity) <= ID_CHARS_MAX or identity.strip(ID_ALPHABET)):
        identity = None
    field = _field_at_fault(error)
    if kind is None or kind not in types or field == "type":
        return BadMessage("type", "type must be that of a message", identity)
    expected = f"must be {_words_of(types[kind], field)}" if field in fields else "is missing"
    return BadMessage(field, f"{field} {expected}".replace("`", ""), identity)


def _string_of(value: msgspec.Raw | None) -> str | None:
    """A field read without types: its string, None if it is absent or anything else."""
    if value is None or bytes(value)[:1] != b'"':
        return None
    return _decode_string(value)


def _field_at_fault(error: Exception) -> str:
    if isinstance(error.__cause__, FieldError):
        return error.__cause__.field
    for pattern in (_FAULT_AT, _FAULT_MISSING):
        found = pattern.search(str(error))
        if found:
            return found[1]
    return "type"


# -- login -----------------------------------------------------------------------------------------


def login_mac(secret: str, nonce: str, product: str, identifier: str) -> str:
    """`hello.mac`: HMAC-SHA256 keyed with the secret as shown, over the gateway's nonce (its 32 characters),
    the product and the device, in lower-case hex."""
    return hmac.digest(secret.encode(), f"{nonce}:{product}:{identifier}".encode(), "sha256").hex()


def gateway_mac(secret: str, device_nonce: str, gateway_nonce: str) -> str:
    """`welcome.mac`: the gateway's proof to a device that sent a nonce of its own."""
    return hmac.digest(secret.encode(), f"gateway:{device_nonce}:{gateway_nonce}".encode(), "sha256").hex()


# -- the table -------------------------------------------------------------------------------------


class Field(NamedTuple):
    """One field: `expected` are the bounds of its type, `meaning` may be empty."""

    name: str
    required: bool
    expected: str
    meaning: str


class Entry(NamedTuple):
    """One message: `sender` is device or gateway."""

    sender: str
    name: str
    struct: type[Struct]
    meaning: str
    fields: tuple[Field, ...]


_FIELD_LINE = re.compile(r"^([a-z0-9_]+): (.+)$")


def _words_of(struct: type[Struct], field: str) -> str:
    """What a field must be, in the words of its type."""
    hint = _hints_of(struct).get(field)
    for part in (hint, *get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    return "an object"


@cache
def _hints_of(struct: type[Struct]) -> dict[str, Any]:
    return get_type_hints(struct, include_extras=True)


def fields_of(struct: type[Struct]) -> tuple[Field, ...]:
    """The fields as they stand in JSON, `type` left out."""
    meanings: dict[str, str] = {}
    for line in (struct.__doc__ or "").splitlines():
        found = _FIELD_LINE.match(line.strip())
        if found:
            meanings[found[1]] = found[2]
    return tuple(
        Field(info.encode_name, info.required, _words_of(struct, info.name), meanings.get(info.name, ""))
        for info in msgspec.structs.fields(struct)
    )


def _entry(sender: str, struct: type[Struct]) -> Entry:
    meaning = " ".join((struct.__doc__ or "").split("\n\n")[0].split())
    return Entry(sender, str(struct.__struct_config__.tag), struct, meaning, fields_of(struct))


DEVICE_TYPES: Final = {str(each.__struct_config__.tag): each for each in get_args(DeviceMessage)}
GATEWAY_TYPES: Final = {str(each.__struct_config__.tag): each for each in get_args(GatewayMessage)}


def table() -> tuple[Entry, ...]:
    """Every message of the protocol, as docs/protocol.md shows it."""
    order = (Challenge, Hello, Welcome, Upgrade, Received, Fetch, Stop, Progress, Result, Version, Check)
    senders = dict.fromkeys(DEVICE_TYPES.values(), "device")
    return tuple(
        _entry(senders.get(struct, "gateway"), struct) for struct in (*order, Cancel, Ack, Error, Goodbye)
    )
