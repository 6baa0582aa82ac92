"""The work of protocol.md on uWebSockets through socketify: `python socketify_uws.py PORT`."""

import sys
from typing import Any

from socketify import App, OpCode

PUSH = '{"type":"upgrade","batch":"b1"' + " " * 369 + "}"
BUFFERED_MAX = 1 << 20
streams: dict[Any, list[Any]] = {}  # by connection: bytes left, a chunk


def opened(ws: Any) -> None:
    """Everyone hears of pushes."""
    ws.subscribe("push")


def message(ws: Any, text: Any, opcode: Any) -> None:
    """See protocol.md."""
    if text.startswith("S "):
        chunk, size = map(int, text.split()[1:])
        streams[ws.get_user_data_uuid()] = [size, bytes(chunk)]
        stream(ws)
    elif text == "P":
        app.publish("push", PUSH, OpCode.TEXT)
    else:
        ws.send(text, OpCode.TEXT)


def stream(ws: Any) -> None:
    """As much as is taken; `drain` goes on."""
    state = streams.get(ws.get_user_data_uuid())
    while state and state[0] and ws.get_buffered_amount() < BUFFERED_MAX:
        size = min(state[0], len(state[1]))
        state[0] -= size
        ws.send(state[1] if size == len(state[1]) else state[1][:size], OpCode.BINARY)


app = App()
app.ws(
    "/*",
    {
        "compression": 0,
        "max_payload_length": 1 << 20,
        "max_backpressure": 1 << 26,
        "idle_timeout": 0,
        "open": opened,
        "message": message,
        "drain": stream,
    },
)
app.listen(int(sys.argv[1]), lambda config: print("listening", flush=True))
app.run()
