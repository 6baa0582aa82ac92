"""What the machine is, and what its kernel tells of processes: processor time, memory, who else is busy."""

import contextlib
import os
import platform
import re
import ssl
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def facts(data: Path) -> dict[str, str]:
    """What a figure depends on; `data` is where the gateway keeps its store."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.+)", cpuinfo)
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "processor": f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{int(memory[1]) / 1024**2:.1f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "file system": file_system(data),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "otagate": package_version("otagate"),
        "descriptors": str(os.sysconf("SC_OPEN_MAX")),
        "virtual": "yes" if "hypervisor" in cpuinfo else "no",
    }


def package_version(name: str) -> str:
    """Of an installed package, or "from the tree"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "from the tree"


def file_system(path: Path) -> str:
    """Kind of the file system that holds a path."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, name, *_ = line.split()
        if str(path.resolve()).startswith(mount) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


def cpu_s(pids: Iterable[int]) -> float:
    """Processor seconds of all threads of processes so far, to the nanosecond (schedstat)."""
    return sum(ran for ran, _ in _schedstats(pids)) / 1e9


def waited_s(pids: Iterable[int]) -> float:
    """Seconds for which the longest waiting thread of processes was ready and another had its core."""
    return max((waited for _, waited in _schedstats(pids)), default=0) / 1e9


def _schedstats(pids: Iterable[int]) -> list[tuple[int, int]]:
    """(ran, waited to run) of each thread, in nanoseconds."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    ran, waited, _ = Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()
                    found.append((int(ran), int(waited)))
    return found


def processes_below(pid: int) -> list[int]:
    """Process ids of a process's children, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *processes_below(int(child))]
    return found


def private_bytes(pids: Iterable[int]) -> int:
    """Anonymous memory of processes: what is theirs alone, without files and shared pages."""
    total = 0
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += sum(int(kib) * 1024 for kib in re.findall(r"^Anonymous:\s+(\d+)", rollup, re.MULTILINE))
    return total


def slab_bytes() -> int:
    """Memory of the kernel's own objects, of the whole machine: sockets of both ends, among others."""
    found = re.search(r"Slab:\s+(\d+)", Path("/proc/meminfo").read_text())
    return int(found[1]) * 1024 if found else 0


def busy_s(core: int) -> float:
    """Seconds for which a core was not idle since the start of the machine."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _wait, irq, softirq, steal, *_ = map(int, line.split()[1:])
            return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return 0.0


def allow_descriptors() -> None:
    """Raise the soft limit of open files to the hard one, also for processes started from here."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def as_json(value: Any) -> str:
    """For files: sorted, indented."""
    import json

    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"


PYTHON = sys.executable
