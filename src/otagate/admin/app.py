"""The admin surface as an ASGI application: `build` makes it of the table of operations.

Starlette matches the path; all else happens in `Endpoint`, in one order: method, Host, who asks, query, key,
body, handler, answer. Whatever a handler raises ends here: a RequestError becomes the error body with its
status, a client that left needs no answer, and anything else is our fault: one line in the log, and to the
client no more than that it happened.
"""

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Route

from otagate import logs
from otagate.admin import console, faults
from otagate.admin.auth import admit
from otagate.admin.bodies import LargeBodies, read_body
from otagate.admin.conditional import CHANGING, Doors, answer_single, check_match
from otagate.admin.exchange import Exchange, Gone, Receive, Scope, Send
from otagate.admin.facade import Service
from otagate.admin.hosts import check_host
from otagate.admin.metrics import Requests, make_operation
from otagate.admin.openapi import document
from otagate.admin.operations import Call, Operation, Reply
from otagate.admin.queries import NoQuery, parse
from otagate.admin.repeating import repeatable, replay
from otagate.admin.routes import OPERATIONS
from otagate.errors import NotFound, RequestError, TooManyAttempts, Unauthorized
from otagate.gateway.acts import encode

log = logs.get("admin")

#: Nothing that a path names has a slash in it. Decoded it would be another path than a proxy in front reads.
_CODED_SLASH = b"%2f"


def build(service: Service) -> Starlette:
    """The application. What it holds of its own are counts of requests; all else is the service's."""
    requests, large = Requests(), LargeBodies()
    described = _with_document((*OPERATIONS, make_operation(requests)))
    paths: dict[str, dict[str, Operation]] = {}
    for operation in described:
        paths.setdefault(operation.path, {})[operation.method] = operation
    paths[console.ASSETS.path] = {"GET": console.ASSETS}
    routes = [
        Route(path, Endpoint(service, path, methods, requests, large), name=path)
        for path, methods in paths.items()
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    app.router.default = unknown_path
    return app


def _with_document(operations: Sequence[Operation]) -> list[Operation]:
    """The operations and one more, which shows the document of them all."""

    async def openapi(call: Call[NoQuery, None]) -> None:
        await call.exchange.answer(200, encoded)

    own = Operation(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        summary="This document",
        replies=(Reply(200, "OpenAPI 3.1.", dict[str, Any]),),
        public=True,
    )
    described = [*operations, own]
    encoded = encode(document(described))
    return described


class Endpoint:
    """The operations of one path, by method; HEAD is served as GET whose body is dropped."""

    def __init__(
        self,
        service: Service,
        path: str,
        methods: dict[str, Operation],
        requests: Requests,
        large: LargeBodies,
    ) -> None:
        self._service = service
        self._path = path
        self._requests = requests
        self._large = large
        self._methods = methods | ({"HEAD": methods["GET"]} if "GET" in methods else {})
        self._doors = Doors()
        self._allow = ", ".join(sorted(self._methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _CODED_SLASH in scope.get("raw_path", b"").lower():
            return await unknown_path(scope, receive, send)
        exchange = Exchange(scope, receive, send)
        operation = self._methods.get(exchange.method)
        try:
            await self._answer(operation, exchange, scope)
        finally:
            method = exchange.method if operation is not None else "other"
            self._requests.count(method, self._path, exchange.status)
        return None

    async def _answer(self, operation: Operation | None, exchange: Exchange, scope: Scope) -> None:
        if operation is None:
            refused = faults.MethodNotAllowed(f"The methods here are {self._allow}.")
            await answer_error(exchange, refused, {"allow": self._allow})
            return
        try:
            await self._perform(operation, exchange, scope)
        except Gone:
            pass
        except RequestError as error:
            await answer_error(exchange, error)
        except Exception as error:  # a fault of ours; it must not end the gateway
            await answer_fault(exchange, operation, error)

    async def _perform(self, operation: Operation, exchange: Exchange, scope: Scope) -> None:
        if operation.public or "authorization" not in exchange.headers:
            check_host(exchange, self._service.host_names)
        by = admit(self._service, operation, exchange)
        query = parse(exchange.query, operation.query)
        async with repeatable(self._service, operation, exchange, scope["path"], by) as by:
            body = await read_body(operation, exchange, by, self._large)
            again = by.repeatable
            if again is not None and again.kept is not None and operation.body is not None:
                return await replay(exchange, again)
            call = Call(self._service, exchange, scope["path_params"], query, body, by)
            result = await self._handle(operation, call, scope["path"])
        if not exchange.started:
            status, data = operation.replies[0].status, b"" if result is None else encode(result)
            if operation.is_single:
                await answer_single(exchange, status, data)
            else:
                await exchange.answer(status, data)
        return None

    async def _handle(self, operation: Operation, call: Call[Any, Any], path: str) -> object:
        """The handler's result; of what changes a thing that can be shown, if that is as If-Match says."""
        shown = self._methods.get("GET")
        if shown is None or not shown.is_single or operation.method not in CHANGING:
            return await operation.handler(call)
        async with self._doors.of(path):
            await check_match(shown, call)
            return await operation.handler(call)


async def answer_error(
    exchange: Exchange, error: RequestError, headers: dict[str, str] | None = None
) -> None:
    """The error body with its status. An answer that has begun can only break off."""
    if exchange.started:
        return
    more = dict(headers or {})
    if isinstance(error, Unauthorized):
        more["www-authenticate"] = 'Bearer realm="otagate"'
    if isinstance(error, faults.RangeNotSatisfiable):
        more["content-range"] = f"bytes */{error.details['size']}"
    if isinstance(error, TooManyAttempts):
        more["retry-after"] = str(error.retry_after_s)
    await exchange.answer(error.status, encode(faults.body_of(error)), more.items())


async def answer_fault(exchange: Exchange, operation: Operation, error: Exception) -> None:
    """One line in the log, and an answer that says nothing of it."""
    log.failure("request_failed", error, operation=f"{operation.method} {operation.path}")
    if not exchange.started:
        await exchange.answer(500, encode(faults.INTERNAL))


async def unknown_path(scope: Scope, receive: Receive, send: Send) -> None:
    """What is at no path of the table. A WebSocket is refused: devices have a listener of their own."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
    elif scope["type"] == "http":
        await answer_error(Exchange(scope, receive, send), NotFound("There is nothing at this path."))
