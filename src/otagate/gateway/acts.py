"""What operators do, as changes that tell of themselves: who, from where, and the answer kept for a repeat.

Theory. A client whose connection broke cannot know whether its POST was carried out. With an Idempotency-Key
it may send the request again: the first time the answer is written in the commit of the action, and every
later time that answer is given and nothing is done. So a crash between the commit and the answer costs
nothing, and one before the commit leaves neither action nor answer. An action of many commits (the creation
of a batch) keeps its answer with the one that makes it visible; what a crash leaves before that is undone at
the next start.

Keys belong to a token. A kept answer may hold a secret that is shown once, so its body is sealed: by a key
stream (SHAKE-256) from the clear text of the token that asked, which the store does not have. Refusals are
not kept: they changed nothing, and may come out otherwise the next time.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Struct

from otagate import limits
from otagate.errors import Conflict
from otagate.gateway.access import Identity, Role
from otagate.store.interface import Change
from otagate.store.operators import Audited, AuditNote, Keep, KeptAnswer

NONCE_BYTES = 16

encode = msgspec.json.Encoder().encode

Note = Callable[[Any], AuditNote | None]


class Repeatable(Struct, eq=False):
    """A request with an Idempotency-Key. `kept`: its answer, when it was carried out before.

    `request` stands for method, path and query; `content` is the SHA-256 of the body (hex), known when the
    body was read. The two together are the fingerprint by which another request under the same key is told.
    """

    key: bytes
    seal_key: bytes
    request: bytes
    status: int
    kept: KeptAnswer | None
    content: str = ""

    @property
    def fingerprint(self) -> bytes:
        """What this request is."""
        return hashlib.sha256(self.request + b"\0" + self.content.encode()).digest()

    @property
    def is_same(self) -> bool:
        """Whether the kept answer is one to this very request."""
        return self.kept is not None and self.kept.fingerprint == self.fingerprint

    def seal(self, body: bytes) -> bytes:
        """A body as it is stored."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._pour(nonce, body)

    def open(self) -> bytes:
        """The body of the kept answer."""
        assert self.kept is not None
        sealed = self.kept.sealed
        return self._pour(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:])

    def _pour(self, nonce: bytes, data: bytes) -> bytes:
        stream = hashlib.shake_256(self.seal_key + self.key + nonce).digest(len(data))
        return bytes(a ^ b for a, b in zip(data, stream, strict=True))


class Act(Struct, frozen=True):
    """One request of an operator: what the service is told of who asks."""

    identity: Identity
    address: str
    repeatable: Repeatable | None = None

    def wrap(self, change: Change, at_ms: int, action: str, note: Note, view: Callable[[Any], Any]) -> Change:
        """The change, with its entry in the audit log and, if wanted, the answer that `view` makes of it."""
        keep = None
        again = self.repeatable
        if again is not None:

            def seal(outcome: Any) -> bytes:
                assert again is not None
                return again.seal(encode(view(outcome)))

            keep = Keep(again.key, again.fingerprint, again.status, seal)
        identity = self.identity
        return Audited(change, at_ms, identity.name, identity.role.label, self.address, action, note, keep)


#: What the gateway does of itself.
GATEWAY = Act(Identity(0, "gateway", Role.ADMIN, b""), "")


def noting(target: str, **details: Any) -> Note:
    """A note that does not depend on the outcome."""
    note = AuditNote(target, details)
    return lambda outcome: note


class Repeats:
    """Which requests with a key are under way. `kept_answer` is the store's."""

    def __init__(
        self, kept_answer: Callable[[bytes], Awaitable[KeptAnswer | None]], now_ms: Callable[[], int]
    ) -> None:
        self._kept_answer = kept_answer
        self._now_ms = now_ms
        self._running: set[bytes] = set()

    @asynccontextmanager
    async def begin(
        self, identity: Identity, key: str, request: bytes, status: int
    ) -> AsyncIterator[Repeatable]:
        """Carry out a request with this key, inside. Conflict while another one with it is under way."""
        digest = hashlib.sha256(f"{identity.token}\0{key}".encode()).digest()
        if digest in self._running:
            raise Conflict("A request with this Idempotency-Key is under way.", field="Idempotency-Key")
        self._running.add(digest)
        try:
            kept = await self._kept_answer(digest)
            if kept is not None and self._now_ms() >= kept.at_ms + limits.kept_answer_ms:
                kept = None
            yield Repeatable(digest, identity.seal_key, request, status, kept)
        finally:
            self._running.discard(digest)
