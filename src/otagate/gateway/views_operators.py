"""What operators are shown of their own side: tokens, sessions, the audit log, webhooks. See views."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from otagate import limits

RoleLabel = Literal["viewer", "operator", "admin"]
EventLabel = Literal["batch_ended", "device_failed", "batch_stalled"]


class TokenView(Struct, frozen=True):
    """A token, without itself."""

    id: str
    name: str
    role: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None


class TokenWithSecret(Struct, frozen=True):
    """A token with its clear text, which is shown once."""

    id: str
    name: str
    role: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None
    revoked_at: str | None
    token: str


class SessionView(Struct, frozen=True):
    """A console session. `csrf` goes into X-CSRF-Token; `expires_at` moves on with each request."""

    name: str
    role: str
    csrf: str
    expires_at: str


class AuditView(Struct, frozen=True):
    """An entry of the audit log; docs/security.md says how `previous` and `hash` chain them."""

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


class AuditVerification(Struct, frozen=True):
    """Whether the chain is whole; else `first_broken` is the number of the first entry that does not fit."""

    entries: int
    intact: bool
    first_broken: int | None


class WebhookView(Struct, frozen=True):
    """A subscription. `pending`: deliveries that wait; `dropped`: how many found the outbox full."""

    id: str
    url: str
    events: list[str]
    created_at: str
    pending: int
    dropped: int


class WebhookWithSecret(Struct, frozen=True):
    """A subscription with the secret that signs its deliveries, which is shown once."""

    id: str
    url: str
    events: list[str]
    created_at: str
    pending: int
    dropped: int
    secret: str


class WebhookTest(Struct, frozen=True):
    """How the receiver answered a delivery of event `test`: with `status`, or `error` says why not at all."""

    delivered: bool
    status: int | None
    error: str | None


# -- requests ---------------------------------------------------------------------------------------


class CreateTokenRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /tokens. Without `expires_in_days` it is good until it is revoked."""

    name: Annotated[str, Meta(min_length=1, max_length=limits.token_name_chars_max)]
    role: RoleLabel
    expires_in_days: Annotated[int, Meta(ge=1, le=limits.token_days_max)] | None = None


class LoginRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /session."""

    token: str


class CreateWebhookRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /webhooks. `url` is http or https; `events` names at least one."""

    url: Annotated[str, Meta(max_length=limits.webhook_url_chars_max)]
    events: Annotated[list[EventLabel], Meta(min_length=1, max_length=10)]
