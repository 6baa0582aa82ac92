"""Server-sent events (HTML standard, section 9.2): what changes, pushed to consoles and scripts.

What is told, and when, is decided in gateway.events; here it becomes text on a connection. Each event is made
only when the client has taken the one before: one that reads slowly is told less often, and costs the gateway
nothing but its connection. One that reads nothing at all is cut off by the listener's TCP_USER_TIMEOUT.

A stream outlives the moment at which its token was looked at, so that is done again from time to time: with
a token that was revoked, or a session that has ended, the stream breaks off.
"""

import msgspec
import trio

from otagate import limits
from otagate.admin.auth import identify
from otagate.admin.facade import EventStream
from otagate.admin.operations import EVENTS, Call
from otagate.admin.queries import EventsQuery

HEADERS = {"content-type": EVENTS, "x-accel-buffering": "no"}  # nginx would gather events for long

COMMENT_S = limits.events_comment_ms / 1000

_encode = msgspec.json.Encoder().encode


async def stream(call: Call[EventsQuery, None]) -> None:
    """GET /events, until the client leaves or the gateway stops."""
    exchange = call.exchange
    query = call.query
    cursor = exchange.headers.get("last-event-id")
    subscription = await call.service.subscribe(
        batch=query.batch, product=query.product, cursor=cursor, by=call.by
    )
    async with subscription as events:
        await exchange.start(200, HEADERS.items())
        if exchange.method == "HEAD":
            await exchange.finish()
            return
        async with exchange.while_connected():
            await exchange.write(b"retry: %d\n\n" % limits.events_retry_ms)
            look_again_s = trio.current_time() + COMMENT_S
            while (piece := await _piece(events)) is not None:
                if trio.current_time() >= look_again_s:
                    identify(call.service, exchange)
                    look_again_s = trio.current_time() + COMMENT_S
                await exchange.write(piece)
            await exchange.finish()


async def _piece(events: EventStream) -> bytes | None:
    """The next event as text; a comment when there is none for long; None at the end."""
    with trio.move_on_after(COMMENT_S):
        notice = await events.next()
        if notice is None:
            return None
        name, cursor = notice.event.encode(), notice.cursor.encode()
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (cursor, name, _encode(notice.data))
    return b":\n\n"
