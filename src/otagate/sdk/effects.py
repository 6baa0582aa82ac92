"""What the agent asks of its shell: a closed list, performed in order.

`Send` and `Hangup` concern the connection and are void once it is lost; the others concern the device and
are performed with or without one.
"""

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otagate.wire import messages

if TYPE_CHECKING:
    from hashlib import _Hash


class Phase(enum.Enum):
    """How far a device is with one attempt; the moves between them stand in agent.py."""

    RECEIVED = "received"  # acknowledged; the device has not begun
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"  # all bytes are here and match the MD5; the device's own check runs
    ASKING = "asking"  # to burn: waits for ack (burn) or cancel (do not)
    BURNING = "burning"  # past the point of no return
    REBOOTING = "rebooting"
    FINISHED = "finished"  # the result is known; it is said until it is acknowledged


@dataclass(slots=True, eq=False)
class Job:
    """One upgrade as the device works on it. Identity is equality: a job outlives a new attempt."""

    batch: str
    attempt: int
    firmware: messages.FirmwareOffer
    phase: Phase = Phase.RECEIVED
    offset: int = 0  # bytes that arrived whole and in order
    digest: "_Hash" = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))
    sha256: "_Hash | None" = None  # of a device that checks signatures: MD5 holds off no forger
    transfer: int | None = None  # the running download on this connection
    broken_chunks: int = 0  # in a row
    percent_said: int = 0
    said_at: float = float("-inf")
    failure: tuple[messages.Reason, str] | None = (
        None  # reason and detail; FINISHED without one has succeeded
    )
    awaited: str | None = None  # id of the question or result that was not answered yet
    due: float = float("inf")  # when the agent says again what it waits for
    refused: bool = False  # one fetch was answered not_found
    followed: bool = False  # another upgrade came while this one burned

    @property
    def key(self) -> tuple[str, int]:
        return self.batch, self.attempt


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message on the connection."""

    message: messages.DeviceMessage


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the connection and come back after `retry_after_s` at the earliest (None: the shell's back-off).

    `refused`: it will end like this again until somebody changes something.
    """

    reason: str
    retry_after_s: float | None = None
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Choose:
    """Silent policy: call `begin(job)` whenever the device wants to begin."""

    job: Job


@dataclass(frozen=True, slots=True)
class Open:
    """Make room for job.firmware.size bytes, then call `opened(job)` or `failed`."""

    job: Job


@dataclass(frozen=True, slots=True)
class Write:
    """Keep these bytes of the image at this offset."""

    job: Job
    offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Discard:
    """The job is over and its image is not wanted."""

    job: Job


@dataclass(frozen=True, slots=True)
class Verify:
    """The bytes match the MD5: let the device check what it likes, then call `verified(job)` or `failed`."""

    job: Job


@dataclass(frozen=True, slots=True)
class Burn:
    """Put the image in place, then call `burned(job)` or `failed`."""

    job: Job


@dataclass(frozen=True, slots=True)
class Reboot:
    """Close the connection, start the new firmware, call `rebooted(job, version)`, come back at once."""

    job: Job


@dataclass(frozen=True, slots=True)
class Note:
    """A fact for whoever watches: logs and simulations. Nothing hangs on it."""

    event: str
    facts: Mapping[str, Any]


Effect = Send | Hangup | Choose | Open | Write | Discard | Verify | Burn | Reboot | Note
