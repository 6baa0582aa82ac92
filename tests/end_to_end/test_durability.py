"""Nothing is acknowledged that is not on the disk: the gateway under strace, and one that lies."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from tests.end_to_end import trace
from tests.end_to_end.device import Device
from tests.end_to_end.process import SERVE, GatewayProcess, Operator, running

LIAR = (sys.executable, str(Path(__file__).parent / "answers_early.py"), "serve")
DEVICES = 4


# -- the checker -------------------------------------------------------------------------------------


def hexadecimal(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def receive(text: str) -> str:
    return f"1 11.0 recvfrom(9, {hexadecimal(text)}, 99, 0, NULL, NULL) = {len(text)} <0.001>"


def send(text: str) -> str:
    return f"1 13.0 sendto(9, {hexadecimal(text)}, 99, 0, NULL, 0) = {len(text)} <0.001>"


OPENED = '1 9.0 openat(AT_FDCWD, "\\x64", O_WRONLY|O_DSYNC|O_CLOEXEC) = 5 <0.000010>'
ACCEPTED = "1 10.0 accept4(3, NULL, NULL, SOCK_NONBLOCK) = 9 <0.000010>"
ASKED = receive('\1\0\0\36{"type":"received","id":"t-1"}')
SYNCED = ["2 12.0 fdatasync(4 <unfinished ...>", "2 12.3 <... fdatasync resumed>) = 0 <0.3>"]
META = '2 12.4 pwrite64(5, "\\x00", 1, 0) = 1 <0.1>'
ACKED = send('\1\0\0\31{"type":"ack","id":"t-1"}')
POSTED = receive("POST /x HTTP/1.1\r\n")
CREATED = send("HTTP/1.1 201")
FIRST = [OPENED, ACCEPTED]


@pytest.mark.parametrize(
    ("lines", "durable", "violations"),
    [
        ([*FIRST, ASKED, *SYNCED, META, ACKED], 1, 0),
        ([*FIRST, POSTED, *SYNCED, META, CREATED], 1, 0),
        ([*FIRST, ASKED, ACKED], 0, 1),  # no commit at all
        ([*FIRST, POSTED, CREATED], 0, 1),
        ([*FIRST, ASKED, *SYNCED, ACKED], 0, 1),  # pages, and no meta page
        ([*FIRST, *SYNCED, META, ASKED.replace("11.0", "12.6"), ACKED], 0, 1),  # the commit of another
        ([*FIRST, ASKED.replace("11.0", "12.1"), *SYNCED, META, ACKED], 0, 1),  # read while it ran
        ([*FIRST, ASKED, *SYNCED, META, ACKED.replace("13.0", "12.45")], 0, 1),  # sent while it ran
        ([*FIRST, ASKED, *SYNCED, META.replace("(5", "(6"), ACKED], 0, 1),  # another file
        ([*FIRST, ASKED, *SYNCED, META.replace("2 12", "3 12"), ACKED], 0, 1),  # another thread
        ([*FIRST, ASKED, *SYNCED, META.replace("= 1 ", "= -1 EIO "), ACKED], 0, 1),
        ([*FIRST, ASKED, *SYNCED, META], 0, 0),  # no answer yet
    ],
)
def test_the_checker(lines: Sequence[str], durable: int, violations: int) -> None:
    verdict = trace.check(trace.parse(lines))
    assert (len(verdict.durable), len(verdict.violations)) == (durable, violations), verdict


# -- the gateway -------------------------------------------------------------------------------------


async def report(device: Device, type: str, name: str, **fields: object) -> None:
    await device.send(type, id=f"t-{device.link}-{device.identifier}-{name}", **fields)
    answer = await device.answer(f"t-{device.link}-{device.identifier}-{name}")
    assert answer["type"] == "ack", answer


async def upgrade(address: tuple[str, int], link: str, identifier: str, target: str) -> None:
    """Every transition that a device can cause, each acknowledged."""
    device = await Device.connect(address, link, identifier)
    await device.log_in("1.0")
    offer = await device.receive("upgrade")
    about = {"batch": offer["batch"], "attempt": offer["attempt"]}
    await report(device, "received", "received", **about)
    await report(device, "progress", "progress", **about, stage="downloading", percent=1)
    await report(device, "version", "version", version="1.1")
    await report(device, "result", "result", **about, outcome="succeeded", version=target)
    await device.aclose()
    device = await Device.connect(address, link, identifier)
    hello = device.hello("3.0", id=f"t-{link}-{identifier}-hello")
    await device.send(**hello)
    await device.receive("welcome")
    await device.aclose()


def work(gateway: GatewayProcess) -> int:
    """Devices and operators change things; how many answers should have been durable."""
    with Operator(gateway) as operator:
        operator.create_product()
        names = [f"d{number}" for number in range(DEVICES)]
        operator.register(*names)
        operator.call("POST", "/products/lamp/devices", 201, json={"identifier": "one"})
        operator.call("PATCH", "/products/lamp/devices/one", 200, json={"name": "One"})
        operator.call("POST", "/products/lamp/devices/one/secret", 200)
        operator.call("DELETE", "/products/lamp/devices/one", 204)
        firmware = operator.add_firmware("2.0", bytes(5000))
        links = ["websocket", "tcp"] * (DEVICES // 2)

        async def see_all() -> None:
            for link, name in zip(links, names, strict=True):
                device = await Device.connect(gateway.devices, link, name)
                await device.log_in("1.0")
                await device.aclose()

        async def upgrade_all() -> None:
            async with trio.open_nursery() as nursery:
                for link, name in zip(links, names, strict=True):
                    nursery.start_soon(upgrade, gateway.devices, link, name, "2.0")

        trio.run(see_all)
        operator.create_batch(firmware)
        trio.run(upgrade_all)
        batch = operator.create_batch(operator.add_firmware("9.0", bytes(5000)))
        operator.call("POST", f"/batches/{batch}/abort", 200)
        operator.call("DELETE", f"/firmware/{firmware}", 204)
    return DEVICES * 5 + 12


def traced(folder: Path, command: Sequence[str]) -> tuple[int, trace.Verdict]:
    file = folder / "trace"
    probe = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.fail(f"strace cannot trace here (is ptrace forbidden in this container?): {probe.stderr}")
    with running(folder / "data", command=["strace", *trace.OPTIONS, "-o", str(file), *command]) as gateway:
        expected = work(gateway)
    with file.open(encoding="ascii", errors="replace") as lines:
        return expected, trace.check(trace.parse(lines))


def test_every_answer_follows_its_commit(tmp_path: Path) -> None:
    expected, verdict = traced(tmp_path, SERVE)
    assert verdict.violations == []
    assert len(verdict.durable) == expected, sorted(verdict.durable)


def test_a_gateway_that_answers_early_is_found_out(tmp_path: Path) -> None:
    expected, verdict = traced(tmp_path, LIAR)
    assert len(verdict.violations) == expected, verdict
