"""The nouns of an upgrade: states, remarks, causes, and the row that holds one device upgrade.

Numbers of the enumerations are written to disk in packed rows and so are never reused or changed; a new
member takes the next free number. Names are the API's words: `label` is the snake_case string, and
`from_label` goes back. All times are integer UTC milliseconds.

A timeline entry must fit 6 bytes on disk: 4 for the time since the entry before it, 2 for state (3 bits),
remark (3), cause (5) and attempt (3). The asserts at the end keep it so.
"""

from enum import IntEnum
from typing import Self

import msgspec

from otagate import limits


class Labelled(IntEnum):
    """A small number on disk, a snake_case word in the API; `NONE` (always 0) has the empty label."""

    label: str
    __hash__ = int.__hash__  # an enumeration's own is a call of Python, and sets of states are asked often

    def __init__(self, number: int) -> None:
        self.label = self.name.lower() if number else ""

    @classmethod
    def from_label(cls, label: str) -> Self:
        """The member of that label; ValueError if there is none."""
        for member in cls:
            if member.label == label:
                return member
        raise ValueError(f"{label!r} is not a {cls.__name__.lower()}")


class State(Labelled):
    """Where a device upgrade stands. 0 is not a state, so a byte of it can mean "no upgrade"."""

    TO_BE_PUSHED = 1
    PUSHED = 2
    TO_BE_UPGRADED = 3
    UPGRADING = 4
    TO_BE_RETRIED = 5
    SUCCEEDED = 6
    FAILED = 7


class Remark(Labelled):
    """Why it failed; shown as null while there is nothing to say."""

    NONE = 0
    PUSH_FAILED = 1
    DOWNLOAD_FAILED = 2
    VERIFICATION_FAILED = 3
    BURN_FAILED = 4
    UPGRADE_TIMEOUT = 5
    TASK_ABORTED = 6
    OTHER = 7


class Cause(Labelled):
    """Why a transition happened: the last word of a timeline entry."""

    PUSHED = 1
    ACKNOWLEDGED = 2
    PROGRESS = 3
    CHUNK = 4
    REPORTED_VERSION = 5
    CLAIMED_SUCCESS = 6
    REPORTED_FAILURE = 7
    ACK_TIMEOUT = 8
    UPGRADE_TIMEOUT = 9
    RETRY = 10
    ABORTED = 11
    EXPIRED = 12
    RETURNED_UNANSWERED = 13


class Stage(Labelled):
    """What a device that is upgrading is at."""

    NONE = 0
    DOWNLOADING = 1
    VERIFYING = 2
    BURNING = 3


class Outcome(Labelled):
    """What a device says of an attempt that it ends."""

    SUCCEEDED = 1
    FAILED = 2


class Policy(Labelled):
    """Standard: upgrade at once. Silent: the device chooses when."""

    STANDARD = 1
    SILENT = 2


class Range(Labelled):
    """All: every eligible device of the product. Directed: a list of devices."""

    ALL = 1
    DIRECTED = 2


class BatchStatus(Labelled):
    """Where a batch stands; completed and aborted are final. One in creation is shown to nobody."""

    IN_PROGRESS = 1
    COMPLETED = 2
    ABORTED = 3
    CREATING = 4


OPEN_STATES = frozenset(
    (State.TO_BE_PUSHED, State.PUSHED, State.TO_BE_UPGRADED, State.UPGRADING, State.TO_BE_RETRIED)
)
ENDED_STATES = frozenset((State.SUCCEEDED, State.FAILED))
# The current attempt is with the device: a fetch counts for it, and a check is answered by its message.
RUNNING_STATES = frozenset((State.PUSHED, State.TO_BE_UPGRADED, State.UPGRADING))


class TimelineEntry(msgspec.Struct, frozen=True, gc=False):
    """One transition: when, into which state, with which remark, why, in which attempt."""

    at_ms: int
    state: State
    remark: Remark
    cause: Cause
    attempt: int


class Row(msgspec.Struct, frozen=True, gc=False):
    """One device upgrade. `Row()` is a fresh one: every device of a new batch begins as an equal row.

    attempt       0 before the first push; each push adds 1, nothing takes away
    due_ms        to_be_retried: when its turn comes; upgrading: when it times out; else 0
    remark, detail    why the last attempt failed; cleared by the next push
    stage, progress   how far the attempt came, 0-100; cleared by the next push, kept by a failure
    version       what the device reported when the upgrade ended; empty if it said nothing then
    completed_at_ms   when it succeeded or failed; else 0
    timeline      oldest first, at most `limits.timeline_entries_max`, times never go back
    """

    state: State = State.TO_BE_PUSHED
    attempt: int = 0
    due_ms: int = 0
    remark: Remark = Remark.NONE
    detail: str = ""
    stage: Stage = Stage.NONE
    progress: int = 0
    version: str = ""
    completed_at_ms: int = 0
    timeline: tuple[TimelineEntry, ...] = ()

    @property
    def ended(self) -> bool:
        """Succeeded or failed: it never changes again."""
        return self.state >= State.SUCCEEDED

    @property
    def retries(self) -> int:
        """Retries so far: attempt - 1, and 0 before the first push."""
        return max(self.attempt - 1, 0)


class Rules(msgspec.Struct, frozen=True, gc=False):
    """What a step needs to know of the batch. `retry_interval_ms` counts only when `retries` > 0."""

    target_version: str
    retries: int
    retry_interval_ms: int
    timeout_ms: int
    expires_at_ms: int


assert max(State) < 2**3
assert max(Remark) < 2**3
assert max(Cause) < 2**5
assert limits.retries_max + 1 < 2**3
assert frozenset(State) == OPEN_STATES | ENDED_STATES
assert {state for state in State if state >= State.SUCCEEDED} == ENDED_STATES
