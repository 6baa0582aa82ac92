"""What the gateway does after a step: a closed list, performed in order, after the commit.

Effects name neither device nor batch: the gateway knows whose row it stepped. Performing one for a device
that has gone does nothing, and so does performing it twice.
"""

from enum import StrEnum

import msgspec


class CancelReason(StrEnum):
    """Why an attempt is over; the gateway translates it to the word of the `cancel` message."""

    ABORTED = "aborted"
    EXPIRED = "expired"
    TIMED_OUT = "timed_out"
    NOT_ACKNOWLEDGED = "not_acknowledged"
    OVER = "over"  # the device itself ended it, or reported the target version


class SendUpgrade(msgspec.Struct, frozen=True, gc=False):
    """Write the upgrade message of the row's attempt. If the row is pushed, the 10 s begin with it."""


class Ack(msgspec.Struct, frozen=True, gc=False):
    """Answer the report's `id`, if it carried one. A login is answered by `welcome` instead."""


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Tell the device that this attempt is over.

    `answers` means that the cancel itself is the answer and carries the report's `id`: no ack precedes it.
    """

    attempt: int
    reason: CancelReason
    answers: bool = False


class StopTransfer(msgspec.Struct, frozen=True, gc=False):
    """Stop the running download if it belongs to this attempt of this batch, and only then."""

    attempt: int


class RefuseUnknown(msgspec.Struct, frozen=True, gc=False):
    """Answer `error not_found`: this attempt was never given to this device. Never leave to burn."""

    attempt: int


Effect = SendUpgrade | Ack | Cancel | StopTransfer | RefuseUnknown
