"""How late the gateway's loop is, as a device sees it: pings at a steady pace, and when their pongs came.

The plane answers a ping in the drain that reads it, so a pong is as late as the loop was, whatever held it.
When a pong came is what the kernel noted when it arrived (SO_TIMESTAMPNS), not when this process was
scheduled to look; so a busy core of the fleet does not count as lateness of the gateway.

A process of its own: `python probe.py PORT PRODUCT NUMBER INTERVAL_MS`. Prints, when stdin ends, one line of
JSON: {"late_ns": [...]}, a value for each ping.
"""

import json
import os
import select
import socket
import struct
import sys
import time

from otagate.wire.codec import encode_tcp_frame
from otagate.wire.messages import login_mac

SO_TIMESTAMPNS = 35
PING, PONG, TEXT = 9, 10, 1
TIMEOUT_S = 10.0


class Probe:
    """A logged-in device that only pings."""

    def __init__(self, port: int, product: str, number: int) -> None:
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.connect(("127.0.0.1", port))
        self._received = b""
        self._log_in(product, number)
        self.late_ns: list[int] = []

    def _log_in(self, product: str, number: int) -> None:
        self._socket.sendall(b"OTG\x01")
        challenge = self._message()
        name = f"d{number}"
        mac = login_mac(f"s{number:031d}", challenge["nonce"], product, name)
        hello = {"type": "hello", "product": product, "device": name, "version": "1.0.0", "mac": mac}
        self._socket.sendall(encode_tcp_frame(TEXT, json.dumps(hello).encode()))
        answer = self._message()
        if answer["type"] != "welcome":
            raise SystemExit(f"the probe was not welcome: {answer}")

    def _message(self) -> dict[str, str]:
        while True:
            for opcode, payload in self._frames():
                if opcode == TEXT:
                    message: dict[str, str] = json.loads(payload)
                    return message
            self._receive()

    def _receive(self) -> int:
        """Take what has come; when it came (CLOCK_REALTIME ns)."""
        data, ancillary, _, _ = self._socket.recvmsg(65536, 128)
        if not data:
            raise SystemExit("the gateway closed the probe's connection")
        self._received += data
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("qq", value[:16])
                return int(seconds * 10**9 + nanoseconds)
        return time.time_ns()

    def _frames(self) -> list[tuple[int, bytes]]:
        frames = []
        while len(self._received) >= 4:
            size = int.from_bytes(self._received[1:4], "big")
            if len(self._received) < 4 + size:
                break
            frames.append((self._received[0], self._received[4 : 4 + size]))
            self._received = self._received[4 + size :]
        return frames

    def run(self, interval_s: float) -> None:
        """Ping until stdin ends."""
        pinged = 0
        due = time.monotonic()
        while True:
            wait = max(due - time.monotonic(), 0)
            ready, _, _ = select.select([self._socket, sys.stdin], [], [], wait)
            if sys.stdin in ready and not os.read(sys.stdin.fileno(), 100):
                return
            if self._socket in ready:
                came = self._receive()
                for opcode, payload in self._frames():
                    if opcode == PONG:
                        self.late_ns.append(max(came - struct.unpack("q", payload)[0], 0))
                        pinged -= 1
            if time.monotonic() >= due and pinged < 1000:
                self._socket.sendall(encode_tcp_frame(PING, struct.pack("q", time.time_ns())))
                pinged += 1
                due = max(due + interval_s, time.monotonic() - 1)


def main() -> None:
    """See the module's docstring."""
    port, product, number, interval_ms = sys.argv[1:]
    probe = Probe(int(port), product, int(number))
    print("ready", flush=True)
    probe.run(float(interval_ms) / 1000)
    print(json.dumps({"late_ns": probe.late_ns}), flush=True)


if __name__ == "__main__":
    main()
