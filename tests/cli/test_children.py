"""Processes that a command starts end with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from otagate.cli import children
from otagate.cli.children import Child

ENDLESS = ["simulate", "--url", "tcp://127.0.0.1:1", "--product", "p", "--device", "d", "--secret", "s"]


async def test_stop(tmp_path: Path) -> None:
    child = Child(ENDLESS, tmp_path / "log")
    assert child.exit_code is None
    await child.stop()
    await child.stop()
    assert child.exit_code in (0, -signal.SIGTERM)  # by itself, or before it could listen
    assert child.cpu_s >= 0


def stand_still(child: Child) -> None:
    """Stop it, and wait for that: of two pending signals the lower comes first, and SIGTERM is lower."""
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)


async def test_one_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "STOP_TIMEOUT_S", 0)
    child = Child(ENDLESS, tmp_path / "log")
    stand_still(child)
    await child.stop()
    assert child.exit_code == -signal.SIGKILL


async def test_wait_and_log(tmp_path: Path) -> None:
    child = Child(["simulate"], tmp_path / "log", {"OTAGATE_DEVICE__LISTEN": "nonsense", **os.environ})
    assert await child.wait() == 2
    assert child.tail() == "otagate: missing --url, --product, --device, --secret"
    await child.stop()


def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    """The child holds the pipe's other end: that it closes says that the child is gone."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    program = (
        "import os, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from otagate.cli import children\n"
        "popen = subprocess.Popen\n"
        "children.subprocess.Popen = lambda *a, **k: popen(*a, close_fds=False, **k)\n"
        f"child = children.Child({ENDLESS!r}, Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, pass_fds=[writer]
    ) as parent:
        os.close(writer)
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) > 0
        parent.kill()
    assert os.read(reader, 1) == b""  # returns only when nobody holds the other end
    os.close(reader)
