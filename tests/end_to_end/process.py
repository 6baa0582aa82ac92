"""A gateway as operators run it: a process of its own on a folder of its own, and an operator's client.

Ports are the kernel's choice and read from the log. Whatever the test does, the process must end with exit
code 0 at SIGTERM, and its log must hold no traceback and no line of level error.
"""

import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.end_to_end.device import SECRET

ROOT = Path(__file__).parent.parent.parent
SERVE = (sys.executable, "-P", "-m", "otagate", "serve")
WITHIN_S = 60.0
SERVING = re.compile(r" serving devices=(\S+):(\d+) admin=(\S+):(\d+) ")
PROBLEMS = re.compile(r"Traceback|^\S+Z error |Warning:", re.MULTILINE)

Address = tuple[str, int]


class GatewayProcess:
    """`otagate serve` on `data`. `command` runs it (under strace, changed by a test …)."""

    def __init__(
        self,
        data: Path,
        *,
        command: Sequence[str] = SERVE,
        listen: tuple[str, str] = ("127.0.0.1:0", "127.0.0.1:0"),
        environment: dict[str, str] | None = None,
        ca: Path | None = None,
    ) -> None:
        self.data = data
        self.tls = ssl.create_default_context(cafile=ca) if ca else None  # of operators
        self._command = [
            *command,
            *("--data", str(data), "--device-listen", listen[0], "--admin-listen", listen[1]),
        ]
        self._environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **(environment or {})}
        self._log = data.parent / f"{data.name}.log"
        self._log_begins = self._log.stat().st_size if self._log.exists() else 0
        self._terminated = False
        self._process: subprocess.Popen[bytes]
        self.devices: Address
        self.admin: Address

    @property
    def log(self) -> str:
        """What this process has written."""
        with self._log.open("rb") as file:
            file.seek(self._log_begins)
            return file.read().decode()

    def start(self) -> None:
        """Returns when it is ready."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Returns at once."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def wait_ready(self) -> None:
        """Until it serves."""
        found = self.wait_for(lambda: SERVING.search(self.log))
        self.devices = (found[1], int(found[2]))
        self.admin = (found[3], int(found[4]))
        self.wait_for(self._ready)

    @property
    def url(self) -> str:
        """Where operators are served."""
        return f"{'https' if self.tls else 'http'}://{self.admin[0]}:{self.admin[1]}"

    def _ready(self) -> bool:
        verify = self.tls or False
        return httpx.get(f"{self.url}/readyz", timeout=10, verify=verify).status_code == 200

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """Until it is true, as long as the process lives."""
        give_up = time.monotonic() + WITHIN_S
        while not (found := condition()):
            assert self._process.poll() is None, f"the gateway has ended:\n{self.log}"
            assert time.monotonic() < give_up, self.log
            time.sleep(0.01)
        return found

    @property
    def pid(self) -> int:
        """Of the gateway itself, also below a tracer."""
        return int((self.data / "lock").read_text())

    @property
    def token(self) -> str:
        """The admin token."""
        return (self.data / "admin-token").read_text().strip()

    def terminate(self) -> None:
        """SIGTERM, once: a second one would end it at once."""
        if not self._terminated:
            self._terminated = True
            os.kill(self.pid, signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM; all is well."""
        self.terminate()
        code = self._process.wait(WITHIN_S)
        assert code == 0, (code, self.log)
        assert " stopped complete=true" in self.log
        assert PROBLEMS.search(self.log) is None, self.log

    def kill(self) -> None:
        """SIGKILL: gone without a word."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # a tracer, and what it traces
        self._process.wait(WITHIN_S)


@contextmanager
def running(data: Path, **options: Any) -> Iterator[GatewayProcess]:
    """A gateway that is stopped in the end, and must stop well if the test went well."""
    gateway = GatewayProcess(data, **options)
    gateway.start()
    try:
        yield gateway
        gateway.stop()
    finally:
        gateway.kill()


class Operator(httpx.Client):
    """The admin API of a gateway, with its token; each call must succeed unless the test asks otherwise."""

    def __init__(self, gateway: GatewayProcess) -> None:
        super().__init__(
            base_url=f"{gateway.url}/api/v1",
            verify=gateway.tls or False,
            headers={"authorization": f"Bearer {gateway.token}"},
            timeout=WITHIN_S,
        )

    def call(self, method: str, path: str, status: int | None = None, **request: Any) -> Any:
        """The decoded answer; it has this status, or is any success."""
        response = self.request(method, path, **request)
        assert response.status_code == status if status else response.is_success, response.text
        return response.json() if response.content else None

    def create_product(self, key: str = "lamp") -> None:
        """A product."""
        self.call("POST", "/products", 201, json={"key": key, "name": key.title()})

    def register(self, *identifiers: str, product: str = "lamp") -> None:
        """Devices with the tests' secret."""
        lines = "".join(f"{name},{SECRET}\n" for name in identifiers)
        response = self.post(
            f"/products/{product}/devices",
            content=f"identifier,secret\n{lines}",
            headers={"content-type": "text/csv"},
        )
        assert response.status_code == 200, response.text
        assert response.text.count('"secret"') == len(identifiers), response.text

    def add_firmware(self, version: str, image: bytes, product: str = "lamp") -> str:
        """A firmware; its id."""
        metadata = {
            "product": product,
            "name": f"fw-{product}-{version}",
            "version": version,
            "file_name": "a.bin",
        }
        found: str = self.call("POST", "/firmware", 201, params=metadata, content=image)["id"]
        return found

    def create_batch(self, firmware: str, **parameters: Any) -> str:
        """A batch of everybody; its id."""
        body: dict[str, Any] = {
            "firmware": firmware,
            "range": "all",
            "validity_days": 1,
            "policy": "standard",
            "timeout_minutes": 10,
            "retries": 0,
        }
        if parameters.get("retries"):
            body["retry_interval_minutes"] = 1
        found: str = self.call("POST", "/batches", 201, json=body | parameters)["id"]
        return found

    def upgrade(self, batch: str, identifier: str) -> Any:
        """A device upgrade."""
        return self.call("GET", f"/batches/{batch}/devices/{identifier}")

    def wait_state(self, batch: str, identifier: str, state: str) -> Any:
        """Until a device upgrade is in this state."""
        give_up = time.monotonic() + WITHIN_S
        while (found := self.upgrade(batch, identifier))["state"] != state:
            assert time.monotonic() < give_up, found
            time.sleep(0.01)
        return found
