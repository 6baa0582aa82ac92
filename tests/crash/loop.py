"""The crash loop: kill -9 in the middle of a batch, look at the store, start again; again and again.

What must hold after every kill, whatever the moment:

1. What was promised stands: no device upgrade is behind an answer that its device has read. What an operator
   was told to be made, deleted, aborted or revoked is so, however long ago; a request that is sent again
   under its Idempotency-Key gets the same answer.
2. The store keeps its invariants (store/check.py): counters equal rows; nothing goes back; LMDB accepts it.
3. No attempt is above 1 + retries; a clock that runs goes on: the same attempt in the same state has the same
   due time as before.
4. Downloads go on where they stopped, and in the end every device has succeeded.

Progress of one kind is counted, not judged: how many upgrades stood in the middle at the kill.
"""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import trio

from otagate.store import records, tables
from otagate.store.check import Moments, check, check_progress, moments
from otagate.store.lmdb import view_folder
from otagate.store.snapshot import Snapshot
from otagate.upgrade.model import State
from tests.end_to_end.device import Device
from tests.end_to_end.process import ROOT, WITHIN_S, GatewayProcess, Operator

GATEWAY = (sys.executable, "-P", "-m", "tests.crash.gateway", "serve")
IMAGE_BYTES = 1_500_001  # several times what the sockets' buffers hold
RETRIES = 5
LASTING_FIRMWARE = 20  # of the operators, who may have 50
# What an answer promises: the upgrade is in this state, or further, in this attempt or a later one.
FLOORS = {
    "received": State.TO_BE_UPGRADED,
    "progress": State.UPGRADING,
    "burning": State.UPGRADING,
    "failed": State.TO_BE_RETRIED,
    "succeeded": State.SUCCEEDED,
}
IDLE = "idle"  # the device of the operators' batches, which are over before it is seen again
Clocks = dict[tuple[int, int, State, int], int]


class BrokenPromise(Exception):  # noqa: N818 - what it found
    """Something does not hold; the message lists all that was found at that kill."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Answers = dict[str, tuple[str, Any, str]]  # by Idempotency-Key: path and body of a request, and its answer


class Operators(threading.Thread):
    """Operators of another product, who make all that there is, and undo it, until the gateway dies."""

    upload_bytes = 20_000

    def __init__(self, operator: Operator, cycle: int) -> None:
        super().__init__(daemon=True)
        self._operator = operator
        self._cycle = cycle
        self._lasting = cycle <= 40  # tokens of a few cycles stay: there is room for 1,000
        self.promised: dict[str, int] = {}  # a fact (see `facts`): 200, it is there from now on; or 404
        self.answers: Answers = {}
        self.unexpected: list[str] = []

    def run(self) -> None:
        number = 0
        try:
            while True:
                number += 1
                name = f"x{self._cycle}-{number}"
                self._create("/products/other/devices", {"identifier": name})
                self.promised[f"/products/other/devices/{name}"] = 200
                if number % 5 == 0:
                    self._exchange_firmware(name)
                elif number % 5 == 2:
                    self._exchange_product(name)
                elif number % 10 == 3 and self._lasting:
                    self._exchange_token(name)
        except httpx.TransportError:
            pass  # that was the kill
        except AssertionError as error:
            self.unexpected.append(str(error))

    def _create(self, path: str, body: dict[str, Any]) -> Any:
        key = f"{self._cycle}-{len(self.answers)}"
        response = self._operator.post(path, json=body, headers={"idempotency-key": key})
        assert response.status_code == 201, response.text
        self.answers[key] = path, body, response.text
        return response.json()

    def _remove(self, path: str, fact: str) -> None:
        del self.promised[fact]  # nobody knows, until the answer is there
        self._operator.call("DELETE", path, 204)
        self.promised[fact] = 404

    def _exchange_firmware(self, name: str) -> None:
        firmware = self._operator.add_firmware(name, os.urandom(self.upload_bytes), "other")
        content = f"/firmware/{firmware}/content"
        self.promised[content] = 200
        self._exchange_batch(firmware)
        if not name.endswith("-10"):
            self._remove(f"/firmware/{firmware}", content)

    def _exchange_batch(self, firmware: str) -> None:
        body = {"firmware": firmware, "range": "directed", "devices": [IDLE], "validity_days": 1}
        body |= {"policy": "standard", "timeout_minutes": 10, "retries": 0}
        batch = self._create("/batches", body)["id"]
        self.promised[f"/batches/{batch}"] = 200
        self._operator.call("POST", f"/batches/{batch}/abort", 200)
        self.promised[f"/batches/{batch}/aborted"] = 200

    def _exchange_product(self, name: str) -> None:
        self._create("/products", {"key": name, "name": name})
        self.promised[f"/products/{name}"] = 200
        if not name.endswith("-7"):
            self._remove(f"/products/{name}", f"/products/{name}")

    def _exchange_token(self, name: str) -> None:
        token = self._create("/tokens", {"name": name, "role": "viewer"})["id"]
        self.promised[f"/tokens/{token}"] = 200
        if not name.endswith("-3"):
            self._operator.call("DELETE", f"/tokens/{token}", 204)
            self.promised[f"/tokens/{token}/revoked"] = 200


def listed(operator: Operator, path: str, **query: Any) -> Iterator[Any]:
    """All items of a list."""
    cursor = None
    while True:
        page = operator.call(
            "GET", path, params={"limit": 1000, **query} | ({"cursor": cursor} if cursor else {})
        )
        yield from page["items"]
        cursor = page["next"]
        if cursor is None:
            return


def facts(operator: Operator) -> Iterator[str]:
    """What there is and how it ended, spelt as paths; of firmware the record, not its bytes."""
    for product in listed(operator, "/products"):
        yield f"/products/{product['key']}"
    for device in listed(operator, "/products/other/devices"):
        yield f"/products/other/devices/{device['identifier']}"
    for firmware in listed(operator, "/firmware"):
        yield f"/firmware/{firmware['id']}/content"
    for batch in listed(operator, "/batches"):
        yield f"/batches/{batch['id']}"
        yield f"/batches/{batch['id']}/{batch['status']}"
    for token in listed(operator, "/tokens"):
        yield f"/tokens/{token['id']}"
        if token["revoked_at"] is not None:
            yield f"/tokens/{token['id']}/revoked"


async def log_in_once(address: tuple[str, int], identifier: str, product: str) -> None:
    """A batch takes devices that have logged in."""
    device = await Device.connect(address, "tcp", identifier, product)
    try:
        await device.log_in("1.0")
    finally:
        await device.aclose()


class CrashLoop:
    """See the module. `say` gets a line for each cycle; `totals` counts what was seen."""

    command: Sequence[str] = GATEWAY

    def __init__(self, folder: Path, devices: int, seed: int, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.devices = devices
        self.seed = seed
        self.say = say
        self.totals: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._log = folder / "fleet.log"
        self._log_read = 0
        self._before: Moments = {}
        self._clocks: Clocks = {}
        self._batch: str | None = None
        self._firmware: str | None = None
        self._versions = 1
        self._promised: dict[str, int] = {}
        self._answers: Answers = {}
        self._latest_answers: Answers = {}
        self._listen = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
        self._fleet: subprocess.Popen[bytes] | None = None

    # -- the parts of a cycle ------------------------------------------------------------------------

    def run(self, cycles: Iterable[int]) -> None:
        """All cycles (a number for each), then peace. BrokenPromise."""
        gateway = self._start()
        try:
            with Operator(gateway) as operator:
                self._set_up(gateway, operator)
            for cycle in cycles:
                self._cycle(gateway, cycle)
                started_s = time.monotonic()
                gateway = self._start()
                restart_ms = (time.monotonic() - started_s) * 1000
                self.totals["restart_ms"] += int(restart_ms)
                self._check_operators(gateway)
                self.totals["cycles"] += 1
                self.say(f"cycle {cycle}: {self._sentence} ready again after {restart_ms:.0f} ms")
            self._finish(gateway)
        finally:
            if self._fleet is not None:
                self._fleet.kill()
                self._fleet.wait()
            gateway.kill()

    def _start(self) -> GatewayProcess:
        gateway = GatewayProcess(self.data, command=self.command, listen=self._listen)
        gateway.start()
        return gateway

    def _set_up(self, gateway: GatewayProcess, operator: Operator) -> None:
        operator.create_product("other")
        operator.register(IDLE, product="other")
        trio.run(log_in_once, gateway.devices, IDLE, "other")
        operator.create_product()
        operator.register(*(f"d{number}" for number in range(self.devices)))
        command = [sys.executable, "-m", "tests.crash.fleet", "--address", self._listen[0]]
        command += ["--devices", str(self.devices), "--seed", str(self.seed), "--log", str(self._log)]
        self._fleet = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a signal from the terminal is for the loop
        )
        gateway.wait_for(lambda: self._active(operator) == self.devices)

    def _active(self, operator: Operator) -> int:
        """Devices that have logged in at least once."""
        return sum(1 for _ in listed(operator, "/products/lamp/devices", active="true"))

    def _tidy(self, operator: Operator) -> None:
        """What a kill kept from being aborted or deleted goes now, but for a few: a product has at most 50
        firmware."""
        for batch in list(listed(operator, "/batches", product="other", status="in_progress")):
            operator.call("POST", f"/batches/{batch['id']}/abort", 200)
            self._promised[f"/batches/{batch['id']}/aborted"] = 200
        for number, firmware in enumerate(list(listed(operator, "/firmware", product="other"))):
            content = f"/firmware/{firmware['id']}/content"
            if number >= LASTING_FIRMWARE or self._promised.get(content) != 200:
                operator.call("DELETE", f"/firmware/{firmware['id']}", 204)
                self._promised[content] = 404

    def _keep_busy(self, operator: Operator) -> None:
        """A batch in progress: the one of before, or the next."""
        self._tidy(operator)
        if self._batch is not None:
            view = operator.call("GET", f"/batches/{self._batch}")
            if view["status"] == "in_progress":
                return
            self._expect_success(view)
            self._promised[f"/batches/{self._batch}/completed"] = 200
            operator.call("DELETE", f"/firmware/{self._firmware}", 204)  # a product has at most 50
            self._promised[f"/firmware/{self._firmware}/content"] = 404
        self._versions += 1
        self._firmware = operator.add_firmware(f"{self._versions}.0", os.urandom(IMAGE_BYTES))
        self._promised[f"/firmware/{self._firmware}/content"] = 200
        self._batch = operator.create_batch(self._firmware, retries=RETRIES)
        self._promised[f"/batches/{self._batch}"] = 200
        self.totals["batches"] += 1

    def _expect_success(self, view: Any) -> None:
        counts = view["counts"]
        if (view["status"], counts["succeeded"]) != ("completed", self.devices):
            raise BrokenPromise(f"batch {view['id']} ended {view['status']} with {counts}")
        self.totals["succeeded_upgrades"] += counts["succeeded"]

    def _cycle(self, gateway: GatewayProcess, cycle: int) -> None:
        with Operator(gateway) as operator:
            self._keep_busy(operator)
            operators = Operators(operator, cycle)
            operators.start()
            time.sleep(self._random.uniform(0.05, 1.5))  # any moment is as good as any other
            gateway.kill()
            operators.join(WITHIN_S)
        self._keep(operators)
        found = [*operators.unexpected, *self._look(gateway)]
        if found:
            raise BrokenPromise("\n".join(found[:50]))

    def _keep(self, operators: Operators) -> None:
        """What they were told counts from now on."""
        self._promised |= operators.promised
        self._answers |= operators.answers
        self._latest_answers = operators.answers
        self.totals["operators"] += len(operators.promised)

    def _finish(self, gateway: GatewayProcess) -> None:
        batch = self._batch
        if batch is None:
            return  # there was no cycle to do
        with Operator(gateway) as operator:

            def ended() -> bool:
                return bool(operator.call("GET", f"/batches/{batch}")["status"] != "in_progress")

            gateway.wait_for(ended)
            self._expect_success(operator.call("GET", f"/batches/{batch}"))
        assert self._fleet is not None
        self._fleet.send_signal(signal.SIGTERM)
        self._fleet.wait(WITHIN_S)
        gateway.stop()
        found = self._look(gateway)
        if found:
            raise BrokenPromise("\n".join(found[:50]))

    # -- what must hold ------------------------------------------------------------------------------

    def _look(self, gateway: GatewayProcess) -> list[str]:
        """Everything that is wrong with the store at rest."""
        promises = list(self._promises())
        with view_folder(self.data) as view:
            found = check(view)
            now = moments(view)
            found += check_progress(self._before, now)
            found += self._check_promises(Snapshot(view), now, promises)
            found += self._check_clocks(view)
        for (device, batch), (_, attempt) in now.items():
            if attempt > 1 + RETRIES:
                found.append(f"device {device} in batch {batch} is at attempt {attempt} of {1 + RETRIES}")
        found += self._check_images()
        verify = subprocess.run(
            [sys.executable, "-m", "lmdb", "verify", "-e", str(self.data / "store")],
            capture_output=True,
            text=True,
        )
        if verify.returncode:
            found.append(f"lmdb verify: {verify.stdout} {verify.stderr}")
        self._before = now
        states = Counter(state for state, _ in now.values())
        middle = ", ".join(
            f"{states[state]} {state.label}" for state in State if states[state] and state < State.SUCCEEDED
        )
        self._sentence = f"{len(promises)} promises kept; {middle or 'nothing open'};"
        self.totals["promises"] += len(promises)
        if " traceback=" in gateway.log or "Traceback" in gateway.log:
            found.append(f"the gateway's log: {gateway.log[-2000:]}")
        return found

    def _promises(self) -> Iterator[dict[str, Any]]:
        """What the fleet was promised since the last look."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._log_read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._log_read += len(line)
                fact = json.loads(line)
                if "problem" in fact:
                    raise BrokenPromise(f"device {fact['device']}: {fact['problem']}")
                if "resumed" in fact:
                    self.totals["resumed"] += 1
                    continue
                self.totals[fact["kind"]] += 1
                yield fact

    def _check_promises(
        self, snapshot: Snapshot, now: Moments, promises: list[dict[str, Any]]
    ) -> Iterator[str]:
        for fact in promises:
            device = snapshot.device_named("lamp", fact["device"])
            assert device is not None
            moment = now.get((device.number, int(fact["batch"][1:])))
            if moment is None:
                yield f"{fact}: there is no such upgrade"
                continue
            state, attempt = moment
            if (attempt, state) < (fact["attempt"], FLOORS[fact["kind"]]):
                yield f"{fact}: the store has {state.label} in attempt {attempt}"

    def _check_clocks(self, view: tables.View) -> Iterator[str]:
        clocks: Clocks = {}
        for key, value in tables.scan(view, tables.UPGRADES, b""):
            device, batch = tables.pair_key.unpack(key)
            state = records.state_of(value)
            if state in (State.UPGRADING, State.TO_BE_RETRIED):
                clocks[device, batch, state, records.attempt_of(value)] = records.due_of(value)
        for which, due_ms in clocks.items():
            if self._clocks.get(which, due_ms) != due_ms:
                yield f"the clock of {which} was {self._clocks[which]} and is {due_ms}"
        self._clocks = clocks

    def _check_images(self) -> Iterator[str]:
        """A file under its name is whole, whenever the gateway died."""
        for path in (self.data / "images").glob("??/*"):
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != path.name:
                    yield f"{path} has other bytes"

    def _check_operators(self, gateway: GatewayProcess) -> None:
        with Operator(gateway) as operator:
            there = set(facts(operator))
            for fact, status in self._promised.items():
                found = 200 if fact in there else 404
                if found == status == 200 and fact.endswith("/content"):
                    found = operator.head(fact).status_code
                if found != status:
                    raise BrokenPromise(f"{fact} has status {found}, it was promised {status}")
            self._check_answers(operator)

    def _check_answers(self, operator: Operator) -> None:
        """The same again: all of the latest operators, and some of those before."""
        some = self._random.sample(sorted(self._answers), min(len(self._answers), 20))
        for key in {*self._latest_answers, *some}:
            path, body, told = self._answers[key]
            again = operator.post(path, json=body, headers={"idempotency-key": key})
            if (again.headers.get("idempotent-replayed"), again.text) != ("true", told):
                raise BrokenPromise(f"POST {path} under {key} was answered {told}, and again: {again.text}")
