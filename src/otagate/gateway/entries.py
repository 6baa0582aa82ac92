"""What the journal takes of devices and batches: decisions, other facts about a device, ends of batches.

Plain holders: `upgrades` makes them and does, when they settle, what has waited for their commit.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from otagate.gateway.journal import Entry
from otagate.store.interface import Change, Outcome, ReportVersion, Transition, Upgrade
from otagate.upgrade.effects import Effect
from otagate.upgrade.events import Event


class Keeper(Protocol):
    """Who makes the entries, and is told when they are durable."""

    def settle(self, entry: "DeviceEntry") -> None: ...
    def settle_decision(self, decision: "Decision", outcome: Outcome) -> None: ...
    def settle_ending(self, ending: "Ending", outcome: Outcome) -> None: ...


class Answer:
    """What a step that changes nothing durable has for the device, while it waits behind an entry.

    It keeps the event: if the entry before it is decided again, so is this (its ack may be leave to burn).
    """

    __slots__ = ("_call", "answer", "batch", "conn", "event")

    def __init__(
        self, call: Callable[[], None], batch: int, event: Event, conn: int, answer: str | None
    ) -> None:
        self._call = call
        self.batch = batch
        self.event = event
        self.conn = conn
        self.answer = answer

    def __call__(self) -> None:
        self._call()


Follower: TypeAlias = Callable[[], None]


class DeviceEntry(Entry):
    """Anything durable about one device. `followers` are answers that must not overtake it.

    `place`: in the journal's queue, counted by the keeper.
    """

    __slots__ = ("_keeper", "device", "followers", "place")

    def __init__(self, keeper: Keeper, device: int, changes: Sequence[Change]) -> None:
        super().__init__(changes)
        self._keeper = keeper
        self.device = device
        self.followers: list[Follower] = []
        self.place = 0

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._keeper.settle(self)


class VersionEntry(DeviceEntry):
    """The version that a device has reported."""

    __slots__ = ("version",)

    def __init__(self, keeper: Keeper, change: ReportVersion) -> None:
        super().__init__(keeper, change.device, ())
        self.report(change)

    def report(self, change: ReportVersion) -> None:
        """This is the version, whatever was one before."""
        self.changes = (change,)
        self.version = change.version


class Decision(DeviceEntry):
    """A step on its way to the disk, with what is needed to make it again.

    `conn` and `answer` (the message's id) say whom an acknowledgement is for; 0 and None for the
    gateway's own events.
    """

    __slots__ = ("answer", "batch", "conn", "effects", "event", "transition")

    def __init__(
        self,
        keeper: Keeper,
        transition: Transition,
        event: Event,
        effects: Sequence[Effect],
        conn: int,
        answer: str | None,
    ) -> None:
        # as DeviceEntry's, without the two calls: there is one of these for each transition
        self.changes = (transition,)
        self.taken = False
        self._keeper = keeper
        self.device = transition.device
        self.followers = []
        self.place = 0
        self.transition = transition
        self.batch = transition.batch
        self.event = event
        self.effects = effects
        self.conn = conn
        self.answer = answer

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._keeper.settle_decision(self, outcomes[0])


class Ending(Entry):
    """The end of a batch before its last device: by an operator, or its validity.

    `running`: (device, attempt) of its devices at work in this moment, who are to be told.
    """

    __slots__ = ("_keeper", "batch", "done", "place", "running")

    def __init__(
        self,
        keeper: Keeper,
        batch: int,
        change: Change,
        done: Callable[[Outcome], None],
        running: Sequence[tuple[int, int]],
        place: int,
    ) -> None:
        super().__init__((change,))
        self._keeper = keeper
        self.batch = batch
        self.done = done
        self.running = running
        self.place = place

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """See Entry."""
        self._keeper.settle_ending(self, outcomes[0])
        self.done(outcomes[0])


class Again:
    """A device with a decision that met another row than it was made on.

    `fresh`: its row now. `entries`: its entries of the same group from that decision on, in order, each with
    whether it is durable (then only its effects are left to perform) or has to be decided again.
    """

    __slots__ = ("entries", "fresh")

    def __init__(self, fresh: Upgrade) -> None:
        self.fresh = fresh
        self.entries: list[tuple[DeviceEntry, bool]] = []
