"""Hostile peers in a process of their own, at the lowest priority: what they do to their own machine is no
attack.

Run as `python -m tests.hostile.peers CROWD`, a JSON object: `attack`, a name in `attacks`, `pause_s`, between
two things that a peer does, and the arguments of `Crowd`. Each line on stdin is answered by one line of JSON:
how it goes. Ends when stdin does.
"""

import json
import os
import selectors
import sys
import time
from typing import Any

from bench import machine
from tests.hostile import attacks
from tests.hostile.attacks import Crowd

NICEST = 19


def run(address: tuple[str, int], attack: str, pause_s: float, **options: Any) -> None:
    """Step the crowd, and answer, until stdin ends."""
    commands = selectors.DefaultSelector()
    commands.register(sys.stdin, selectors.EVENT_READ)
    with Crowd(address, getattr(attacks, attack), **options) as crowd:
        due_s = 0.0
        while True:
            if commands.select(max(due_s - time.monotonic(), 0)):
                if not os.read(sys.stdin.fileno(), 100):
                    return
                print(json.dumps(told(crowd)), flush=True)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + pause_s
                crowd.step()


def told(crowd: Crowd) -> dict[str, Any]:
    """How it goes."""
    return {
        "here": len(crowd),
        "attacking": crowd.attacking,
        "ended": dict(crowd.ended),
        "longest_s": crowd.longest_s(),
    }


if __name__ == "__main__":
    os.nice(NICEST)
    machine.allow_descriptors()
    arguments = json.loads(sys.argv[1])
    run(tuple(arguments.pop("address")), **arguments)
