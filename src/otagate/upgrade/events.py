"""What can happen to a device upgrade: small frozen values, one type each.

Reports come from the device and may arrive twice, late, or for an attempt that is over. The gateway's own
events may be late too: a time-out that was overtaken by a report, a turn taken by another.
"""

import msgspec

from otagate.upgrade.model import Outcome, Remark, Stage


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """Report: the device received the upgrade message of this attempt."""

    attempt: int


class Progress(msgspec.Struct, frozen=True, gc=False):
    """Report: how far the attempt is. Stage burning asks for leave to burn (docs/protocol.md)."""

    attempt: int
    stage: Stage
    percent: int


class VersionReported(msgspec.Struct, frozen=True, gc=False):
    """Report: the running version, at login or alone.

    `known_version` is what the device's record held before this report ("" if nothing): a version that
    is no news is not written into the timeline of an upgrade that has ended.
    """

    version: str
    known_version: str


class Result(msgspec.Struct, frozen=True, gc=False):
    """Report: the end of the attempt. `version` is "" when the device did not say; see VersionReported."""

    attempt: int
    outcome: Outcome
    reason: Remark = Remark.NONE
    detail: str = ""
    version: str = ""
    known_version: str = ""


class PushTurn(msgspec.Struct, frozen=True, gc=False):
    """The device is online, the row is to be pushed or due, and there is a push slot."""


class ChunkWritten(msgspec.Struct, frozen=True, gc=False):
    """The first chunk of a transfer of this attempt began to leave."""

    attempt: int


class AckTimeout(msgspec.Struct, frozen=True, gc=False):
    """The session that was sent this attempt's message lived on for 10 s without acknowledgement."""

    attempt: int


class UpgradeTimeout(msgspec.Struct, frozen=True, gc=False):
    """The time-out of this attempt (`Row.due_ms`) has come."""

    attempt: int


class Returned(msgspec.Struct, frozen=True, gc=False):
    """The device logged in again; `deliveries` of the current attempt's message stayed unanswered."""

    deliveries: int


class Aborted(msgspec.Struct, frozen=True, gc=False):
    """An operator aborted the batch."""


class Expired(msgspec.Struct, frozen=True, gc=False):
    """The batch's validity is over."""


Report = Acknowledged | Progress | VersionReported | Result
AttemptReport = Acknowledged | Progress | Result
Event = Report | PushTurn | ChunkWritten | AckTimeout | UpgradeTimeout | Returned | Aborted | Expired

EVENT_TYPES: tuple[type[Event], ...] = (
    PushTurn,
    Acknowledged,
    Progress,
    ChunkWritten,
    VersionReported,
    Result,
    AckTimeout,
    UpgradeTimeout,
    Returned,
    Aborted,
    Expired,
)
