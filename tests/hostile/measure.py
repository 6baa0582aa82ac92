"""A gateway, honest devices and attackers, each in processes of their own; what each attack costs and meets.

Theory. The gateway has a core for itself (if there are two); honest devices and attackers share the other
one, the attackers at the lowest priority, and waits of honest devices end when the kernel notes the answer
(`tests/hostile/honest.py`). So what is measured is the gateway: what attackers make it do before it comes to
the honest.

A row holds if: honest logins take less than `LOGIN_P99_MS` at the 99th percentile, no honest login fails and
no honest session ends, no attacker goes on for longer than its attack may, the attack is counted, and the
gateway's memory grows by no more than the bounds of so many peers allow.
"""

import json
import math
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bench.processes import Process, wait_until

from bench import machine
from tests.end_to_end.process import ROOT, SERVE, GatewayProcess, Operator
from tests.hostile import attacks, honest
from tests.hostile.attacks import Crowd
from tests.hostile.catalogue import KIB, Attack, Patience, Wave

LOGIN_P99_MS = 200.0
SLACK_S = 1.5  # until a peer notices that it was cut off, beside thousands of others on one core
GRACE_BYTES = 32 * KIB * KIB  # of memory that is nobody's in particular: arenas, caches, a commit
REPORTERS = 100
LOGINS_PER_S = 60.0
FIRST_VISITS_MAX = 100  # at a time: as many as the slow disk's gateway lets wait
IMAGE_BYTES = 8_000_000
ATTACKERS_FROM = [f"127.3.{number // 250}.{1 + number % 250}" for number in range(1_000)]
ONE_ADDRESS = ["127.4.0.1"]
LOOK_S = 0.5
PATIENCE_S = 30.0
LEFTOVERS_S = 120.0  # until what attackers left in the sockets is handled: messages that arrived count
SLOW_DISK = (sys.executable, "-P", "-m", "tests.hostile.gateway", "serve")
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


@dataclass
class Waits:
    """Milliseconds."""

    count: int
    p50: float
    p99: float
    most: float

    @classmethod
    def of(cls, waits_ns: list[int]) -> "Waits":
        """Of single ones."""
        if not waits_ns:
            return cls(0, math.nan, math.nan, math.nan)
        ordered = sorted(waits_ns)
        p50, p99 = (ordered[math.ceil(len(ordered) * share) - 1] / 1e6 for share in (0.5, 0.99))
        return cls(len(ordered), p50, p99, ordered[-1] / 1e6)


@dataclass
class Row:
    """What one attack cost and met."""

    attack: str
    peers: int
    seconds: float
    login_ms: Waits
    report_ms: Waits
    sent_away: int
    failed: list[str]
    cut_off: list[str]
    attacking: int
    longest_s: float | None  # that one of them went on, if they may not
    ended: dict[str, int]
    bounds: str
    counter: str
    counted: float
    memory_bytes: int  # that the gateway's grew by, at most
    busy: float  # share of a core that the gateway used
    misses: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Scene:
    """A gateway with honest devices. `peers`: of an attack whose waves have a share of 1."""

    def __init__(
        self,
        folder: Path,
        peers: int,
        *,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        core: int | None = None,
        slow_disk: bool = False,
        reporters: int = REPORTERS,
    ) -> None:
        self._peers = peers
        self._patience = patience
        self._folder = folder
        self._core = core
        self._reporters = reporters
        self._strangers_max = max(peers * 3 // 5, 1)
        settings = {**asdict(patience), "strangers_per_address_max": self._strangers_max}
        self._gateway = GatewayProcess(
            folder / ("slow" if slow_disk else "data"),
            command=SLOW_DISK if slow_disk else SERVE,
            environment={f"OTAGATE_DEVICE__{name.upper()}": str(value) for name, value in settings.items()},
        )
        self._operator: Operator
        self._honest: Process
        self._crowds = 0
        self._stack = ExitStack()

    def __enter__(self) -> "Scene":
        with ExitStack() as stack:
            stack.callback(self._gateway.kill)
            with on_core(self._core):
                self._gateway.start()
            self._operator = stack.enter_context(Operator(self._gateway))
            self._set_up()
            self._let_visit()
            self._honest = stack.enter_context(self._start_honest())
            wait_until(
                lambda: self._ask(self._honest)["online"] == self._reporters,
                PATIENCE_S,
                "honest devices online",
            )
            self._offer(honest.REPORTER, self._reporters)
            wait_until(
                lambda: self._ask(self._honest)["reporting"] == self._reporters,
                PATIENCE_S,
                "honest reports",
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with self._stack:
            if kind is None:
                self._honest.stop()
                self._gateway.stop()  # and there must be no traceback in its log

    def _set_up(self) -> None:
        self._operator.create_product()
        self._firmware = self._operator.add_firmware("2.0", os.urandom(IMAGE_BYTES))
        numbers = {
            honest.REPORTER: self._reporters,
            honest.VISITOR: honest.VISITORS,
            **dict.fromkeys(("x{}", "y{}", "z{}"), self._peers),
        }
        names = [prefix.format(number) for prefix, count in numbers.items() for number in range(count)]
        self._operator.register(*names)

    def _let_visit(self) -> None:
        """Each honest visitor has been here before: who returns with the version that is known writes
        nothing, so its login has to wait for no disk."""
        for first in range(0, honest.VISITORS, FIRST_VISITS_MAX):
            with Crowd(
                self._gateway.devices,
                attacks.visit,
                min(FIRST_VISITS_MAX, honest.VISITORS - first),
                first=first,
                names=honest.VISITOR,
            ) as crowd:
                while crowd:
                    crowd.step()

    def _start_honest(self) -> Process:
        host, port = self._gateway.devices
        command = [sys.executable, "-P", "-m", "tests.hostile.honest", host, str(port)]
        command += [str(self._reporters), str(LOGINS_PER_S)]
        return Process(command, self._folder / "honest.log", core=None, environ=ENVIRONMENT, pipes=True)

    def _offer(self, names: str, count: int) -> None:
        """A batch over these devices, each of which has been online."""
        devices = [names.format(number) for number in range(count)]
        self._operator.create_batch(self._firmware, range="directed", devices=devices, timeout_minutes=60)

    # -- one attack ----------------------------------------------------------------------------------

    def measure(self, attack: Attack, seconds: float) -> Row:
        """For so long, and until each attacker of the beginning has met its bound."""
        for wave in attack.waves:
            if wave.offers:
                with Crowd(
                    self._gateway.devices, attacks.visit, wave.peers(self._peers), names=wave.names
                ) as crowd:
                    while crowd:
                        crowd.step()
                self._offer(wave.names, wave.peers(self._peers))
        pid = self._gateway.pid
        before = self._metrics()[attack.counter]
        memory = most = anonymous_bytes(pid)
        self._ask(self._honest)
        holds_s = attack.holds_s(self._patience) if attack.holds_s else None
        began_s, used_s = time.monotonic(), machine.cpu_s([pid])
        give_up_s = began_s + max(seconds, holds_s or 0.0) + PATIENCE_S
        with self._attackers(attack) as crowds:
            told: list[dict[str, Any]] = []
            while time.monotonic() < began_s + seconds or not self._settled(attack, told, before):
                time.sleep(LOOK_S)
                told = [self._ask(crowd) for crowd in crowds]
                most = max(most, anonymous_bytes(pid))
                if time.monotonic() > give_up_s:
                    break
            took_s = time.monotonic() - began_s
            window = self._ask(self._honest)
            counted = self._metrics()[attack.counter] - before
            busy = (machine.cpu_s([pid]) - used_s) / took_s
        self._wait_gone()
        row = Row(
            attack=attack.name,
            peers=sum(wave.peers(self._peers) for wave in attack.waves),
            seconds=took_s,
            login_ms=Waits.of(window["login_ns"]),
            report_ms=Waits.of(window["report_ns"]),
            sent_away=window["sent_away"],
            failed=window["failed"],
            cut_off=window["cut_off"],
            attacking=sum(crowd["attacking"] for crowd in told),
            longest_s=None if holds_s is None else max(crowd["longest_s"] for crowd in told),
            ended=dict(sum((Counter(crowd["ended"]) for crowd in told), Counter())),
            bounds=attack.bounds,
            counter=attack.counter,
            counted=counted,
            memory_bytes=most - memory,
            busy=busy,
        )
        row.misses = list(self._misses(attack, row, holds_s))
        return row

    def _settled(self, attack: Attack, told: list[dict[str, Any]], before: float) -> bool:
        """As many attackers as there are were counted, and, if they are to be cut off, have been."""
        peers = [wave.peers(self._peers) for wave in attack.waves]
        if self._metrics()[attack.counter] < before + sum(peers):
            return False
        return attack.holds_s is None or all(
            sum(crowd["ended"].values()) >= count for crowd, count in zip(told, peers, strict=True)
        )

    def _misses(self, attack: Attack, row: Row, holds_s: float | None) -> Iterator[str]:
        if not row.login_ms.p99 < LOGIN_P99_MS:
            yield f"honest logins: p99 {row.login_ms.p99:.0f} ms of {row.login_ms.count}"
        if row.failed:
            yield f"{len(row.failed)} honest logins failed: {row.failed[0]}"
        if row.cut_off:
            yield f"{len(row.cut_off)} honest sessions ended: {row.cut_off[0]}"
        if row.sent_away and not attack.slow_disk:
            yield f"{row.sent_away} honest logins were sent away"
        if holds_s is not None and row.longest_s is not None and row.longest_s > holds_s + SLACK_S:
            yield f"an attacker went on for {row.longest_s:.1f} s, the bound is {holds_s:g} s"
        if not row.counted:
            yield f"{attack.counter} did not count it"
        if row.memory_bytes > attack.bytes_each * row.peers + GRACE_BYTES:
            yield f"memory grew by {row.memory_bytes / KIB / KIB:.0f} MiB"

    @contextmanager
    def _attackers(self, attack: Attack) -> Iterator[list[Process]]:
        with ExitStack() as stack:
            yield [stack.enter_context(self._start_crowd(wave)) for wave in attack.waves]

    def _start_crowd(self, wave: Wave) -> Process:
        peers = wave.peers(self._peers)
        options = {
            "address": self._gateway.devices,
            "attack": wave.attack,
            "peers": peers,
            "again": wave.again,
            "pause_s": wave.pause_s,
            "sources": ONE_ADDRESS if wave.one_address else ATTACKERS_FROM,
            "identities": peers // wave.boards,
            "buffer": wave.buffer,
            "names": wave.names,
        }
        command = [sys.executable, "-P", "-m", "tests.hostile.peers", json.dumps(options)]
        self._crowds += 1
        log = self._folder / f"peers-{self._crowds}.log"
        return Process(command, log, core=None, environ=ENVIRONMENT, pipes=True)

    def _wait_gone(self) -> None:
        """Until the gateway is alone with honest devices."""
        here = self._reporters + int(LOGINS_PER_S)

        def gone() -> bool:
            samples = self._metrics()
            return sum(samples[f'otagate_connections{{link="{link}"}}'] for link in LINKS) <= here

        wait_until(gone, LEFTOVERS_S, "the end of the attackers' connections")

    # -- asking --------------------------------------------------------------------------------------

    def _ask(self, process: Process) -> Any:
        process.check()
        process.input.write(b"\n")
        process.input.flush()
        line = process.output.readline()
        if not line:
            process.wait()
            process.check()
        return json.loads(line)

    def _metrics(self) -> dict[str, float]:
        text = httpx.get(f"{self._gateway.url}/metrics", timeout=PATIENCE_S).text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


LINKS = ("websocket", "tcp", "opening")


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes that are started in the block are on this core, for good."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that is no file's."""
    found = re.search(r"^RssAnon:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * KIB
