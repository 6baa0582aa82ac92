"""What the store keeps for operators: tokens, the audit log, kept answers, webhooks and their outbox.

Theory. An operator's action, the entry of the audit log that tells of it, and the answer that a repeated
request gets again are one change, `Audited`: it wraps the action's own change, and its parts are written in
the same transaction or not at all. What the entry and the answer say may depend on the outcome (an id, a
count), so they are made by functions of it, inside the commit: pure, quick, and never raising.

What webhooks are told is written by the very changes that make it true (`Transition`, `EndBatch`): the outbox
is as durable as the state it speaks of, and empty while nobody has subscribed.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from otagate.store.interface import Change

# -- records ------------------------------------------------------------------------------------------

ADMIN: Final = "admin"  # the role without which nobody could make another token


class Token(Struct, frozen=True, gc=False):
    """A token: who may do what. Its clear text is nowhere; `sha256` is the digest of it."""

    number: int
    name: str
    role: str
    sha256: bytes
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    last_used_at_ms: int | None = None

    @property
    def id(self) -> str:
        """ "t1"."""
        return f"t{self.number}"

    def is_good(self, now_ms: int) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at_ms is None and (self.expires_at_ms is None or now_ms < self.expires_at_ms)


class AuditEntry(Struct, frozen=True):
    """One entry of the audit log; how `previous` and `hash` chain them is told in `audit`."""

    number: int
    at: str
    actor: str
    role: str
    address: str
    action: str
    target: str
    details: dict[str, Any]
    previous: str
    hash: str


class AuditPage(Struct, frozen=True):
    """A piece of the audit log; `next` is the number to go on from, or None at the end."""

    entries: list[AuditEntry]
    next: int | None


class AuditCheck(Struct, frozen=True):
    """What a piece of the chain was found to be. `first_broken` is None while it is intact.

    `entries` were looked at; go on with `hash` (of the last of them, hex) from `next`, None at the end.
    """

    entries: int
    hash: str
    first_broken: int | None
    next: int | None


class KeptAnswer(Struct, frozen=True, gc=False):
    """The answer to a request that may be sent again; `sealed` only who made the request can open."""

    fingerprint: bytes
    at_ms: int
    status: int
    sealed: bytes


class Webhook(Struct, frozen=True):
    """A subscription. `sealed`: its secret (sealing.about_webhook). `pending` entries wait in the outbox;
    `dropped` ones found it full, ever."""

    number: int
    url: str
    events: tuple[str, ...]
    sealed: bytes
    created_at_ms: int
    pending: int = 0
    dropped: int = 0

    @property
    def id(self) -> str:
        """ "w1"."""
        return f"w{self.number}"


class Delivery(Struct, frozen=True, gc=False):
    """An entry of the outbox: `body` is the JSON that the webhook is to be sent."""

    webhook: int
    number: int
    event: str
    at_ms: int
    body: bytes

    @property
    def id(self) -> str:
        """ "d1"."""
        return f"d{self.number}"


# -- changes ------------------------------------------------------------------------------------------


class AddToken(Struct, frozen=True):
    """→ Token. Conflict when a good token has the name; Invalid when there are tokens_max good ones."""

    name: str
    role: str
    sha256: bytes
    at_ms: int
    expires_at_ms: int | None = None


class RevokeToken(Struct, frozen=True):
    """→ Token. NotFound; Conflict when it is revoked already, or the last good one of role admin."""

    id: str
    at_ms: int


class TouchTokens(Struct, frozen=True):
    """→ None. Coalesced last_used: pairs (token number, ms). Unknown numbers are passed over."""

    used: Sequence[tuple[int, int]]


class AuditNote(Struct, frozen=True):
    """What an entry says of an outcome. Never a secret: the log is shown and exported."""

    target: str
    details: dict[str, Any] = {}


class Keep(Struct, frozen=True):
    """An answer to be kept: under a key, with the status and `seal(outcome)`, which is its sealed body."""

    key: bytes
    fingerprint: bytes
    status: int
    seal: Callable[[Any], bytes]


class Audited(Struct, frozen=True):
    """→ the outcome of `change`. With it, in one transaction: an entry of the audit log, and an answer kept.

    When `change` is refused nothing is written. `note(outcome)` is what the entry says, None for no entry.
    Conflict when an answer is kept under the key already: another request with it was faster.
    """

    change: "Change"
    at_ms: int
    actor: str
    role: str
    address: str
    action: str
    note: Callable[[Any], AuditNote | None]
    keep: Keep | None = None


class SweepAnswers(Struct, frozen=True):
    """→ bool: whether there are more. Forgets a slice of the answers kept before `before_ms`."""

    before_ms: int


class AddWebhook(Struct, frozen=True):
    """→ Webhook. Invalid when there are webhooks_max."""

    url: str
    events: tuple[str, ...]
    sealed: bytes
    at_ms: int


class DeleteWebhook(Struct, frozen=True):
    """→ Webhook. NotFound. What waits for it in the outbox goes by ClearOutbox."""

    id: str


class ClearOutbox(Struct, frozen=True):
    """→ bool: whether there are more. Deletes a slice of the deliveries of webhooks that are gone."""


class FinishDeliveries(Struct, frozen=True):
    """→ None. These (webhook, number) are delivered or given up; unknown ones are passed over."""

    done: Sequence[tuple[int, int]]


class TellStalled(Struct, frozen=True):
    """→ None. A batch in progress does not move: told to who subscribed to it. Nothing when it has ended."""

    batch: int
    quiet_ms: int
    online: int
    at_ms: int


class OperatorsStore(Protocol):
    """The reads of this page; `interface.Store` has them too."""

    async def tokens(self) -> list[Token]:
        """All tokens, the oldest first."""
        ...

    async def kept_answer(self, key: bytes) -> KeptAnswer | None:
        """The answer kept under a key, however old."""
        ...

    async def list_audit(
        self, *, before: int = 0, limit: int, actor: str | None = None, action: str | None = None
    ) -> AuditPage:
        """Entries newest first, from below number `before` (0: from the newest). Pages may be short."""
        ...

    async def scan_audit(self, *, after: int = 0, limit: int) -> AuditPage:
        """Entries oldest first."""
        ...

    async def check_audit(self, *, after: int = 0, hash: str = "") -> AuditCheck:
        """Follow the chain from entry `after`, whose hash is `hash`; one transaction's worth a call."""
        ...

    async def webhooks(self) -> list[Webhook]:
        """All subscriptions, the oldest first."""
        ...

    async def deliveries(self, webhook: int, *, after: int = 0, limit: int) -> list[Delivery]:
        """What waits for a webhook, the oldest first, from above number `after`."""
        ...
