"""What an operator does beside the gateway that runs: back it up and put it back, follow events, export."""

import csv
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.end_to_end.device import Device
from tests.end_to_end.process import Operator, running

IMAGE = bytes(range(256)) * 100


def otagate(*arguments: str | Path) -> str:
    """What a command prints."""
    command = [sys.executable, "-P", "-m", "otagate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_backup_and_restore(tmp_path: Path) -> None:
    """A backup taken while devices are registered becomes a gateway with the same tokens and images."""
    with running(tmp_path / "data") as gateway, Operator(gateway) as operator:
        token = gateway.token
        operator.create_product()
        firmware = operator.add_firmware("2.0", IMAGE)
        operator.register("first")
        ended = threading.Event()
        registered = 0

        def register_on() -> None:
            nonlocal registered
            with Operator(gateway) as other:
                while not ended.is_set():
                    other.register(*(f"d{registered + number}" for number in range(50)))
                    registered += 50

        thread = threading.Thread(target=register_on)
        thread.start()
        try:
            said = otagate("backup", tmp_path / "copy", "--data", tmp_path / "data")
        finally:
            ended.set()
            thread.join()
        assert "secret-key" in otagate("key", "check", "--data", tmp_path / "data")
        assert f"1 image of {len(IMAGE)} bytes; checked" in said
    key_file = tmp_path / "new" / "secret-key"
    assert str(key_file) in otagate("restore", tmp_path / "copy", "--data", tmp_path / "new")
    key_file.write_bytes((tmp_path / "data" / "secret-key").read_bytes())
    (tmp_path / "new" / "admin-token").write_text(token)  # the gateway makes none: it knows the old one
    with running(tmp_path / "new") as gateway, Operator(gateway) as operator:
        assert operator.get(f"/firmware/{firmware}/content").content == IMAGE
        found = operator.call("GET", "/products/lamp/devices?q=first")["items"]
        assert [device["identifier"] for device in found] == ["first"]
        operator.register("after")
        lines = operator.get("/products/lamp/devices", headers={"accept": "text/csv"}).text
        rows = [row["identifier"] for row in csv.DictReader(io.StringIO(lines, newline=""))]
        assert len(set(rows)) == len(rows)
        assert {"first", "after"} <= set(rows)
        assert len(rows) <= registered + 2


def test_following(tmp_path: Path) -> None:
    """The events of a batch that is created and aborted, over the real wire; then its export and metrics."""
    with running(tmp_path / "data") as gateway, Operator(gateway) as operator:
        operator.create_product()
        operator.register("d1", "d2")
        firmware = operator.add_firmware("2.0", IMAGE)
        statuses: list[str] = []
        for identifier in ("d1", "d2"):
            log_in(gateway.devices, identifier)
        batch = operator.create_batch(firmware)
        with Operator(gateway) as other, other.stream("GET", f"/events?batch={batch}") as events:
            for line in events.iter_lines():
                if line.startswith('data: {"id"'):
                    statuses.append(json.loads(line[6:])["status"])
                    if statuses == ["in_progress"]:
                        operator.call("POST", f"/batches/{batch}/abort")
                    if statuses[-1] == "aborted":
                        break
        export = operator.get(f"/batches/{batch}/devices", headers={"accept": "application/x-ndjson"})
        rows = [json.loads(line) for line in export.text.splitlines()]
        assert {(row["identifier"], row["state"]) for row in rows} == {("d1", "failed"), ("d2", "failed")}
        text = httpx.get(f"http://127.0.0.1:{gateway.admin[1]}/metrics").text
        families = {family.name for family in text_string_to_metric_families(text)}
        assert {"otagate_commit_seconds", "otagate_http_requests"} <= families
        assert operator.call("GET", "/overview")["logins_total"] == 2


def test_the_loop_turns_while_nobody_is_there(tmp_path: Path) -> None:
    """Sweeps, time-outs and the end of a batch come when they are due, not when a device comes."""

    def turns(admin: tuple[str, int]) -> float:
        text = httpx.get(f"http://{admin[0]}:{admin[1]}/metrics").text
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "otagate_turn_seconds_count"
        )

    with running(tmp_path / "data") as gateway:
        begun, until_s = turns(gateway.admin), time.monotonic() + 20
        while turns(gateway.admin) < begun + 2:
            assert time.monotonic() < until_s, "it sleeps"


def log_in(address: tuple[str, int], identifier: str) -> None:
    """A device has been there once, with version 1.0."""

    async def visit() -> None:
        device = await Device.connect(address, "tcp", identifier)
        await device.log_in("1.0")
        await device.aclose()

    trio.run(visit)
