"""Where a process's time goes, by layer: the kernel's part, ours, and that of each library. Needs perf.

Samples of all threads (`perf record`), each counted for the file that its instruction is in. The kernel's are
told apart by thread: the first one is the loop, which serves sockets; the others write and sync files.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from .processes import BenchError, Process, wait_until

SAMPLES_HZ = 1499
LOOP_KERNEL, FILE_KERNEL, OTHERS = "kernel: sockets", "kernel: files", "libc and others"
# Of the file that an instruction is in: what its path ends like, and the layer. The first that fits counts.
LAYERS = (
    (r"/otagate/(plane|wire)/[^/]+\.so", "data plane, compiled"),
    (r"/otagate/\w+/[^/]+\.so", "tables and rules, compiled"),
    (r"/msgspec/[^/]+\.so", "msgspec"),
    (r"/lmdb/[^/]+\.so", "LMDB"),
    (r"/(libcrypto|libssl|_hashlib|_ssl)[^/]*", "OpenSSL"),
    (r"/(python3[\d.]*|libpython[^/]+|lib-dynload/[^/]+)", "Python"),
)
ORDER = (LOOP_KERNEL, FILE_KERNEL, *dict.fromkeys(layer for _, layer in LAYERS), OTHERS)


def available() -> bool:
    """Whether perf is here."""
    return shutil.which("perf") is not None


class Profiler:
    """Samples processes from its making until `stop`. BenchError if perf is missing or may not."""

    def __init__(self, folder: Path, pids: Sequence[int]) -> None:
        if not available():
            raise BenchError("a profile needs perf (Debian: linux-perf)")
        self._pids = pids
        self._data = folder / "perf.data"
        names = ",".join(map(str, pids))
        self._perf = Process(
            ["perf", "record", "-q", "-F", str(SAMPLES_HZ), "-o", str(self._data), "-p", names],
            folder / "perf.log",
            core=None,
        )
        wait_until(self._began, 10.0, "perf")

    def _began(self) -> bool:
        self._perf.check()
        return self._data.exists() and self._data.stat().st_size > 0

    def stop(self) -> dict[str, float]:
        """Shares of the time by layer, 1 in all; empty if the processes never ran."""
        os.kill(self._perf.pid, signal.SIGINT)
        self._perf.wait()
        done = subprocess.run(
            ["perf", "script", "-i", self._data, "-F", "tid,ip,dso"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self._data.unlink(missing_ok=True)
        if done.returncode:
            raise BenchError(f"perf script: {done.stderr.strip()[-300:]}")
        return shares(done.stdout.splitlines(), set(self._pids))


def shares(lines: Iterable[str], loops: set[int]) -> dict[str, float]:
    """Of lines `TID ADDRESS (FILE)`; `loops`: threads whose part of the kernel is sockets."""
    counted: dict[str, int] = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        layer = layer_of(fields[-1].strip("()"), int(fields[0]) in loops)
        counted[layer] = counted.get(layer, 0) + 1
    total = sum(counted.values())
    return {layer: counted[layer] / total for layer in ORDER if layer in counted}


def layer_of(file: str, loop: bool) -> str:
    """The layer of an instruction in this file."""
    if file.startswith("["):
        return LOOP_KERNEL if loop else FILE_KERNEL
    return next((layer for end, layer in LAYERS if re.search(end + "$", file)), OTHERS)
