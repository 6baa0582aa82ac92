"""Who may log in now: two bounds, asked before a login costs anything that lasts.

**Overload.** Logins wait for the commit of what they report. When too many wait, the store does not keep up,
and every further one makes all of them later: it is told to come back, before it is looked up.

**Rivals.** The newest login of a device wins, so two boards with one identity take the session from each
other for ever, and each time everything a login does is done. A few take-overs are free (a bad network
makes some, too), and one is forgotten each minute; above, whoever comes is told to come back, and who is
there stays.

How long to stay away is drawn from the connection's nonce, which is random already.
"""

from collections import OrderedDict

from otagate import limits


def retry_after_s(least_s: int, most_s: int, nonce: bytes) -> int:
    """Seconds between these, both included."""
    return least_s + int(nonce[:8], 16) % (most_s - least_s + 1)


class Rivals:
    """Take-overs of sessions by device. Invariant: remembers at most `takeover_devices_max` devices."""

    def __init__(self) -> None:
        self._counts: OrderedDict[int, tuple[int, int]] = OrderedDict()  # take-overs, as of this time (ms)

    def __len__(self) -> int:
        return len(self._counts)

    def note(self, device: int, now_ms: int) -> None:
        """A session of the device was taken over."""
        self._counts[device] = (self._count(device, now_ms) + 1, now_ms)
        self._counts.move_to_end(device)
        if len(self._counts) > limits.takeover_devices_max:
            self._counts.popitem(last=False)

    def too_many(self, device: int, now_ms: int) -> bool:
        """Is its session not to be taken over now?"""
        return device in self._counts and self._count(device, now_ms) >= limits.takeovers_free

    def _count(self, device: int, now_ms: int) -> int:
        count, since_ms = self._counts.get(device, (0, now_ms))
        return max(count - (now_ms - since_ms) // limits.takeover_forget_ms, 0)
