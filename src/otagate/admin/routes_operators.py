"""The operators' own part of the table of operations (routes.py): sessions, tokens, the audit log,
webhooks."""

from otagate.admin import auth, queries
from otagate.admin import handlers_operators as handlers
from otagate.admin.operations import NDJSON, Operation, Reply
from otagate.gateway import views_operators as views
from otagate.gateway.access import Role
from otagate.gateway.views import Page

API = "/api/v1"

SESSIONS = (
    Operation(
        method="POST",
        path=f"{API}/session",
        handler=auth.log_in,
        summary="Log a browser in",
        body=views.LoginRequest,
        replies=(Reply(200, "Logged in; the cookie is set.", views.SessionView),),
        errors=(401, 403, 429),
        public=True,
    ),
    Operation(
        method="GET",
        path=f"{API}/session",
        handler=auth.show_session,
        summary="Show the session of the cookie",
        replies=(Reply(200, "The session.", views.SessionView),),
    ),
    Operation(
        method="DELETE",
        path=f"{API}/session",
        handler=auth.log_out,
        summary="Log out",
        replies=(Reply(204, "Logged out."),),
    ),
)

TOKENS = (
    Operation(
        method="GET",
        path=f"{API}/tokens",
        handler=handlers.list_tokens,
        role=Role.ADMIN,
        summary="List tokens, the revoked ones too",
        query=queries.PageQuery,
        replies=(Reply(200, "A page of tokens.", Page[views.TokenView]),),
    ),
    Operation(
        method="POST",
        path=f"{API}/tokens",
        handler=handlers.create_token,
        role=Role.ADMIN,
        repeatable=True,
        summary="Make a token",
        body=views.CreateTokenRequest,
        replies=(Reply(201, "Made; its text is shown this once.", views.TokenWithSecret),),
        errors=(409,),
    ),
    Operation(
        method="DELETE",
        path=f"{API}/tokens/{{id}}",
        handler=handlers.revoke_token,
        role=Role.ADMIN,
        summary="Revoke a token, and end the sessions opened with it",
        replies=(Reply(204, "Revoked."),),
        errors=(404, 409),
    ),
)

AUDIT = (
    Operation(
        method="GET",
        path=f"{API}/audit",
        handler=handlers.list_audit,
        role=Role.ADMIN,
        summary="List the audit log, newest first; as NDJSON all of it, oldest first",
        query=queries.AuditQuery,
        replies=(
            Reply(200, "A page of entries.", Page[views.AuditView]),
            Reply(200, "Every entry, a line each.", views.AuditView, NDJSON),
        ),
    ),
    Operation(
        method="GET",
        path=f"{API}/audit/verify",
        handler=handlers.verify_audit,
        role=Role.ADMIN,
        summary="Follow the chain of the audit log",
        replies=(Reply(200, "What was found.", views.AuditVerification),),
    ),
)

WEBHOOKS = (
    Operation(
        method="GET",
        path=f"{API}/webhooks",
        handler=handlers.list_webhooks,
        role=Role.ADMIN,
        summary="List webhooks",
        query=queries.PageQuery,
        replies=(Reply(200, "A page of webhooks.", Page[views.WebhookView]),),
    ),
    Operation(
        method="POST",
        path=f"{API}/webhooks",
        handler=handlers.create_webhook,
        role=Role.ADMIN,
        repeatable=True,
        summary="Subscribe a URL to events",
        body=views.CreateWebhookRequest,
        replies=(Reply(201, "Subscribed; its secret is shown this once.", views.WebhookWithSecret),),
    ),
    Operation(
        method="DELETE",
        path=f"{API}/webhooks/{{id}}",
        handler=handlers.delete_webhook,
        role=Role.ADMIN,
        summary="Delete a webhook, and what waits for it",
        replies=(Reply(204, "Deleted."),),
        errors=(404,),
    ),
    Operation(
        method="POST",
        path=f"{API}/webhooks/{{id}}/test",
        handler=handlers.test_webhook,
        role=Role.ADMIN,
        summary="Send a webhook something now",
        replies=(Reply(200, "How it answered.", views.WebhookTest),),
        errors=(404,),
    ),
)

OPERATORS = SESSIONS + TOKENS + AUDIT + WEBHOOKS
