"""A real gateway and a real browser, for the tests of the console.

`Gateway` is `otagate serve` in a process of its own, with an operator's client and simulated devices.
`Console` is a page of Chromium on it that records what must never happen: an error in the browser's console,
a breach of the Content-Security-Policy, a request to another host.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PATIENCE_S = 30
# A browser reports every answer that is no success as an error; these belong to what a page asks on purpose.
EXPECTED = re.compile(
    r"Failed to load resource: .*(status of (401|409|422|429)"
    r"|net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING))"
)


expect.set_options(timeout=PATIENCE_S * 1000)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Gateway:
    """A running gateway: where it is, its admin token, and what an operator does on it."""

    def __init__(self, folder: Path) -> None:
        self.device_port, self.admin_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.admin_port}/"
        self._folder = folder
        self._devices: list[subprocess.Popen[bytes]] = []
        self.start()
        self.token = (folder / "data" / "admin-token").read_text().strip()
        headers = {"authorization": f"Bearer {self.token}"}
        self.client = httpx.Client(base_url=f"{self.url}api/v1", headers=headers, timeout=PATIENCE_S)

    def start(self) -> None:
        """Start it, also again after `stop`: on the same ports, with what it had."""
        command = [sys.executable, "-m", "otagate", "serve", "--data", str(self._folder / "data")]
        command += ["--device-listen", f"127.0.0.1:{self.device_port}"]
        command += ["--admin-listen", f"127.0.0.1:{self.admin_port}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(self._ready, f"for a gateway; {self._folder / 'log'}")
        except BaseException:
            end(self._process)
            raise

    def stop(self) -> None:
        """End the gateway; its devices try to come back."""
        end(self._process)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}readyz").status_code == 200
        except httpx.TransportError:
            return False

    def call(self, method: str, path: str, **how: Any) -> Any:
        """An operator's request; its JSON."""
        response = self.client.request(method, path, **how)
        assert response.is_success, (method, path, response.text)
        return response.json() if response.content else None

    def devices(
        self, product: str, count: int, *options: str, version: str = "1.0.0", prefix: str = "d"
    ) -> None:
        """Register devices and let them run, simulated, until all have logged in."""
        lines = "".join(
            json.dumps({"identifier": f"{prefix}{n}", "name": f"Lamp {n}"}) + "\n" for n in range(count)
        )
        ndjson = {"content-type": "application/x-ndjson"}
        answer = self.client.post(f"/products/{product}/devices", content=lines, headers=ndjson)
        file = self._folder / f"{product}-{prefix}.ndjson"
        file.write_text(answer.text)
        self.simulate(product, file, *options, version=version)
        wait_for(lambda: len(self.online(product, prefix)) == count)

    def simulate(self, product: str, file: Path, *options: str, version: str = "1.0.0") -> None:
        """Let the registered devices of a file (NDJSON, or CSV with identifier and secret) run, simulated."""
        command = [sys.executable, "-m", "otagate", "simulate", "--quiet", "--devices", str(file)]
        command += ["--url", f"ws://127.0.0.1:{self.device_port}/device", "--product", product]
        command += ["--version", version, "--burn-time", "0.2", "--reboot-time", "0.1", *options]
        self._devices.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def online(self, product: str, prefix: str = "") -> list[str]:
        """Identifiers of those who are online."""
        query = {"connection": "online", "limit": 1000, "q": prefix}
        found = self.call("GET", f"/products/{product}/devices", params=query)
        return [device["identifier"] for device in found["items"]]

    def firmware(self, product: str, name: str, version: str, size: int = 100_000, **more: str) -> Any:
        """Add a firmware of random bytes."""
        query = {"product": product, "name": name, "version": version, "file_name": "image.bin", **more}
        return self.call("POST", "/firmware", params=query, content=os.urandom(size))

    def batch(self, firmware: str, **how: Any) -> Any:
        """Start a batch."""
        body = {"range": "all", "validity_days": 7, "policy": "standard", "timeout_minutes": 60, "retries": 0}
        return self.call("POST", "/batches", json={"firmware": firmware, **body, **how})

    def close(self) -> None:
        """End it and its devices."""
        self.client.close()
        for process in (*self._devices, self._process):
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and wait."""
    process.terminate()
    process.wait(PATIENCE_S)


def wait_for(condition: Any, what: str = "") -> None:
    """Until the condition holds; an assertion that names it if it does not in PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain {what}"
        time.sleep(0.05)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Console:
    """A page on the console, and what went wrong on it."""

    def __init__(
        self,
        browser: Browser,
        gateway: Gateway,
        *,
        width: int = 1440,
        height: int = 900,
        scheme: Literal["light", "dark"] = "light",
        locale: str = "en-GB",
    ) -> None:
        self.gateway = gateway
        self.faults: list[str] = []
        viewport: Any = {"width": width, "height": height}
        self._context = browser.new_context(viewport=viewport, color_scheme=scheme, locale=locale)
        self._context.set_default_timeout(PATIENCE_S * 1000)
        self.page: Page = self._context.new_page()
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(f"uncaught: {error}"))
        self.page.on("request", self._asked)
        self.page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " (event) => console.error('CSP', event.violatedDirective, event.blockedURI))"
        )

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not EXPECTED.match(message.text):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self.gateway.url, "data:", f"blob:{self.gateway.url}")):
            self.faults.append(f"asked {urlsplit(request.url).netloc} for {request.url}")

    def log_in(self, token: str | None = None) -> None:
        """From the login page to the overview; with the admin's token unless another is given."""
        self.page.goto(self.gateway.url)
        self.page.locator("input[name=token]").fill(token or self.gateway.token)
        self.page.locator("button[type=submit]").click()
        self.page.locator("nav.nav").wait_for(state="attached")

    def show(self, place: str) -> None:
        """Go to a page ("batches/b1") and wait until it has loaded what it shows."""
        self.page.evaluate(
            """place => new Promise(gone => {
                if (location.hash === "#/" + place) gone();
                addEventListener("hashchange", () => gone(), { once: true });
                location.hash = "#/" + place;
            })""",
            place,
        )
        self.page.locator("h1").first.wait_for()
        self.page.wait_for_function("() => !document.querySelector('.panel > p.empty')")

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        return int(self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))

    def close(self) -> None:
        """Close it, and fail if anything went wrong on it."""
        self._context.close()
        assert not self.faults, self.faults
