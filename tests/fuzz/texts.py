"""Texts from outside that Python reads: signature files, public keys, cursors."""

from collections.abc import Callable

from otagate.errors import Malformed
from otagate.gateway.board import Board
from otagate.gateway.service_operators import number_of_cursor
from otagate.signing.keys import PublicKey
from otagate.signing.manifest import BadSignature, parse_signed

CURSOR_MAX = 10**15


def read_signature_file(data: bytes) -> None:
    """There is one spelling of each."""
    try:
        signed = parse_signed(data)
    except BadSignature:
        return
    assert signed.encode() == data


def read_public_key(data: bytes) -> None:
    try:
        key = PublicKey.from_pem(data)
    except BadSignature:
        return
    assert PublicKey.from_pem(key.pem().encode()).raw == key.raw


def read_cursors(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    board = Board()
    board.version = 1_000
    version = board.version_of(f"{board.name}-{text}")
    assert version is None or 0 <= version <= board.version
    assert board.version_of(text) is None
    try:
        number = number_of_cursor(text)
    except Malformed:
        return
    assert 0 <= number < CURSOR_MAX
    assert number_of_cursor(str(number)) == number


READERS: tuple[Callable[[bytes], None], ...] = (read_signature_file, read_public_key, read_cursors)


def fuzz_texts(data: bytes) -> None:
    """Each is read, or refused by its one error; what was read has one spelling."""
    if data:
        READERS[data[0] % len(READERS)](data[1:])
