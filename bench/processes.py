"""Processes that a run starts: pinned to a core, gone when the run is gone, ended by id and never by name."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from .machine import processes_below

PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 15.0
TAIL_LINES = 12

_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """The run cannot go on; the text is for people."""


class Process:
    """A program in a process of its own. Its children die with it only if it sees to that."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        core: int | None,
        environ: Mapping[str, str] | None = None,
        pipes: bool = False,
    ) -> None:
        self.name = Path(arguments[0]).name
        self.log = log
        parent = os.getpid()

        def prepare() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(1)
            if core is not None:
                os.sched_setaffinity(0, {core})

        with log.open("ab") as output:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env=dict(environ) if environ is not None else None,
                preexec_fn=prepare,
            )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def input(self) -> IO[bytes]:
        """Its stdin, if it was started with pipes."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def output(self) -> IO[bytes]:
        """Its stdout, if it was started with pipes."""
        assert self._process.stdout is not None
        return self._process.stdout

    def pids(self) -> list[int]:
        """Its own and its children's."""
        return [self.pid, *processes_below(self.pid)]

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self._process.poll() is not None

    def check(self) -> None:
        """BenchError with the end of its log if it has ended."""
        if self.ended:
            raise BenchError(f"{self.name} ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-TAIL_LINES:])
        return ""

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self._process.kill()
        self._process.wait()

    def wait(self) -> None:
        """Until it has ended by itself; SIGKILL if it takes longer than STOP_TIMEOUT_S."""
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def stop(self) -> None:
        """SIGTERM; SIGKILL if it takes longer than STOP_TIMEOUT_S."""
        if not self.ended:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, *, pause_s: float = 0.05) -> None:
    """Ask again and again. BenchError after `timeout_s`, saying what did not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(pause_s)
