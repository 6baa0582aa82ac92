"""Was it durable when it was said? Read from a trace of the gateway's system calls.

A commit of LMDB with sync on is two steps: fdatasync of the pages, then a write of the meta page through a
descriptor opened with O_DSYNC. It is durable when that write has returned. An answer may leave only if a
whole commit lies between the moment that its request was read and the moment that the answer's send began.

What is looked at: messages of devices whose `id` begins with `t-` (the test names those so that change
something durable), and HTTP requests that write; of a bulk registration, the first result. Masks of zeros
make WebSocket frames readable.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SYSCALLS = (
    "openat,accept4,close,fdatasync,pwrite64,pwritev,read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"
)
OPTIONS = ("-f", "--seccomp-bpf", "-ttt", "-T", "-xx", "-s", "8192", "-e", f"trace={SYSCALLS}")
RECEIVES = {"read", "readv", "recvfrom", "recvmsg"}
SENDS = {"write", "writev", "sendto", "sendmsg"}

_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)[^<]*(?:<(\d+\.\d+)>)?", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_ASKED = re.compile(rb'\{"type":"[a-z]+"[^{}]*"id":"(t-[^"]*)"[^{}]*\}')
_ANSWERED = re.compile(
    rb'\{"type":"(?:ack|welcome)"[^{}]*"id":"(t-[^"]*)"[^{}]*\}|\{"id":"(t-[^"]*)"[^{}]*\}'
)
_WRITES = re.compile(rb"(POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r\n")
_SUCCESS = re.compile(rb'^HTTP/1\.1 2\d\d(?!.*application/x-ndjson)|\{"line":', re.DOTALL)


class Call(NamedTuple):
    """A system call: `data` are the bytes that it moved."""

    start_s: float
    end_s: float
    thread: int
    name: str
    descriptor: int
    arguments: str
    result: int
    data: bytes


class Verdict(NamedTuple):
    """How many answers were durable when they left, and what is wrong with the others."""

    durable: list[str]
    violations: list[str]


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """The calls of a trace in the order in which they ended."""
    begun: dict[int, tuple[float, str]] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        thread, at_s, text = int(found[1]), float(found[2]), found[3]
        if text.endswith("<unfinished ...>"):
            begun[thread] = at_s, text.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = _RESUMED.match(text)
        start_s = at_s
        if resumed is not None:
            if thread not in begun:
                continue
            start_s, head = begun.pop(thread)
            text = head + resumed[2]
        call = _CALL.match(text)
        if call is None:
            continue
        arguments, result = call[2], int(call[3])
        # a resumed call ended when its line was written; another after the time that it took
        end_s = at_s if resumed is not None else start_s + float(call[4] or 0)
        data = b"".join(bytes.fromhex(part.replace("\\x", "")) for part in _STRING.findall(arguments))
        first = re.match(r"\d+", arguments)
        descriptor = int(first[0]) if first else -1
        yield Call(start_s, end_s, thread, call[1], descriptor, arguments, result, data[: max(result, 0)])


class _Stream:
    """One connection: what was asked and is not answered yet, and when it was read."""

    def __init__(self) -> None:
        self.held = b""
        self.asked: dict[str, float] = {}
        self.request: tuple[str, float] | None = None

    def receive(self, call: Call) -> None:
        self.held += call.data
        for found in _ASKED.finditer(self.held):
            self.asked.setdefault(found[1].decode(), call.end_s)
        self.held = self.held[self.held.rfind(b"}") + 1 :]
        head = _WRITES.match(call.data)
        if head is not None:
            self.request = f"{head[1].decode()} {head[2].decode()}", call.end_s
        elif self.request is not None and call.data:
            self.request = self.request[0], call.end_s  # more of its body

    def answers(self, call: Call) -> Iterator[tuple[str, float]]:
        """What this send answers: its name, and when it had been read."""
        for found in _ANSWERED.finditer(call.data):
            name = found[1].decode()
            if name in self.asked:
                yield name, self.asked.pop(name)
        if self.request is not None and _SUCCESS.search(call.data):
            yield self.request
            self.request = None


def check(calls: Iterable[Call]) -> Verdict:
    """Pair every answer with a commit."""
    commits: list[tuple[float, float]] = []
    synced: dict[int, float] = {}  # thread → when its last fdatasync began
    meta: set[int] = set()
    streams: dict[int, _Stream] = {}
    verdict = Verdict([], [])
    # A send counts when it begins, everything else when it has ended.
    ordered = sorted(calls, key=lambda call: call.start_s if call.name in SENDS else call.end_s)
    for call in ordered:
        if call.result < 0:
            continue
        if call.name == "openat":
            meta.discard(call.result)
            if "O_DSYNC" in call.arguments:
                meta.add(call.result)
        elif call.name == "accept4":
            streams[call.result] = _Stream()
        elif call.name == "close":
            streams.pop(call.descriptor, None)
        elif call.name == "fdatasync":
            synced[call.thread] = call.start_s
        elif call.name.startswith("pwrite") and call.descriptor in meta and call.thread in synced:
            commits.append((synced.pop(call.thread), call.end_s))
        elif call.descriptor in streams:
            stream = streams[call.descriptor]
            if call.name in RECEIVES:
                stream.receive(call)
                continue
            for name, read_s in stream.answers(call):
                if any(read_s <= begun and ended <= call.start_s for begun, ended in reversed(commits)):
                    verdict.durable.append(name)
                else:
                    verdict.violations.append(f"{name} was answered before a commit")
    return verdict
