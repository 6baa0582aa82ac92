"""What an operation is: one row of the table that routing and the API document are both made of."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from msgspec import Struct

from otagate.admin.exchange import Exchange
from otagate.admin.facade import Service
from otagate.admin.queries import NoQuery
from otagate.gateway.access import Role
from otagate.gateway.acts import Act

JSON = "application/json"
NDJSON = "application/x-ndjson"
CSV = "text/csv"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"
OPENMETRICS = "application/openmetrics-text"

QueryType = TypeVar("QueryType")
BodyType = TypeVar("BodyType")


class Call(Struct, Generic[QueryType, BodyType], frozen=True):
    """One request, decoded: what a handler is given. `path` holds the path parameters, `by` who asks."""

    service: Service
    exchange: Exchange
    path: dict[str, str]
    query: QueryType
    body: BodyType
    by: Act


class Reply(Struct, frozen=True):
    """A successful answer: `type` is None for one without a body or that is not JSON."""

    status: int
    description: str
    type: Any = None
    media: str = JSON


#: A handler returns what its operation's first Reply says, or answers through `call.exchange` itself.
Handler = Callable[[Call[Any, Any]], Awaitable[object]]


class Operation(Struct, frozen=True, kw_only=True):
    """A method on a path.

    `query` is the struct of its query parameters; `body` the struct of its JSON body, of which
    `body_bytes_max` are read (0: `limits.json_body_bytes_max`); `streams` the media
    types that its handler reads from the exchange itself ("*/*": any). `errors` are the statuses of its own;
    those that follow from its shape (authentication, query, body) are in `error_statuses`. `role` is the
    least that a token needs for it. `repeatable`: with an Idempotency-Key it may be sent again.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    replies: tuple[Reply, ...]
    query: type[Struct] = NoQuery
    body: type[Struct] | None = None
    body_bytes_max: int = 0
    streams: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    errors: tuple[int, ...] = ()
    public: bool = False
    role: Role = Role.VIEWER
    repeatable: bool = False

    @property
    def is_single(self) -> bool:
        """Whether it shows one thing of the API: with an entity tag."""
        return self.method == "GET" and self.path.endswith("}") and not self.public

    @property
    def takes_nothing(self) -> bool:
        """Whether it is one of those that usually take a body, and takes none."""
        return self.method == "POST" and self.body is None and not self.streams

    @property
    def error_statuses(self) -> list[int]:
        """Every status but the successful ones that this operation may answer with."""
        statuses = {400, 421, 422, 500, *self.errors}
        if not self.public:
            statuses |= {401, 403, 429}
        if self.repeatable:
            statuses.add(409)
        if self.body is not None or self.streams or self.takes_nothing:
            statuses |= {408, 413, 415}
        return sorted(statuses)
