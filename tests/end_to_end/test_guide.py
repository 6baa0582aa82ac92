"""docs/guide.md by its own words: every command that it shows, in its order, and what it promises of them.

Left out are what a clone is needed for: the demo (tests/cli has it) and `git pull`. Ports are others, and
`tools/run` stands for the interpreter that runs the tests.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
LEFT_OUT = {"tools/run demo\n", "git pull --ff-only\n"}
PATIENCE_S = 120
# The devices come back by themselves: nothing of the guide starts them again.
PROMISE = """
until [ "$(tools/run device list lamp --connection online --json | wc -l)" = 3 ]; do sleep 0.1; done
tools/run device list lamp
tools/run batch list
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_guide(tmp_path: Path) -> None:
    devices, operators = free_port(), free_port()
    lines = "".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)).splitlines(keepends=True)
    assert set(lines) > LEFT_OUT
    script = "".join(line for line in lines if line not in LEFT_OUT)
    script = (
        script.replace("7700", str(devices)).replace("7780", str(operators)).replace("sleep 1", "sleep 0.1")
    )
    command = tmp_path / "tools" / "run"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m otagate "$@"\n')
    command.chmod(0o755)
    listeners = {"DEVICE__LISTEN": devices, "ADMIN__LISTEN": operators}
    ours = {f"OTAGATE_{key}": f"127.0.0.1:{port}" for key, port in listeners.items()}
    ours["OTAGATE_URL"] = f"http://127.0.0.1:{operators}"
    log = tmp_path / "log"
    with log.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script + PROMISE],
            cwd=tmp_path,
            env=os.environ | ours,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = shell.wait(PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)  # the gateway and the devices of the guide
    said = log.read_text()
    assert status == 0, said
    assert "7 entries, intact" in said, said
    last = said.rpartition("identifier")[2]
    assert len(re.findall(r"^.*lamp-\d.* 2\.0 .*$", last, re.MULTILINE)) >= 3, last
    assert len(re.findall(r"^b\d .* completed\s*$", last, re.MULTILINE)) == 2, last
