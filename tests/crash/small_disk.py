"""The gateway on a real file system of 64 MiB that fills up: what is refused, what goes on, what comes back.

    unshare --mount python -m tests.crash.small_disk FOLDER

FOLDER/data becomes the small file system, in a mount namespace of this process's; the log stays outside.
"""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.process import GatewayProcess, Operator, running

MIB = 2**20
DISK_BYTES = 64 * MIB
FREE_MIN = 24 * MIB
ENVIRONMENT = {"OTAGATE_DATA__DISK_FREE_MIN": str(FREE_MIN), "OTAGATE_DATA__MAP_BYTES": str(2**30)}


def free(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def refused() -> AbstractContextManager[object]:
    """What is done in it is refused for want of room."""
    return pytest.raises(AssertionError, match='"no_room"')


def readiness(gateway: GatewayProcess) -> httpx.Response:
    return httpx.get(f"http://{gateway.admin[0]}:{gateway.admin[1]}/readyz")


def fill_by_uploads(operator: Operator, folder: Path) -> list[str]:
    """Uploads until one is refused; those that were taken."""
    taken: list[str] = []
    with refused():
        while True:
            taken.append(operator.add_firmware(f"{len(taken)}.0", os.urandom(5 * MIB)))
    assert free(folder) >= FREE_MIN - MIB - 64 * 1024, free(folder)  # a piece, and what commits took
    assert taken
    return taken


def scene(data: Path) -> None:
    """See the module."""
    ballast = data / "ballast"
    with running(data, environment=ENVIRONMENT) as gateway, Operator(gateway) as operator:
        operator.create_product()
        operator.register("d0", "d1")
        taken = fill_by_uploads(operator, data)
        assert len(list((data / "images").glob("??/*"))) == len(taken)
        assert not list((data / "incoming").iterdir())
        # below the bound nothing large begins, and what is small goes on
        ballast.write_bytes(bytes(free(data) - FREE_MIN + 2 * MIB))
        with refused():
            operator.create_batch(taken[0])
        with refused():
            operator.add_firmware("9.0", b"x")
        assert (
            '"no_room"'
            in operator.post(
                "/products/lamp/devices", content="identifier\nd2\n", headers={"content-type": "text/csv"}
            ).text
        )
        operator.call("PATCH", "/products/lamp/devices/d0", 200, json={"name": "One"})
        assert readiness(gateway).status_code == 200
        # below the reserve nobody should be sent here
        with ballast.open("ab") as file:
            file.write(bytes(free(data)))
        assert free(data) == 0
        answer = readiness(gateway)
        assert answer.status_code == 503
        assert "0 bytes left" in answer.text
        operator.call("GET", "/products/lamp/devices/d0", 200)
    # a full disk is no reason not to start: the reserve goes, and what is deleted makes room
    with running(data, environment=ENVIRONMENT) as gateway, Operator(gateway) as operator:
        assert "disk_full freed=" in gateway.log
        assert operator.call("GET", "/products/lamp/devices/d0")["name"] == "One"
        operator.call("DELETE", f"/firmware/{taken[-1]}", 204)
        ballast.unlink()
        operator.add_firmware("10.0", b"x" * MIB)


def main() -> int:
    data = Path(sys.argv[1]) / "data"
    data.mkdir()
    options = f"size={DISK_BYTES},mode=700"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(data)], check=False)
    if mounted.returncode:
        return 77  # as automake's tests say it: not possible here
    scene(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
