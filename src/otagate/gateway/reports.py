"""What logged-in devices say: each message is decoded, given to the rules, and answered.

The hot path, progress reports of running attempts, goes through `take_progress` (compiled, `progress`). Every
other message is `receive`d: handled at once when memory has what it needs. What needs a row of the store
waits until `finish`, which reads them all together; later messages of such a device wait behind it.
"""

from collections.abc import Callable, Sequence
from typing import Any

from otagate import limits, logs
from otagate.gateway.entries import VersionEntry
from otagate.gateway.outbox import Outbox
from otagate.gateway.tables import Presence
from otagate.gateway.transfers import Download, Transfers
from otagate.gateway.upgrades import Upgrades, number_of
from otagate.store.interface import Device, ReportVersion, Store, Upgrade
from otagate.upgrade.events import Acknowledged, AttemptReport, Progress, Result, VersionReported
from otagate.upgrade.model import RUNNING_STATES, Outcome, Remark, Stage, State
from otagate.wire import messages
from otagate.wire.constants import CloseCode, ErrorCode

log = logs.get("reports")

_STAGES = {stage.label: stage for stage in Stage if stage}
_REMARKS = {remark.label: remark for remark in Remark if remark}
_OUTCOMES = {outcome.label: outcome for outcome in Outcome}


class Reports:
    """Handles the messages of logged-in devices."""

    def __init__(
        self,
        store: Store,
        presence: Presence,
        outbox: Outbox,
        upgrades: Upgrades,
        transfers: Transfers,
    ) -> None:
        self._store = store
        self._presence = presence
        self._outbox = outbox
        self._upgrades = upgrades
        self._transfers = transfers
        self._later: dict[int, list[tuple[int, messages.DeviceMessage]]] = {}
        self._progress = upgrades.progress_reports()
        self._versions: dict[int, VersionEntry] = {}  # the last one of each device that no commit has seen
        self.on_greedy: Callable[[int], None] = lambda device: None  # ends its session
        self.cut_off = 0

    def take_progress(self, events: Sequence[tuple[Any, ...]], at: int) -> int:
        """Handle progress reports that only set a percentage, from `at` up to the first event that is none
        such: what `receive` would do, without a call for each. Returns the place of that event."""
        return self._progress.take(events, at, self._later)

    def receive(self, device: int, conn: int, payload: bytes) -> None:
        """Handle one message of the device's session, now or in `finish`."""
        if self._upgrades.answers_waiting(device) >= limits.answers_waiting_max:
            self._end_greedy(device)
            return
        try:
            message = messages.decode_device_message(payload)
        except messages.BrokenMessage as error:
            self._outbox.send(conn, messages.Error(code=ErrorCode.BAD_MESSAGE, message=str(error)))
            self._outbox.close(conn, CloseCode.INVALID_DATA)
            log.limited("broken_message", device=device, error=str(error))
            return
        except messages.BadMessage as error:
            refusal = self.bad_message(error)
            self._upgrades.after_pending(device, lambda: self._outbox.send(conn, refusal))
            return
        if device in self._later or not self._decide_at_once(device, conn, message):
            self._later.setdefault(device, []).append((conn, message))

    def _decide_at_once(self, device: int, conn: int, message: messages.DeviceMessage) -> bool:
        """Decide on a report if memory has all that it needs: the row of a running upgrade, mostly."""
        upgrade = self._upgrades.rows.get(device)
        if upgrade is None:
            return False
        event: AttemptReport
        if type(message) is messages.Progress:
            event = Progress(message.attempt, _STAGES[message.stage], message.percent)
        elif type(message) is messages.Received and self._upgrades.is_at_work(upgrade):
            event = Acknowledged(message.attempt)
        else:
            return False
        if message.batch != f"b{upgrade.batch}":
            return False
        self._upgrades.decide(upgrade, event, conn=conn, answer=message.id)
        return True

    def _end_greedy(self, device: int) -> None:
        """It goes on asking while the disk is slow, and each answer waits in memory: no more of that."""
        self.cut_off += 1
        log.limited("device_cut_off", device=device)
        self.on_greedy(device)

    async def finish(self) -> None:
        """Handle what waits for the store: one read for all rows that memory lacks."""
        if not self._later:
            return
        later, self._later = self._later, {}
        devices = list(later)
        newest = await self._upgrades.newest(devices)
        for device, upgrade in zip(devices, newest, strict=True):
            for conn, message in later[device]:
                if self._presence.get(device) != conn:
                    continue
                newer = self._upgrades.rows.get(device)
                if newer is not None:
                    upgrade = newer
                await self._handle(device, conn, message, upgrade)

    async def _handle(
        self, device: int, conn: int, message: messages.DeviceMessage, newest: Upgrade | None
    ) -> None:
        if isinstance(message, messages.Received):
            await self._report(device, conn, message, newest, Acknowledged(message.attempt))
        elif isinstance(message, messages.Progress):
            event = Progress(message.attempt, _STAGES[message.stage], message.percent)
            await self._report(device, conn, message, newest, event)
        elif isinstance(message, messages.Result):
            await self._result(device, conn, message, newest)
        elif isinstance(message, messages.Fetch):
            self._fetch(device, conn, message, newest)
        elif isinstance(message, messages.Stop):
            self._transfers.stop(device, conn, message.transfer)
            self._acknowledge(device, conn, message.id)
        elif isinstance(message, messages.Version):
            known = await self._read_known_version(device)
            if known is not None:
                self.report_version(device, message.version, known, newest, conn=conn, answer=message.id)
        elif isinstance(message, messages.Check):
            self._check(device, conn, message)
        else:
            refusal = messages.Error(id=message.id, code=ErrorCode.CONFLICT, message="already logged in")
            self._upgrades.after_pending(device, lambda: self._outbox.send(conn, refusal))

    # -- reports of an attempt -------------------------------------------------------------------

    async def _report(
        self,
        device: int,
        conn: int,
        message: messages.Received | messages.Progress | messages.Result,
        newest: Upgrade | None,
        event: AttemptReport,
    ) -> None:
        number = number_of(message.batch)
        upgrade = newest
        if upgrade is None or upgrade.batch != number:
            upgrade = await self._upgrades.of_batch(device, number) if number else None
        if upgrade is None or not self._upgrades.known(upgrade) or not self._was_given(upgrade):
            refusal = messages.Error(
                id=message.id,
                code=ErrorCode.NOT_FOUND,
                message="this batch was never given to this device",
                field="batch",
            )
            self._upgrades.after_pending(device, lambda: self._outbox.send(conn, refusal))
            return
        if newest is not None and upgrade.batch != newest.batch:
            self._upgrades.answer_over(upgrade, event, conn=conn, answer=message.id)
        else:
            self._upgrades.decide(upgrade, event, conn=conn, answer=message.id)
            self._upgrades.release(device)

    @staticmethod
    def _was_given(upgrade: Upgrade) -> bool:
        return upgrade.row.attempt > 0

    async def _result(self, device: int, conn: int, message: messages.Result, newest: Upgrade | None) -> None:
        known = ""
        if message.version is not None:
            known = await self._read_known_version(device) or ""
            self._record_version(device, message.version, known, conn)
            about_newest = newest is not None and newest.batch == number_of(message.batch)
            is_its_report = newest is not None and about_newest and self._was_given(newest)
            if newest is not None and not is_its_report and self._upgrades.known(newest):
                # the version counts for the newest upgrade, whatever the result is about
                self._upgrades.decide(newest, VersionReported(message.version, known), conn=conn)
        event = Result(
            attempt=message.attempt,
            outcome=_OUTCOMES[message.outcome],
            reason=_REMARKS[message.reason] if message.reason else Remark.NONE,
            detail=message.detail or "",
            version=message.version or "",
            known_version=known,
        )
        await self._report(device, conn, message, newest, event)

    # -- versions --------------------------------------------------------------------------------

    def known_version(self, device: int, record: Device) -> str:
        """The version reported last, pending included; "" if none ever was."""
        waiting = self._versions.get(device)
        return (record.version or "") if waiting is None else waiting.version

    async def _read_known_version(self, device: int) -> str | None:
        """The same, read from the store if need be; None when the device is gone."""
        waiting = self._versions.get(device)
        if waiting is not None:
            return waiting.version
        record = (await self._store.devices_by_number([device]))[0]
        return None if record is None else self.known_version(device, record)

    def _record_version(self, device: int, version: str, known: str, conn: int) -> None:
        """Make the device's reported version durable, if it is news.

        It takes the place of one that still waits, so a device that reports faster than the disk writes has
        one waiting and one under way, and fills no journal.
        """
        if version == known:
            return
        change = ReportVersion(device, version, self._upgrades.clock.now_ms(), conn)
        waiting = self._versions.get(device)
        if waiting is not None and self._upgrades.can_amend(waiting):
            waiting.report(change)
            return
        entry = self._versions[device] = VersionEntry(self._upgrades, change)

        def committed() -> None:
            if self._versions.get(device) is entry:
                del self._versions[device]

        entry.followers.append(committed)
        self._upgrades.submit(entry)

    def report_version(
        self, device: int, version: str, known: str, newest: Upgrade | None, *, conn: int, answer: str | None
    ) -> None:
        """A version reported at login or alone: for the device's record, and for its newest upgrade.

        `known`: the one before; `answer`: the id of the message, acknowledged when all of it is durable; None
        at login.
        """
        self._record_version(device, version, known, conn)
        if newest is not None and self._upgrades.known(newest):
            self._upgrades.decide(newest, VersionReported(version, known), conn=conn)
            self._upgrades.release(device)
        self._acknowledge(device, conn, answer)

    def _acknowledge(self, device: int, conn: int, answer: str | None) -> None:
        """Acknowledge behind everything of this device that waits for a commit."""
        if answer is None:
            return

        def acknowledge() -> None:
            if self._presence.get(device) == conn:
                self._outbox.send(conn, messages.Ack(id=answer))

        self._upgrades.after_pending(device, acknowledge)

    # -- downloads -------------------------------------------------------------------------------

    def _fetch(self, device: int, conn: int, message: messages.Fetch, newest: Upgrade | None) -> None:
        upgrade = newest
        batch = self._upgrades.batches.get(upgrade.batch) if upgrade is not None else None
        if (
            upgrade is None
            or batch is None
            or batch.ended
            or upgrade.row.state not in RUNNING_STATES
            or self._upgrades.is_being_pushed(device)  # its message has not left: this is about one before
            or batch.record.firmware_id != message.firmware
        ):
            self._refuse_fetch(
                device, conn, message, ErrorCode.NOT_FOUND, "no running upgrade to this firmware"
            )
            return
        record = batch.record
        if message.offset >= record.firmware_size:
            text = f"offset must be below the size, {record.firmware_size}"
            self._refuse_fetch(device, conn, message, ErrorCode.BAD_MESSAGE, text, "offset")
            return
        end = record.firmware_size
        if message.length is not None:
            end = min(end, message.offset + message.length)
        attempt = upgrade.row.attempt
        if upgrade.row.state == State.PUSHED:
            # who fetches has read the upgrade message
            event = Acknowledged(attempt)
            self._upgrades.decide(upgrade, event, conn=conn, answer=message.id)
        else:
            self._acknowledge(device, conn, message.id)
        download = Download(device, conn, message.transfer, upgrade.batch, attempt)
        chunk_bytes = message.chunk_size
        self._transfers.begin(
            download, record.firmware_sha256, record.firmware_size, message.offset, end, chunk_bytes
        )

    def _refuse_fetch(
        self,
        device: int,
        conn: int,
        message: messages.Fetch,
        code: ErrorCode,
        text: str,
        field: str | None = None,
    ) -> None:
        refusal = messages.Error(
            id=message.id, code=code, message=text, field=field, transfer=message.transfer
        )
        self._upgrades.after_pending(device, lambda: self._outbox.send(conn, refusal))

    # -- the rest --------------------------------------------------------------------------------

    def _check(self, device: int, conn: int, message: messages.Check) -> None:
        def answer() -> None:
            if self._presence.get(device) != conn:
                return
            sent = self._upgrades.send_upgrade(device, message.id, delivery=False)
            if not sent and message.id is not None:
                self._outbox.send(conn, messages.Ack(id=message.id))

        self._upgrades.after_pending(device, answer)

    @staticmethod
    def bad_message(error: messages.BadMessage) -> messages.Error:
        """The answer to a well-formed message that breaks the protocol."""
        return messages.Error(
            id=error.id, code=ErrorCode.BAD_MESSAGE, message=error.message, field=error.field
        )
