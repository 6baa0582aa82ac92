"""Planted faults: what would go wrong if a rule were forgotten. Each must be found within 200 seeds.

A fault is a patch of the running program, never a switch in it. `invariants`: by which of them it may be
found first; a fault that is found by another one, or only because something crashes, is not understood.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio
from msgspec.structs import replace

from otagate import plane
from otagate.gateway.batches import Batches
from otagate.gateway.clock import Clock
from otagate.gateway.deadlines import Deadlines
from otagate.gateway.dispatch import Dispatch
from otagate.gateway.entries import Decision, VersionEntry
from otagate.gateway.reports import Reports
from otagate.gateway.sessions import Sessions
from otagate.gateway.transfers import Transfers
from otagate.gateway.upgrades import Upgrades
from otagate.store import changes, changes_batches
from otagate.store.interface import ReportVersion, Transition
from otagate.upgrade import events, states, waiting
from otagate.upgrade.counts import Counts
from otagate.upgrade.effects import Ack, Cancel, StopTransfer
from otagate.upgrade.model import Outcome, State
from otagate.wire import messages

Patches = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Fault:
    """One planted fault."""

    name: str
    invariants: set[str]
    patches: Callable[[], Patches]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The fault is there."""
        patches = self.patches()
        before = [(where, name, where.__dict__[name]) for where, name, _ in patches]
        for where, name, value in patches:
            setattr(where, name, value)
        try:
            yield
        finally:
            for where, name, value in before:
                setattr(where, name, value)


FAULTS: list[Fault] = []


def fault(*invariants: str) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    """Declare a fault; its function's docstring is its name."""

    def declare(patches: Callable[[], Patches]) -> Callable[[], Patches]:
        FAULTS.append(Fault((patches.__doc__ or "").rstrip("."), set(invariants), patches))
        return patches

    return declare


def nothing(*_: Any, **__: Any) -> None:
    """Do not."""


def handling(event: type[Any], state: State, handler: Any) -> Patches:
    """Another handler for one pair of event and state."""
    handlers = list(states._HANDLERS[event])
    handlers[state] = handler
    return [(states, "_HANDLERS", states._HANDLERS | {event: tuple(handlers)})]


# -- durability --------------------------------------------------------------------------------------


@fault("durability", "burning")
def acknowledge_early() -> Patches:
    """ack before its commit."""
    submit = Upgrades.submit

    def submit_and_acknowledge(self: Any, entry: Any) -> None:
        if isinstance(entry, Decision) and entry.answer is not None and Ack() in entry.effects:
            self.outbox.send(entry.conn, messages.Ack(id=entry.answer))
        submit(self, entry)

    return [(Upgrades, "submit", submit_and_acknowledge)]


@fault("memory", "durability", "burning")
def keep_beginning_in_memory() -> Patches:
    """first chunk kept in memory, its state lost by a restart."""

    def first_chunk(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        return replace(states._first_chunk(row, event, now_ms, rules), durable=False)

    return handling(events.ChunkWritten, State.TO_BE_UPGRADED, first_chunk)


@fault("compare and set")
def ignore_expectations() -> Patches:
    """compare-and-set ignored."""

    def transition(draft: Any, change: Transition) -> Any:
        value = draft.view.get("upgrades", changes_batches.pair_key.pack(change.device, change.batch))
        if value is not None and value[1] < State.SUCCEEDED:
            change = replace(change, expected_state=State(value[1]), expected_attempt=value[2])
        return changes_batches.transition(draft, change)

    return [(changes, "APPLY", changes.APPLY | {Transition: transition})]


@fault("counts")
def count_twice() -> Patches:
    """counter added twice."""
    move = Counts.move

    def move_twice(self: Any, old: State, new: State, number: int = 1) -> None:
        move(self, old, new, number)
        self._numbers[new] += number

    return [(Counts, "move", move_twice)]


# -- states ------------------------------------------------------------------------------------------


@fault("success")
def take_its_word() -> Patches:
    """success judged by the device's word."""

    def result(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        if event.outcome == Outcome.SUCCEEDED and event.attempt == row.attempt:
            event = replace(event, version=rules.target_version)
        return states._result(row, event, now_ms, rules)

    return handling(events.Result, State.UPGRADING, result)


@fault("success")
def compare_loosely() -> Patches:
    """another version taken for the target."""

    def version(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        newer = event.version > "1.0"
        return states._version(
            row, replace(event, version=rules.target_version) if newer else event, now_ms, rules
        )

    return handling(events.VersionReported, State.TO_BE_PUSHED, version)


@fault("ended stays")
def change_what_ended() -> Patches:
    """ended row changes."""

    def version(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        return states._version(row, event, now_ms, rules)

    return handling(events.VersionReported, State.FAILED, version)


@fault("one move", "allowed moves")
def acknowledge_twice() -> Patches:
    """duplicate moves a row twice."""

    def again(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        return states._acknowledged(row, event, now_ms, rules)

    return handling(events.Acknowledged, State.TO_BE_UPGRADED, again)


@fault("retries", "validity")
def retry_for_ever() -> Patches:
    """retry beyond validity."""
    failure = states._failure

    def fail(row: Any, now_ms: int, rules: Any, *arguments: Any, **more: Any) -> Any:
        return failure(row, now_ms, replace(rules, expires_at_ms=2**50), *arguments, **more)

    return [(states, "_failure", fail)]


@fault("retries")
def retry_too_often() -> Patches:
    """one retry more than the maximum."""
    failure = states._failure

    def fail(row: Any, now_ms: int, rules: Any, *arguments: Any, **more: Any) -> Any:
        return failure(row, now_ms, replace(rules, retries=rules.retries + 1), *arguments, **more)

    return [(states, "_failure", fail)]


# -- clocks ------------------------------------------------------------------------------------------


@fault("one move", "time-out clock")
def restart_clock() -> Patches:
    """time-out restarted on return."""

    def returned(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        later = replace(row, due_ms=now_ms + rules.timeout_ms)
        return states.Step(later, states._SEND, True)

    return handling(events.Returned, State.UPGRADING, returned)


@fault("time-out clock", "retry clock", "validity", "acknowledgement clock", "retries", "one move")
def follow_wall_clock() -> Patches:
    """time-out judged by the wall clock."""
    return [(Clock, "now_ms", lambda self: self._wall_ms())]


@fault("validity", "retries")
def ignore_wall_clock() -> Patches:
    """validity judged by elapsed time."""
    return [(Clock, "observe_step", lambda self: 0)]


@fault("time-out clock")
def forget_grace() -> Patches:
    """restart grace forgotten."""
    take_up = Batches.take_up

    async def without_grace(self: Any, started_at_ms: int, restart_grace_ms: int) -> None:
        await take_up(self, started_at_ms, 0)

    return [(Batches, "take_up", without_grace)]


@fault("time-out clock")
def forget_sleep() -> Patches:
    """no grace after a sleep of the machine."""
    return [(Deadlines, "_hold_back", nothing)]


@fault("time-out clock")
def forget_clocks() -> Patches:
    """time-outs forgotten by a restart."""
    roster_of = Batches._roster

    async def without_clocks(self: Any, *arguments: Any) -> Any:
        roster = await roster_of(self, *arguments)
        for device in range(1, 2_000):
            if roster.get_state(device) == State.UPGRADING:
                roster.set_clock(device, 0)
        return roster

    return [(Batches, "_roster", without_clocks)]


@fault("acknowledgement clock")
def await_the_absent() -> Patches:
    """acknowledgement clock runs on without a session."""
    session_ended = Upgrades.session_ended

    def clock_runs_on(self: Any, device: int) -> None:
        upgrade = self.rows.get(device)
        batch = self.batches.get(upgrade.batch) if upgrade is not None else None
        clock_ms = batch.roster.get_clock(device) if batch is not None else 0
        session_ended(self, device)
        if batch is not None and upgrade.row.state == State.PUSHED:
            batch.roster.set_clock(device, clock_ms)

    return [(Upgrades, "session_ended", clock_runs_on)]


@fault("acknowledgement clock")
def count_from_the_decision() -> Patches:
    """acknowledgement clock runs before the message is written."""
    note = Upgrades._note
    send_upgrade = Upgrades.send_upgrade

    def note_and_start(self: Any, batch: Any, device: int, row: Any) -> None:
        note(self, batch, device, row)
        if row.state == State.PUSHED:
            batch.roster.set_clock(device, self.clock.now_ms() + self.acknowledge_timeout_ms)

    def send_without_clock(self: Any, device: int, *arguments: Any, **more: Any) -> bool:
        upgrade = self.rows.get(device)
        batch = self.batches.get(upgrade.batch) if upgrade is not None else None
        clock_ms = batch.roster.get_clock(device) if batch is not None else 0
        sent = send_upgrade(self, device, *arguments, **more)
        if clock_ms and batch is not None and upgrade.row.state == State.PUSHED:
            batch.roster.set_clock(device, clock_ms)
        return sent

    return [(Upgrades, "_note", note_and_start), (Upgrades, "send_upgrade", send_without_clock)]


@fault("time-out clock")
def stop_the_clock() -> Patches:
    """time-out stops with the session."""
    session_ended = Upgrades.session_ended

    def stop(self: Any, device: int) -> None:
        upgrade = self.rows.get(device)
        batch = self.batches.get(upgrade.batch) if upgrade is not None else None
        session_ended(self, device)
        if batch is not None:
            batch.roster.set_clock(device, 0)

    return [(Upgrades, "session_ended", stop)]


@fault("deliveries")
def forget_who_returns() -> Patches:
    """upgrade message not sent again on return."""

    def returned(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        return states.Step(row)

    return handling(events.Returned, State.TO_BE_UPGRADED, returned)


@fault("deliveries")
def forget_deliveries() -> Patches:
    """delivery count lost."""
    return [(Upgrades, "deliveries", lambda self, upgrade: 0)]


# -- dispatch ----------------------------------------------------------------------------------------


@fault("progress")
def sleep_on() -> Patches:
    """wake-up dropped, and the sweep too."""
    return [(Dispatch, "request", nothing), (Dispatch, "_slot_freed", nothing)]


@fault("progress", "leaks", "waiting_for")
def keep_slots() -> Patches:
    """push slot never freed."""
    return [(Upgrades, "_free_slot", nothing)]


@fault("push slots")
def overfill() -> Patches:
    """pushes beyond the slots."""
    return [(Dispatch, "_room", lambda self: 10_000)]


@fault("validity", "retries")
def never_expire() -> Patches:
    """expired batch still pushes."""
    rules_now = Upgrades._rules_now

    def without_end(self: Any, batch: Any) -> Any:
        return replace(rules_now(self, batch), expires_at_ms=2**50)

    return [(Upgrades, "_rules_now", without_end), (Deadlines, "_end_validity", nothing)]


# -- what devices and operators are told ---------------------------------------------------------------


@fault("cancels")
def lose_cancels() -> Patches:
    """cancel lost."""
    cancel = Upgrades._cancel

    def only_answers(self: Any, device: int, batch: int, effect: Cancel, *arguments: Any) -> None:
        if effect.answers:
            cancel(self, device, batch, effect, *arguments)

    return [(Upgrades, "_cancel", only_answers)]


@fault("burning")
def let_it_burn() -> Patches:
    """leave to burn after the end."""

    def over(row: Any, event: Any, now_ms: int, rules: Any) -> Any:
        reason = states._reason_over(row, event.attempt)
        return states.Step(row, (Ack(), Cancel(event.attempt, reason), StopTransfer(event.attempt)))

    handlers = list(states._HANDLERS[events.Progress])
    for state in (State.TO_BE_RETRIED, State.SUCCEEDED, State.FAILED):
        handlers[state] = over
    return [(states, "_HANDLERS", states._HANDLERS | {events.Progress: tuple(handlers)})]


@fault("transfers")
def stream_on() -> Patches:
    """transfer survives the end of its attempt."""

    def only_forget(self: Any, device: int, batch: int, attempt: int) -> None:
        download = self.downloads.get(device)
        if download is not None and (download.batch, download.attempt) == (batch, attempt):
            del self.downloads[device]

    return [(Transfers, "stop_attempt", only_forget)]


@fault("leaks", "images", "waiting_for")
def never_end() -> Patches:
    """end of a transfer not heard."""
    return [(Transfers, "ended", nothing)]


@fault("images")
def keep_unreadable() -> Patches:
    """image that became unreadable not opened anew."""
    ended = Transfers.ended

    def keep(self: Any, device: int, conn: int, transfer: int, reason: int) -> None:
        ended(self, device, conn, transfer, plane.DONE if reason == plane.FAILED else reason)

    return [(Transfers, "ended", keep)]


@fault("takeover")
def hear_everybody() -> Patches:
    """old connection heard after the takeover."""
    handle = Sessions.handle

    async def handle_all(self: Any, found: Any) -> None:
        for event in found:
            if event[0] == plane.MESSAGE and self._presence.get(event[2]) != event[1]:
                message = messages.decode_device_message(event[3])
                newest = (await self._upgrades.newest([event[2]]))[0]
                await self.reports._handle(event[2], event[1], message, newest)
        await handle(self, found)

    return [(Sessions, "handle", handle_all)]


@fault("answers", "cancels")
def drop_answers() -> Patches:
    """answer behind a commit lost."""

    def only_now(self: Any, device: int, call: Any) -> None:
        if device not in self._pending or getattr(call, "__name__", "") not in ("acknowledge", "<lambda>"):
            after_pending(self, device, call)

    after_pending = Upgrades.after_pending
    return [(Upgrades, "after_pending", only_now)]


@fault("answers")
def forget_what_follows() -> Patches:
    """answer behind a decision that was made again lost."""
    decide_again = Upgrades._decide_again

    def without_followers(self: Any, device: int, again: Any) -> None:
        for entry, _ in again.entries:
            entry.followers.clear()
        decide_again(self, device, again)

    return [(Upgrades, "_decide_again", without_followers)]


@fault("answers", "progress", "waiting_for", "deliveries")
def end_the_new_session() -> Patches:
    """end of the old connection ends the new session."""
    closed = Sessions._closed

    def end(self: Any, conn: int, device: int) -> None:
        closed(self, self._presence.get(device) or conn, device)

    return [(Sessions, "_closed", end)]


@fault("durability")
def welcome_early() -> Patches:
    """welcome before the version is durable."""
    after_pending = Upgrades.after_pending

    def at_once(self: Any, device: int, call: Any) -> None:
        if getattr(getattr(call, "func", None), "__name__", "") == "_welcome":
            call()
        else:
            after_pending(self, device, call)

    return [(Upgrades, "after_pending", at_once)]


@fault("login")
def refuse_known() -> Patches:
    """right secret refused."""
    return [(Sessions, "_mac_is_right", staticmethod(lambda hello, nonce, secret: "9" not in hello.device))]


@fault("waiting_for")
def hide_absence() -> Patches:
    """operator not told that a device is offline."""
    truth = waiting.waiting_for

    def online(row: Any, online: bool, *arguments: Any, **more: Any) -> str | None:
        return truth(row, True, *arguments, **more)

    return [(waiting, "waiting_for", online)]


@fault("leaks")
def leave_half_done() -> Patches:
    """what a kill cut in two not taken up."""

    async def undo(self: Any, batch: Any) -> None:
        await trio.lowlevel.checkpoint()

    return [(Batches, "_undo", undo), (Batches, "_rewrite", undo)]


@fault("leaks")
def keep_rows() -> Patches:
    """rows kept in memory for ever."""
    return [(Upgrades, "release", nothing)]


@fault("leaks", "answers", "durability")
def keep_versions() -> Patches:
    """reported versions kept in memory for ever."""
    record_version = Reports._record_version

    def record(self: Any, device: int, version: str, known: str, conn: int) -> None:
        record_version(self, device, version, known, conn)
        self._versions[device] = VersionEntry(self._upgrades, ReportVersion(device, version, 0, conn))

    return [(Reports, "_record_version", record)]
