"""The work of protocol.md on uWebSockets through socketify: `python socketify_uws.py PORT`.

But for streaming: socketify 0.0.31 never calls its drain handler, so nothing tells it when to go on.
"""

import sys
from typing import Any

from socketify import App, OpCode

PUSH = '{"type":"upgrade","batch":"b1"' + " " * 369 + "}"


def opened(ws: Any) -> None:
    """Everyone hears of pushes."""
    ws.subscribe("push")


def message(ws: Any, text: Any, opcode: Any) -> None:
    """See protocol.md."""
    if text == "P":
        app.publish("push", PUSH, OpCode.TEXT)
    else:
        ws.send(text, OpCode.TEXT)


app = App()
app.ws(
    "/*",
    {"compression": 0, "max_payload_length": 1 << 20, "idle_timeout": 0, "open": opened, "message": message},
)
app.listen(int(sys.argv[1]), lambda config: print("listening", flush=True))
app.run()
