"""Processes that a command starts and ends: whatever happens to the command, they do not outlive it.

Three nets: `stop` in every orderly end, the kernel's parent-death signal if the command itself is killed
(prctl(2), PR_SET_PDEATHSIG: so a child must be started from the main thread), and no new session, so that
Ctrl-C at the terminal reaches children too.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

PR_SET_PDEATHSIG = 1
STOP_TIMEOUT_S = 15.0
LOG_TAIL_LINES = 15

_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """One `otagate ARGUMENTS` in a process of its own; what it writes goes to `log`."""

    def __init__(self, arguments: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> None:
        self.log = log
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it was killed before the line above
                os._exit(1)

        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program and arguments
                [sys.executable, "-P", "-m", "otagate", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=_without_settings(environ or os.environ),
                preexec_fn=die_with_parent,
            )
        self._descriptor = os.pidfd_open(self._process.pid)
        self._cpu_s = 0.0

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal that killed it."""
        return self._process.poll()

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time it has used, as far as was looked."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
            self._cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            pass
        return self._cpu_s

    async def wait(self) -> int:
        """Until it ends; its exit code."""
        while (code := self.exit_code) is None:
            await trio.lowlevel.wait_readable(self._descriptor)
        return code

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._process.kill()

    async def stop(self) -> None:
        """SIGTERM; SIGKILL if it takes longer than STOP_TIMEOUT_S. Not to be hurried by cancellation."""
        with trio.CancelScope(shield=True):
            if self.exit_code is None:
                self._process.terminate()
                with trio.move_on_after(STOP_TIMEOUT_S):
                    await self.wait()
            if self.exit_code is None:
                self.kill()
                await self.wait()
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1

    def tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-LOG_TAIL_LINES:])


def _without_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """What the person has set for a gateway of their own is not meant for this one."""
    return {name: value for name, value in environ.items() if not name.startswith("OTAGATE_")}
