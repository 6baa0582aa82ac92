"""The facade's part about operators themselves: tokens, the audit log, webhooks, requests sent again."""

import secrets
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from otagate import limits
from otagate.errors import Conflict, Malformed, NotFound
from otagate.gateway.access import Access, Session, hash_of
from otagate.gateway.acts import GATEWAY, Act, Note, Repeats
from otagate.gateway.posting import checked_url
from otagate.gateway.views import Page
from otagate.gateway.views_operators import (
    AuditVerification,
    AuditView,
    CreateTokenRequest,
    CreateWebhookRequest,
    SessionView,
    TokenView,
    TokenWithSecret,
    WebhookTest,
    WebhookView,
    WebhookWithSecret,
)
from otagate.store import operators as records
from otagate.store import rekeying
from otagate.store.interface import Change
from otagate.store.sealing import about_webhook
from otagate.store.telling import body_of
from otagate.times import rfc3339
from otagate.upgrade import validation

if TYPE_CHECKING:
    from otagate.gateway.server import Gateway

T = TypeVar("T")

OWN_ACTORS = (GATEWAY.identity.name, rekeying.ACTOR)  # of the audit log, which no token may pass for
TEST = "test"  # the event of a webhook's trial, which no subscription names
AUDIT_SCANS_MAX = 8  # transactions of one listing: a filter that matches little gets a short page


class OperatorsService:
    """See the module; the base of service.Service."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._store = gateway.store
        self._journal = gateway.journal
        self.access: Access = gateway.access
        self.repeats = Repeats(gateway.store.kept_answer, gateway.clock.now_ms)

    def _now_ms(self) -> int:
        return self._gateway.clock.now_ms()

    async def _act(
        self,
        by: Act,
        action: str,
        note: Note,
        change: Change,
        view: Callable[[Any], T],
        settled: Callable[[Any], object] | None = None,
    ) -> T:
        """Carry out an action: the change, its entry in the audit log, the answer kept. Answers the view.

        `view` may be called inside the commit too: it is a function of the outcome and nothing else.
        """
        wrapped = by.wrap(change, self._now_ms(), action, note, view)
        return view(await self._journal.write(wrapped, settled))

    # -- tokens ----------------------------------------------------------------------------------

    async def list_tokens(self, *, cursor: str | None, limit: int) -> Page[TokenView]:
        """The oldest first; also those that are revoked or have expired."""
        after = number_of_cursor(cursor)
        found = [token for token in await self._store.tokens() if token.number > after]
        page = [self._token(token) for token in found[:limit]]
        return Page(page, str(found[limit - 1].number) if len(found) > limit else None)

    async def create_token(self, request: CreateTokenRequest, *, by: Act = GATEWAY) -> TokenWithSecret:
        """The clear text is in the answer and nowhere else. Conflict: the name is taken; Invalid."""
        name = validation.check_token_name(request.name)
        if name in OWN_ACTORS:
            raise Conflict(f"in the audit log {name!r} stands for the gateway itself", field="name")
        clear = secrets.token_urlsafe(32)
        now_ms = self._now_ms()
        days = request.expires_in_days
        change = records.AddToken(
            name=name,
            role=request.role,
            sha256=hash_of(clear),
            at_ms=now_ms,
            expires_at_ms=None if days is None else now_ms + days * limits.DAY_MS,
        )
        return await self._act(
            by,
            "token.create",
            _note_token,
            change,
            lambda token: TokenWithSecret(*(*_token_fields(token, None), clear)),
            self.access.keep,
        )

    async def revoke_token(self, id: str, *, by: Act = GATEWAY) -> None:
        """At once, with the sessions opened with it. NotFound; Conflict: revoked already, the last admin."""
        change = records.RevokeToken(id, self._now_ms())
        await self._act(by, "token.revoke", _note_token, change, _nothing, self.access.keep)

    def _token(self, token: records.Token) -> TokenView:
        return TokenView(*_token_fields(token, self.access.last_used_ms(token)))

    def session(self, session: Session) -> SessionView:
        """A console session as its browser sees it."""
        return SessionView(
            session.token.name, session.token.role, session.csrf, rfc3339(session.expires_at_ms) or ""
        )

    # -- the audit log ---------------------------------------------------------------------------

    async def list_audit(
        self, *, cursor: str | None, limit: int, actor: str | None, action: str | None
    ) -> Page[AuditView]:
        """Newest first. A page may be short, even empty, and still have a `next`."""
        before: int | None = number_of_cursor(cursor)
        items: list[AuditView] = []
        for _ in range(AUDIT_SCANS_MAX):
            if before is None or len(items) == limit:
                break
            page = await self._store.list_audit(
                before=before, limit=limit - len(items), actor=actor, action=action
            )
            before = page.next
            items += [_audit(entry) for entry in page.entries]
        return Page(items, None if before is None else str(before))

    async def export_audit(self) -> AsyncIterator[list[AuditView]]:
        """All of it, oldest first, in pieces; what is added meanwhile comes too."""
        after: int | None = 0
        while after is not None:
            page = await self._store.scan_audit(after=after, limit=limits.page_items_max)
            after = page.next
            yield [_audit(entry) for entry in page.entries]

    async def verify_audit(self) -> AuditVerification:
        """Follow the chain from its first entry to its last."""
        entries, after, hash = 0, 0, ""
        while True:
            piece = await self._store.check_audit(after=after, hash=hash)
            entries += piece.entries
            hash = piece.hash
            if piece.first_broken is not None or piece.next is None:
                return AuditVerification(entries, piece.first_broken is None, piece.first_broken)
            after = piece.next

    # -- webhooks --------------------------------------------------------------------------------

    async def list_webhooks(self, *, cursor: str | None, limit: int) -> Page[WebhookView]:
        """The oldest first."""
        after = number_of_cursor(cursor)
        found = [webhook for webhook in await self._store.webhooks() if webhook.number > after]
        page = [WebhookView(*_webhook_fields(webhook)) for webhook in found[:limit]]
        return Page(page, str(found[limit - 1].number) if len(found) > limit else None)

    async def create_webhook(self, request: CreateWebhookRequest, *, by: Act = GATEWAY) -> WebhookWithSecret:
        """The secret is in the answer and in no other. Invalid: the URL, or there are too many."""
        secret = secrets.token_urlsafe(32)
        url = checked_url(request.url)
        change = records.AddWebhook(
            url=url,
            events=tuple(dict.fromkeys(request.events)),
            sealed=self._store.sealer.seal(secret, about_webhook(url)),
            at_ms=self._now_ms(),
        )
        return await self._act(
            by,
            "webhook.create",
            _note_webhook,
            change,
            lambda webhook: WebhookWithSecret(*(*_webhook_fields(webhook), secret)),
            self._gateway.webhooks.keep,
        )

    async def delete_webhook(self, id: str, *, by: Act = GATEWAY) -> None:
        """With what waits for it. NotFound."""
        change = records.DeleteWebhook(id)
        await self._act(by, "webhook.delete", _note_webhook, change, _nothing, self._gateway.webhooks.drop)

    async def test_webhook(self, id: str) -> WebhookTest:
        """Send it something now, and say how it answers. NotFound."""
        webhook = next((found for found in await self._store.webhooks() if found.id == id), None)
        if webhook is None:
            raise NotFound(f"there is no webhook {id}")
        body = body_of(TEST, TEST, self._now_ms(), {"webhook": webhook.id})
        result = await self._gateway.webhooks.poster.post(webhook, TEST, TEST, body)
        return WebhookTest(result.delivered, result.status, result.error)


def _nothing(outcome: object) -> None:
    """The view of what answers with no body."""


def _token_fields(token: records.Token, last_used_ms: int | None) -> tuple[Any, ...]:
    return (
        token.id,
        token.name,
        token.role,
        rfc3339(token.created_at_ms) or "",
        rfc3339(token.expires_at_ms),
        rfc3339(last_used_ms),
        rfc3339(token.revoked_at_ms),
    )


def _note_token(token: records.Token) -> records.AuditNote:
    details = {"name": token.name, "role": token.role, "expires_at": rfc3339(token.expires_at_ms)}
    return records.AuditNote(token.id, details)


def _webhook_fields(webhook: records.Webhook) -> tuple[Any, ...]:
    return (
        webhook.id,
        webhook.url,
        list(webhook.events),
        rfc3339(webhook.created_at_ms) or "",
        webhook.pending,
        webhook.dropped,
    )


def _note_webhook(webhook: records.Webhook) -> records.AuditNote:
    """Without the URL, which may hold a key."""
    host = urlsplit(webhook.url).hostname
    return records.AuditNote(webhook.id, {"host": host, "events": list(webhook.events)})


def _audit(entry: records.AuditEntry) -> AuditView:
    return AuditView(*(getattr(entry, name) for name in AuditView.__struct_fields__))


def number_of_cursor(cursor: str | None) -> int:
    """The number that a cursor holds; 0 for none. Malformed."""
    if not cursor:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 15:
        raise Malformed("the cursor is not one that a list of this gateway gave", field="cursor")
    return int(cursor)
