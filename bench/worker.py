"""A process of the fleet: compiled devices, driven by commands that come line by line.

Each line on stdin is a JSON object {"do": name, …arguments}; each answer on stdout one of {"ok": …} or
{"error": text}. Between commands the devices live: at most SLICE_S pass before a command is heard.
Ends when stdin does.
"""

import json
import os
import selectors
import sys
from typing import Any

from otagate.bench.fleet import Fleet

SLICE_S = 0.005


class Worker:
    """The devices of this process, and what may be asked of them."""

    def __init__(self) -> None:
        self._fleet: Fleet | None = None

    def run(self) -> None:
        """Live and answer until stdin ends."""
        waiting = selectors.DefaultSelector()
        waiting.register(sys.stdin, selectors.EVENT_READ)
        os.set_blocking(sys.stdin.fileno(), False)
        received = b""
        while True:
            if self._fleet is not None:
                self._fleet.run(SLICE_S)
            if not waiting.select(0 if self._fleet is not None else None):
                continue
            piece = os.read(sys.stdin.fileno(), 65536)
            if not piece:
                return
            *lines, received = (received + piece).split(b"\n")
            for line in lines:
                answer = self._answer(json.loads(line))
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()

    def _answer(self, command: dict[str, Any]) -> dict[str, Any]:
        name = command.pop("do")
        try:
            if name == "make":
                self._fleet = Fleet(**command)
                return {"ok": None}
            if name == "forget":
                self._fleet = None
                return {"ok": None}
            if self._fleet is None:
                return {"error": "no fleet was made"}
            if "request" in command:
                command["request"] = command["request"].encode("latin-1")
            return {"ok": getattr(self._fleet, name)(**command)}
        except (ValueError, TypeError, AttributeError, OSError) as error:
            return {"error": f"{name}: {error}"}


if __name__ == "__main__":
    Worker().run()
