"""Why nothing happens to a device upgrade right now, in one of five phrases."""

from datetime import UTC, datetime

from otagate.upgrade.model import Row, State

OFFLINE = "offline"
A_PUSH_SLOT = "a push slot"
A_DOWNLOAD_SLOT = "a download slot"
THE_DEVICE_TO_START = "the device to start"


def retry_due_at(due_ms: int) -> str:
    """`retry due at T`, T in RFC 3339 UTC, rounded up to a second so that T is never too early."""
    due = datetime.fromtimestamp(-(-due_ms // 1000), UTC)
    return f"retry due at {due:%Y-%m-%dT%H:%M:%SZ}"


def waiting_for(row: Row, online: bool, now_ms: int, *, download_queued: bool = False) -> str | None:
    """What an (effective) row waits for; None when it has ended, or the device is at work.

    `download_queued`: the device has a fetch that waits for one of the transfers to end. A device that is
    offline is waited for first, also by a retry that is not due yet: nothing else helps without it.
    """
    state = row.state
    if row.ended:
        return None
    if not online:
        return OFFLINE
    if state == State.TO_BE_RETRIED and now_ms < row.due_ms:
        return retry_due_at(row.due_ms)
    if state in (State.TO_BE_PUSHED, State.TO_BE_RETRIED):
        return A_PUSH_SLOT
    if download_queued:
        return A_DOWNLOAD_SLOT
    if state == State.UPGRADING:
        return None
    return THE_DEVICE_TO_START
