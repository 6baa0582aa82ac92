"""The operators' own operations that are a question to the service: tokens, the audit log, webhooks."""

from msgspec.json import Encoder
from msgspec.structs import asdict

from otagate.admin import queries
from otagate.admin.auth import identify
from otagate.admin.operations import NDJSON, Call
from otagate.gateway import views_operators as views
from otagate.gateway.views import Page

NoQuery = queries.NoQuery

_encode_lines = Encoder().encode_lines


# -- tokens -----------------------------------------------------------------------------------------


async def list_tokens(call: Call[queries.PageQuery, None]) -> Page[views.TokenView]:
    return await call.service.list_tokens(**asdict(call.query))


async def create_token(call: Call[NoQuery, views.CreateTokenRequest]) -> views.TokenWithSecret:
    return await call.service.create_token(call.body, by=call.by)


async def revoke_token(call: Call[NoQuery, None]) -> None:
    await call.service.revoke_token(call.path["id"], by=call.by)


# -- the audit log ----------------------------------------------------------------------------------


async def list_audit(call: Call[queries.AuditQuery, None]) -> Page[views.AuditView] | None:
    """GET /audit: a page, newest first; or as NDJSON all of it, oldest first."""
    exchange = call.exchange
    if NDJSON not in exchange.headers.get("accept", ""):
        return await call.service.list_audit(**asdict(call.query))
    await exchange.start(200, [("content-type", NDJSON)])
    if exchange.method == "HEAD":
        await exchange.finish()
        return None
    async with exchange.while_connected():
        async for entries in call.service.export_audit():
            identify(call.service, exchange)  # a token may have been revoked meanwhile
            await exchange.write(_encode_lines(entries))
        await exchange.finish()
    return None


async def verify_audit(call: Call[NoQuery, None]) -> views.AuditVerification:
    return await call.service.verify_audit()


# -- webhooks ---------------------------------------------------------------------------------------


async def list_webhooks(call: Call[queries.PageQuery, None]) -> Page[views.WebhookView]:
    return await call.service.list_webhooks(**asdict(call.query))


async def create_webhook(call: Call[NoQuery, views.CreateWebhookRequest]) -> views.WebhookWithSecret:
    return await call.service.create_webhook(call.body, by=call.by)


async def delete_webhook(call: Call[NoQuery, None]) -> None:
    await call.service.delete_webhook(call.path["id"], by=call.by)


async def test_webhook(call: Call[NoQuery, None]) -> views.WebhookTest:
    return await call.service.test_webhook(call.path["id"])
