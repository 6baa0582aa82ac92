"""`otagate-bench peers`: which other servers are here; `peers install` brings what is missing."""

import argparse
import os
import shutil
import subprocess
import venv
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..processes import BenchError
from .registry import BUILT, HERE, PEERS, VENV_PYTHON, find

DEBIAN = {
    "nginx": "nginx-light",
    "mosquitto": "mosquitto",
    "go": "golang-go",
    "gcc": "gcc",
}
GORILLA = Path("/usr/share/gocode/src/github.com/gorilla/websocket")
GORILLA_PACKAGE = "golang-github-gorilla-websocket-dev"
PYTHON_PACKAGES = ["trio==0.35.0", "websockets==17.4", "picows==2.3.1", "uvloop==0.23.0", "socketify==0.0.31"]

console = Console(stderr=True)


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `peers`."""
    parser = commands.add_parser("peers", help="other servers to be measured beside; `peers install`")
    parser.add_argument("action", nargs="?", choices=["list", "install"], default="list")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List, after installing if asked. 1 if any is missing."""
    if arguments.action == "install":
        install()
    table = Table("server", "here", "version", "measured at")
    lacking = 0
    for peer in PEERS.values():
        lacks = peer.missing()
        lacking += bool(lacks)
        table.add_row(
            peer.name, lacks or "yes", "" if lacks else peer.version(), ", ".join(sorted(peer.does))
        )
    Console().print(table)
    return 1 if lacking else 0


def install() -> None:
    """Debian packages (as root), an environment of its own below build/peers, and what is compiled. What
    cannot be had is said and passed over."""
    BUILT.mkdir(parents=True, exist_ok=True)
    for step in (_debian, _environment, _floor, _gorilla):
        try:
            step()
        except (BenchError, OSError, subprocess.CalledProcessError) as error:
            console.print(f"otagate-bench: {error}", style="yellow", markup=False)


def _run(*command: str | Path, **environ: str) -> None:
    console.print("+ " + " ".join(map(str, command)), markup=False)
    subprocess.run(command, check=True, env={**os.environ, **environ}, stdin=subprocess.DEVNULL)


def _debian() -> None:
    wanted = [package for program, package in DEBIAN.items() if find(program) is None]
    if not GORILLA.exists():
        wanted.append(GORILLA_PACKAGE)
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchError(f"missing on this machine, by Debian's names: {' '.join(wanted)}")
    _run("apt-get", "-qq", "update")
    options = ["-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends"]
    # their services are not to start: each is started by the bench, when and where it is measured
    _run("apt-get", "-qq", *options, *wanted, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")


def _environment() -> None:
    if not VENV_PYTHON.exists():
        venv.create(BUILT / "venv", with_pip=True)
    _run(VENV_PYTHON, "-m", "pip", "install", "-q", *PYTHON_PACKAGES)


def _floor() -> None:
    _run("gcc", "-O2", "-Wall", "-o", BUILT / "floor", HERE / "floor.c")


def _gorilla() -> None:
    if find("go") is None or not GORILLA.exists():
        raise BenchError("Go or its gorilla/websocket is missing")
    cache = str((BUILT / "go-cache").absolute())
    _run(
        "go", "build", "-o", BUILT / "gorilla", HERE / "gorilla.go",
        GOPATH="/usr/share/gocode", GO111MODULE="off", GOCACHE=cache, GOFLAGS="", GOTOOLCHAIN="local",
    )  # fmt: skip
