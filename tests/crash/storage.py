"""Faults of the disk, injected with strace at each early position; afterwards the crash loop's checker.

    tools/storage_faults [--deep N] [--only KIND]

A *position* is a moment, a system call and a number: the Nth such call of a thread after the tracer came. It
comes before the gateway's first own call, on a new folder (`first`) or on the one in use (`start`), or when
it serves (`work`). A run first counts the calls without harm; then each position fails once in a run of its
own, as a disk fails: EIO, ENOSPC, or a write that takes nothing.

What must hold:

1. The gateway stops by itself within a second, with an exit code other than 0, one sentence on stderr that
   names the cause, and no traceback; or it serves on: ready, and it takes an upload and a registration.
2. Every answer to an operator meanwhile is the promised one or 507.
3. Started again without faults, it keeps what it promised to devices and operators (`loop`): above all,
   nothing is missing that was acknowledged after a failed fdatasync, because nothing was.
"""

import argparse
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.crash.gateway import WAITING
from tests.crash.loop import GATEWAY, BrokenPromise, CrashLoop, Operators, free_port
from tests.end_to_end.process import WITHIN_S, GatewayProcess, Operator

STOP_S_MAX = 1.0
TRAFFIC_S_MAX = 5.0  # of waiting for a position to be reached
AFTERWARDS_S = 0.7  # a gateway that has met a fault and is still there then serves on
UPLOAD_BYTES = 1_300_000  # two pieces
READS = ("openat", "pread64", "sendfile")  # of files; of LMDB's meta page, of digests; of downloads
WRITES = ("write", "pwrite64", "pwritev", "writev")
FORCES = ("fsync", "fdatasync")
NAMES = ("rename", "mkdir", "unlink", "ftruncate", "fallocate")
CALLS = (*READS, *WRITES, *FORCES, *NAMES)
NOTHING_TAKEN = "retval=0"
FAULTS = {
    **dict.fromkeys(CALLS, ("error=EIO", "error=ENOSPC")),
    **dict.fromkeys(WRITES, ("error=EIO", "error=ENOSPC", NOTHING_TAKEN)),
    "sendfile": ("error=EIO", NOTHING_TAKEN),  # a bad sector, and a file that got shorter
    "pread64": ("error=EIO",),
}
MOMENTS = ("first", "start", "work")

_LINE = re.compile(r"(\d+) +(\d+\.\d+) (.*)")
_CALL = re.compile(r"(\w+)\(")
_TROUBLE = re.compile(r"Traceback|traceback=|^\S+Z error internal", re.MULTILINE)


class Position(NamedTuple):
    """Where what fails. `number` 0: nothing."""

    moment: str
    call: str
    number: int
    fault: str

    def __str__(self) -> str:
        return f"{self.moment}: {self.call} {self.number}, {self.fault.removeprefix('error=')}"


class Outcome(NamedTuple):
    """What became of a run: `hit` are the calls that failed; `stop_s` from the last of them to the end."""

    hit: list[str]
    stopped: bool
    stop_s: float | None
    refused: int


class TracedGateway(GatewayProcess):
    """A gateway that waits for its tracer before it does anything, or is traced once it serves."""

    def __init__(self, data: Path, trace: Path, listen: tuple[str, str], moment: str) -> None:
        waits = {"OTAGATE_TRACER": "1"} if moment != "work" else {}
        super().__init__(data, command=GATEWAY, listen=listen, environment=waits)
        host, port = listen[1].split(":")
        self.admin = (host, int(port))
        self._trace = trace
        self._tracer: subprocess.Popen[bytes] | None = None

    def wait_ready(self) -> None:
        """By its address, not by its log: that may be what fails."""
        self.wait_for(self._answers)

    def _answers(self) -> bool:
        try:
            return self._ready()
        except httpx.TransportError:
            return False

    def attach(self, position: Position) -> None:
        """Begin to trace; returns when every thread is."""
        options = ["-f", "-y", "-ttt", "-s", "8", "-o", str(self._trace), "-e", f"trace={','.join(CALLS)}"]
        if position.number:
            options += ["-e", f"inject={position.call}:{position.fault}:when={position.number}"]
        self._trace.unlink(missing_ok=True)
        self._tracer = subprocess.Popen(
            ["strace", *options, "-p", str(self._process.pid)], stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + WITHIN_S
        while not self._traced():
            assert time.monotonic() < give_up, "strace cannot trace here (is ptrace forbidden?)"
            time.sleep(0.005)

    def _traced(self) -> bool:
        try:
            tasks = [
                (task / "status").read_text() for task in Path(f"/proc/{self._process.pid}/task").iterdir()
            ]
        except (FileNotFoundError, ProcessLookupError):
            return self._process.poll() is not None or not Path(f"/proc/{self._process.pid}").exists()
        return all("TracerPid:\t0\n" not in status for status in tasks)

    def detach(self) -> None:
        """Trace no more."""
        if self._tracer is not None:
            self._tracer.terminate()
            self._tracer.wait(WITHIN_S)
            self._tracer = None

    def kill(self) -> None:
        """See GatewayProcess."""
        super().kill()
        self.detach()

    @property
    def code(self) -> int | None:
        """The exit code, of one that has ended."""
        return self._process.poll()

    def lines(self) -> Iterator[tuple[int, float, str]]:
        """The trace so far: thread, time, text."""
        if self._trace.exists():
            for line in self._trace.read_text(errors="replace").splitlines():
                found = _LINE.match(line)
                if found is not None:
                    yield int(found[1]), float(found[2]), found[3]

    def injected(self) -> list[tuple[float, str]]:
        """When, and which call."""
        begun: dict[int, str] = {}
        found = []
        for thread, at_s, text in self.lines():
            if text.endswith("<unfinished ...>"):
                begun[thread] = text.removesuffix("<unfinished ...>")
            elif text.endswith("(INJECTED)"):
                found.append((at_s, begun.get(thread, "") + text if text.startswith("<...") else text))
        return found

    def stopped_after_s(self) -> float | None:
        """From the last fault to its end; None if nobody looked on at the end."""
        gone = [at_s for _, at_s, text in self.lines() if text.startswith("+++ exited")]
        return gone[-1] - self.injected()[-1][0] if gone else None

    def counted(self) -> dict[str, list[int]]:
        """By call, the numbers of those that concern the folder or the log, in any thread."""
        made: Counter[tuple[int, str]] = Counter()
        numbers: dict[str, set[int]] = defaultdict(set)
        for thread, _, text in self.lines():
            found = _CALL.match(text)
            if found is not None:
                made[thread, found[1]] += 1
                if str(self.data) in text:
                    numbers[found[1]].add(made[thread, found[1]])
        return {call: sorted(numbers[call]) for call in CALLS if numbers[call]}


class Hands(Operators):
    """Operators who are told now and then that there is no room."""

    upload_bytes = UPLOAD_BYTES

    def __init__(self, operator: Operator, cycle: int) -> None:
        super().__init__(operator, cycle)
        self.refused = 0

    def _exchange_firmware(self, name: str) -> None:
        try:
            super()._exchange_firmware(name)
        except AssertionError as error:
            if '"no_room"' not in str(error):
                raise
            self.refused += 1


class StorageFaults(CrashLoop):
    """See the module. `say` gets a line for each position."""

    stop_s_max = STOP_S_MAX
    must_hit = False  # wait for each position, however long it takes to come
    outcomes: dict[Position, Outcome]
    keep_going = False  # after a position at which something does not hold
    only = ""  # in the names of the positions

    def run_all(self, positions: Sequence[Position] | None = None, deep: int = 6) -> None:
        """Every position, or these. BrokenPromise names the one."""
        self.outcomes = {}
        try:
            for position in self._counted(deep) if positions is None else positions:
                try:
                    if position.moment != "first":
                        self._have_fleet()
                    outcome = self._fail(position)
                except (AssertionError, BrokenPromise, httpx.TransportError) as error:
                    self.totals["broken"] += 1
                    self.say(f"BROKEN: {position}: {error}")
                    if not self.keep_going:
                        raise BrokenPromise(f"{position}: {error}") from error
                else:
                    self.outcomes[position] = outcome
                    self._tell(position, outcome)
            self._have_fleet()
            gateway = self._start()
            try:
                self._finish(gateway)
            finally:
                gateway.kill()
        finally:
            if self._fleet is not None:
                self._fleet.kill()
                self._fleet.wait()

    def _have_fleet(self) -> None:
        """Devices at work, which stay when a gateway goes."""
        if self._fleet is None:
            gateway = self._start()
            try:
                with Operator(gateway) as operator:
                    self._set_up(gateway, operator)
                    self._keep_busy(operator)
            finally:
                gateway.kill()

    def _tell(self, position: Position, outcome: Outcome) -> None:
        self.totals["positions"] += bool(outcome.hit)
        if not outcome.hit:
            became = "not reached"
        elif outcome.stopped:
            stop_ms = int((outcome.stop_s or 0) * 1000)
            self.totals["stopped"] += 1
            self.totals["slowest stop, ms"] = max(self.totals["slowest stop, ms"], stop_ms)
            became = f"stopped after {stop_ms} ms"
        else:
            self.totals["served on"] += 1
            self.totals["refused"] += outcome.refused
            became = f"served on, {outcome.refused} uploads refused"
        self.say(f"{position} [{'; '.join(outcome.hit)}]: {became}")

    def _counted(self, deep: int) -> Iterator[Position]:
        """All positions, by what a run without faults does."""
        for moment in MOMENTS:
            if moment != "first":
                self._have_fleet()
            numbers = self._run(Position(moment, "none", 0, ""))[1]
            told = ", ".join(f"{call} {' '.join(map(str, of_it[:deep]))}" for call, of_it in numbers.items())
            self.say(f"{moment}: {told}")
            for call, of_it in numbers.items():
                for number in of_it[:deep]:
                    for fault in FAULTS[call]:
                        position = Position(moment, call, number, fault)
                        if self.only in str(position):
                            yield position

    def _fail(self, position: Position) -> Outcome:
        """One position, and then a start without faults that finds everything in its place."""
        outcome = self._run(position)[0]
        if position.moment == "first":
            return outcome
        gateway = self._start()
        try:
            self._check_operators(gateway)
            with Operator(gateway) as operator:
                self._keep_busy(operator)
        finally:
            gateway.kill()
        return outcome

    # -- a run -----------------------------------------------------------------------------------------

    def _run(self, position: Position) -> tuple[Outcome, dict[str, list[int]]]:
        data, listen = self.data, self._listen
        if position.moment == "first":
            data = self.folder / "first"
            shutil.rmtree(data, ignore_errors=True)
            listen = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
        gateway = TracedGateway(data, self.folder / "trace", listen, position.moment)
        try:
            gateway.launch()
            if position.moment == "work":
                gateway.wait_ready()
            else:
                gateway.wait_for(lambda: WAITING in gateway.log)
            gateway.attach(position)
            outcome = self._use(gateway, position)
        finally:
            gateway.kill()
        numbers = gateway.counted()
        found = self._look(gateway) if position.moment != "first" else self._start_again(data, listen)
        if found:
            raise BrokenPromise("\n".join(found[:50]))
        return outcome, numbers

    def _use(self, gateway: TracedGateway, position: Position) -> Outcome:
        """Until the position was reached, or surely never is; and what became of the gateway."""
        hands = None
        try:
            gateway.wait_ready()
            if position.moment != "first":
                self.totals["hands"] += 1
                hands = Hands(Operator(gateway), self.totals["hands"])
                hands.start()
        except (AssertionError, httpx.TransportError):
            if not self._ends(gateway):
                raise
        self._wait(gateway, lambda: bool(gateway.injected()), self._traffic_s(position))
        if gateway.injected():
            self._wait(gateway, lambda: False, AFTERWARDS_S)
        alive = gateway.code is None and self._serves_on(gateway, position)
        refused = self._dismiss(gateway, hands)
        gateway.detach()
        named = [_short(text, str(self.folder)) for _, text in gateway.injected()]
        if not alive:
            self._judge_end(gateway, position)
            return Outcome(named, True, gateway.stopped_after_s(), refused)
        if _TROUBLE.search(gateway.log):
            raise BrokenPromise(f"the log of one that serves on: {gateway.log[-3000:]}")
        return Outcome(named, False, None, refused)

    def _traffic_s(self, position: Position) -> float:
        """How long the position may take to come."""
        if self.must_hit and position.number:
            return WITHIN_S
        return 0.0 if position.moment == "first" else TRAFFIC_S_MAX

    def _wait(self, gateway: TracedGateway, reached: Callable[[], bool], patience_s: float) -> None:
        give_up = time.monotonic() + patience_s
        while gateway.code is None and not reached() and time.monotonic() < give_up:
            time.sleep(0.02)

    def _serves_on(self, gateway: TracedGateway, position: Position) -> bool:
        """A fault that is over costs nothing more; False: it was stopping after all."""
        if position.moment == "first":
            return True
        gateway.detach()
        try:
            self._serves(gateway)
        except (AssertionError, httpx.TransportError):
            if not self._ends(gateway):
                raise
            return False
        return True

    def _ends(self, gateway: TracedGateway) -> bool:
        """Whether one that does not answer is stopping: its listeners go first."""
        self._wait(gateway, lambda: False, WITHIN_S / 6)
        return gateway.code is not None

    def _serves(self, gateway: TracedGateway) -> None:
        self.totals["asked"] += 1
        with Operator(gateway) as operator:
            name = f"after-{self.totals['asked']}"
            operator.call("POST", "/products/other/devices", 201, json={"identifier": name})
            self._promised[f"/products/other/devices/{name}"] = 200
            firmware = operator.add_firmware(name, os.urandom(2000), "other")
            operator.call("DELETE", f"/firmware/{firmware}", 204)
            self._promised[f"/firmware/{firmware}/content"] = 404

    def _dismiss(self, gateway: TracedGateway, hands: Hands | None) -> int:
        """Their promises count from now on; how often they were told that there is no room."""
        gateway.kill()
        if hands is None:
            return 0
        hands.join(WITHIN_S)
        if hands.unexpected:
            raise BrokenPromise(f"an operator was told: {hands.unexpected}; the log: {gateway.log[-3000:]}")
        self._keep(hands)
        return hands.refused

    def _judge_end(self, gateway: TracedGateway, position: Position) -> None:
        """Whoever reads its last words knows why."""
        log = gateway.log
        last = log.rstrip().rsplit("\n", 1)[-1]
        if not gateway.injected():
            raise BrokenPromise(f"ended before anything failed: {log[-3000:]}")
        told = last.startswith("otagate: ") and _cause(position.fault) in last
        if gateway.code == 0 or _TROUBLE.search(log) or not told:
            raise BrokenPromise(f"exit code {gateway.code}, its last words: {log[-3000:]}")
        took_s = gateway.stopped_after_s()
        if took_s is not None and took_s > self.stop_s_max:
            raise BrokenPromise(f"took {took_s:.2f} s to stop")

    def _start_again(self, data: Path, listen: tuple[str, str]) -> list[str]:
        """A folder whose first start failed is as good as a new one."""
        gateway = GatewayProcess(data, command=GATEWAY, listen=listen)
        try:
            gateway.start()
            with Operator(gateway) as operator:
                operator.create_product()
        finally:
            gateway.kill()
        return []


def _short(call: str, folder: str) -> str:
    """A call as it is shown: its name, and the file."""
    files = re.findall(rf"{re.escape(folder)}/([^\">]*)", call)
    return f"{call.split('(')[0]} {files[-1] if files else call[:100]}"


def _cause(fault: str) -> str:
    """The words for a fault; none for a write that took nothing: whoever met it found his own."""
    return "" if fault == NOTHING_TAKEN else os.strerror(getattr(errno, fault.removeprefix("error=")))


def main() -> int:
    """The command tools/storage_faults."""
    parser = argparse.ArgumentParser(
        prog="tools/storage_faults", description="Faults of the disk, by strace."
    )
    parser.add_argument("--deep", type=int, default=6, help="calls of each kind that fail (default: 6)")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument(
        "--stop-within", type=float, default=STOP_S_MAX, metavar="S", help="seconds (default: 1)"
    )
    parser.add_argument("--keep-going", action="store_true", help="tell of what broke, and go on")
    parser.add_argument("--only", metavar="TEXT", help="positions whose name has this in it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otagate-storage-") as folder:
        loop = StorageFaults(Path(folder), arguments.devices, 1, lambda line: print(line, flush=True))
        loop.stop_s_max = arguments.stop_within
        loop.only = arguments.only or ""
        loop.keep_going = arguments.keep_going
        try:
            loop.run_all(deep=arguments.deep)
        except (BrokenPromise, AssertionError) as error:
            print(f"BROKEN: {error}")
            return 1
    totals = loop.totals
    broken = f"{totals['broken']} BROKEN" if totals["broken"] else "nothing lost"
    print(
        f"{totals['positions']} positions, {broken}: {totals['stopped']} stopped by themselves (within "
        f"{totals['slowest stop, ms']} ms), {totals['served on']} served on, "
        f"{totals['refused']} uploads refused; {totals['promises']} promises "
        f"to devices kept"
    )
    return int(totals["broken"] > 0)


if __name__ == "__main__":
    sys.exit(main())
