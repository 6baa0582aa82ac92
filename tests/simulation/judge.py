"""What the gateway says, and what it must have done by now: the judge of messages and of progress.

Each message that leaves is held against the ledger: an acknowledgement must not be ahead of what is
durable, an upgrade message must be about a running attempt of a batch in progress, and so on. `look` asks,
every second in which something happens, what is overdue; `rest`, when nothing has happened for a whole
sweep, whether everything was answered, memory holds no more than it must, and operators are told the truth.
"""

from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otagate.gateway.upgrades import number_of
from otagate.upgrade.model import RUNNING_STATES, BatchStatus, Row, State
from otagate.upgrade.waiting import retry_due_at
from otagate.wire import messages

if TYPE_CHECKING:
    from tests.simulation.plane import Link, Transfer
    from tests.simulation.world import World

ACKNOWLEDGE_MS = 10_000
PUSH_WITHIN_MS = 2_000
LATE_MS = 1_500  # a sweep, a tick, a commit


@dataclass(slots=True)
class Question:
    """A message of a device that carries an id; `over`: its attempt was durably over when it was read."""

    message: Any
    over: bool


class Judge:
    """See the module. `online`: device number → the link on which it was welcomed last."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._ledger = world.ledger
        self.online: dict[int, Link] = {}
        self.links: dict[int, Link] = {}
        self.told: defaultdict[tuple[str, str], set[str | None]] = defaultdict(set)  # versions of a device
        self._deliveries: defaultdict[tuple[int, int, int], int] = defaultdict(int)
        self._cancel_due: dict[tuple[int, int, int], int] = {}  # conn, batch, attempt → since when
        self._cancel_now: set[tuple[int, int, int]] = set()
        self._pushable_ms: dict[int, int] = {}
        self._looked_ms = 0
        self.looks = self.rests = self.acks = self.burns = self.cancels = self.upgrades = 0

    # -- what the gateway hears ------------------------------------------------------------------

    def heard(self, link: "Link", message: Any) -> None:
        """A message was handed to the gateway."""
        self.links[link.conn] = link
        self.told[link.device.product, link.device.identifier].add(getattr(message, "version", None))
        if message.id is None or link.superseded:
            return
        over = False
        if isinstance(message, messages.Received | messages.Progress | messages.Result):
            over = self._ledger.over(link.number, number_of(message.batch), message.attempt)
        link.questions.setdefault(message.id, deque()).append(Question(message, over))

    def spoken(self, conn: int) -> None:
        """A decision was made because of what this connection said (0: of none)."""
        link = self.links.get(conn)
        if link is not None and link.superseded and not self._world.plan.rivals:
            self._world.violate("takeover", f"connection {conn} was heard after it was superseded")

    # -- what the gateway says -------------------------------------------------------------------

    def sent(self, link: "Link", message: Any) -> None:
        """A message is leaving."""
        if link.superseded:
            return
        kind = type(message)
        if kind is messages.Ack:
            self._ack(link, message)
        elif kind is messages.Upgrade:
            self._upgrade(link, message)
        elif kind is messages.Cancel:
            self._cancel(link, message)
        elif kind is messages.Welcome:
            self._welcome(link, message)
        elif kind is messages.Error:
            self._error(link, message)

    def applied(self) -> None:
        """The commands of one turn are through: what had to leave together has left."""
        if self._cancel_now:
            key = sorted(self._cancel_now)[0]
            self._cancel_now.clear()
            self._world.violate("cancels", f"a report about attempt {key} was acknowledged and not cancelled")

    def _question(self, link: "Link", message: Any) -> Question | None:
        questions = link.questions.get(message.id)
        if not questions:
            self._world.violate("answers", f"connection {link.conn} is answered unasked: {message}")
            return None
        found = questions.popleft()
        if not questions:
            del link.questions[message.id]
        return found

    def _welcome(self, link: "Link", message: messages.Welcome) -> None:
        question = self._question(link, message)
        assert question is not None
        before = self.online.get(link.number)
        if before is not None and before is not link and not before.superseded and before.there:
            self._world.violate("takeover", f"device {link.number} is welcome on two connections")
        if question.message.version not in self._ledger.versions[link.number]:
            self._world.violate(
                "durability", f"device {link.number} is welcome before its version is durable"
            )
        self.online[link.number] = link
        link.welcomed_ms = self._world.now_ms
        link.device.number = link.number
        self._world.welcomed(link)

    def _ack(self, link: "Link", message: messages.Ack) -> None:
        question = self._question(link, message)
        if question is None:
            return
        self.acks += 1
        report = question.message
        if isinstance(report, messages.Received | messages.Progress | messages.Result):
            self._ack_report(link, report, question.over)
        elif isinstance(report, messages.Version) and (
            report.version not in self._ledger.versions[link.number]
        ):
            self._world.violate("durability", f"version {report.version} is acknowledged and not durable")

    def _ack_report(self, link: "Link", report: Any, over: bool) -> None:
        ledger, world = self._ledger, self._world
        key = link.number, number_of(report.batch)
        row = ledger.rows.get(key)
        if row is None or not 1 <= report.attempt <= row.attempt:
            world.violate("durability", f"{report} is acknowledged, {key} is durably {row}")
            return
        current = row.attempt == report.attempt
        burning = isinstance(report, messages.Progress) and report.stage == "burning"
        if burning:
            self.burns += 1
            ended_now = ledger.ended_in.get(key) == ledger.commits
            if over or not ((current and row.state == State.UPGRADING) or ended_now):
                world.violate(
                    "burning", f"leave to burn for attempt {report.attempt} of {key}, which is {row}"
                )
            return
        unseen = {
            messages.Received: (State.PUSHED,),
            messages.Progress: (State.PUSHED, State.TO_BE_UPGRADED),
            messages.Result: tuple(sorted(RUNNING_STATES)),
        }[type(report)]
        if current and row.state in unseen:
            world.violate("durability", f"{report} is acknowledged, {key} is durably {row.state.label}")
        if over:
            self._cancel_now.add((link.conn, key[1], report.attempt))

    def _upgrade(self, link: "Link", message: messages.Upgrade) -> None:
        ledger, world = self._ledger, self._world
        self.upgrades += 1
        batch = number_of(message.batch)
        key = link.number, batch
        if message.id is not None:
            self._question(link, message)
        if ledger.batches[batch].status != BatchStatus.IN_PROGRESS:
            world.violate("ended batch", f"an upgrade message of batch {batch}, which has ended")
        if not ledger.running(*key, message.attempt):
            world.violate(
                "durability", f"an upgrade message of {message.attempt}, durable is {ledger.rows[key]}"
            )
        if self.online.get(link.number) is not link:
            world.violate("takeover", f"an upgrade message to connection {link.conn}, not the newest")
        link.told = batch, message.attempt
        if message.id is None and ledger.rows[key].state == State.PUSHED:
            link.delivered_ms = world.now_ms
            self._count_delivery(key, message.attempt)

    def passed_over(self, link: "Link", message: Any) -> None:
        """A message to a connection that is gone: the gateway had not heard of that yet."""
        if isinstance(message, messages.Upgrade) and message.id is None:
            key = link.number, number_of(message.batch)
            if self._ledger.rows[key].state == State.PUSHED:
                self._count_delivery(key, message.attempt)

    def _count_delivery(self, key: tuple[int, int], attempt: int) -> None:
        count = self._deliveries[*key, attempt] = self._deliveries[*key, attempt] + 1
        if count > 3:
            self._world.violate("deliveries", f"attempt {attempt} of {key} is delivered {count} times")

    def _cancel(self, link: "Link", message: messages.Cancel) -> None:
        self.cancels += 1
        batch = number_of(message.batch)
        if message.id is not None:
            question = self._question(link, message)
            stage = getattr(question.message, "stage", "") if question else ""
            if stage != "burning":
                self._world.violate("answers", f"a cancel answers {question}")
        if not self._ledger.over(link.number, batch, message.attempt):
            text = f"attempt {message.attempt} of {link.number, batch} is cancelled and not over"
            self._world.violate("cancels", text)
        self._cancel_now.discard((link.conn, batch, message.attempt))
        self._cancel_due.pop((link.conn, batch, message.attempt), None)

    def _error(self, link: "Link", message: messages.Error) -> None:
        if message.id is None:
            return
        question = self._question(link, message)
        assert question is not None
        report = question.message
        if message.code == "unauthorized":
            self._world.refused(link)
        if not isinstance(report, messages.Received | messages.Progress | messages.Result):
            return
        row = self._ledger.rows.get((link.number, number_of(report.batch)))
        if message.code == "not_found" and row is not None and 1 <= report.attempt <= row.attempt:
            self._world.violate("answers", f"{report} is refused as unknown, durable is {row}")

    # -- what links and transfers do -------------------------------------------------------------

    def superseded(self, link: "Link") -> None:
        """The gateway has closed a link for a newer one."""
        link.questions.clear()
        self.gone(link)

    def gone(self, link: "Link") -> None:
        """A link is over."""
        if self.online.get(link.number) is link:
            del self.online[link.number]

    def streams(self, transfer: "Transfer") -> None:
        """A download may begin: which attempt it is for."""
        device = transfer.link.number
        batch = self._ledger.open.get(device)
        row = self._ledger.rows[device, batch] if batch is not None else None
        if self._world.plan.rivals:
            return  # it must learn of a rival first
        if row is None or batch is None or row.state not in RUNNING_STATES:
            self._world.violate("transfers", f"device {device} may download with {row}")
        else:
            transfer.pair = device, batch, row.attempt

    def chunk(self, transfer: "Transfer") -> None:
        """A chunk is leaving."""
        if transfer.pair is not None and not self._ledger.running(*transfer.pair):
            self._world.violate("transfers", f"a chunk leaves for {transfer.pair}, which is over")

    def must_cancel(self, device: int, batch: int, attempt: int) -> None:
        """The gateway has ended an attempt of its own accord: the device is to be told."""
        link = self.online.get(device)
        if link is not None and link.there:
            self._cancel_due[link.conn, batch, attempt] = self._world.now_ms

    def slots_held(self) -> int:
        """Upgrade messages on their way: decided or sent, and not yet acknowledged."""
        held = 0
        for device, batch in self._ledger.open.items():
            key = device, batch
            decided = self._ledger.decided.get(key)
            link = self.online.get(device)
            if decided is None:
                if link is not None and link.delivered_ms is not None and self._waits(key, link):
                    held += 1
            elif decided.state == State.PUSHED and link is not None:
                held += 1
        return held

    def _waits(self, key: tuple[int, int], link: "Link") -> bool:
        row = self._ledger.rows[key]
        return row.state == State.PUSHED and link.told == (key[1], row.attempt)

    # -- time ------------------------------------------------------------------------------------

    def acknowledgement_overdue(self, key: tuple[int, int], attempt: int) -> None:
        """The gateway says that 10 s have gone by without an acknowledgement."""
        link = self.online.get(key[0])
        sent_ms = None
        if link is not None and link.told == (key[1], attempt):
            sent_ms = link.delivered_ms
        if sent_ms is None or self._world.now_ms - sent_ms < ACKNOWLEDGE_MS:
            self._world.violate("acknowledgement clock", f"{key} was delivered at {sent_ms}, overdue now")

    def deliveries_spent(self, key: tuple[int, int], attempt: int) -> None:
        """The gateway says that three deliveries stayed unanswered."""
        if self._deliveries[*key, attempt] != 3:
            text = f"{key} failed after {self._deliveries[*key, attempt]} deliveries"
            self._world.violate("deliveries", text)

    def restarted(self) -> None:
        """Memory is gone."""
        self.online.clear()
        self._deliveries.clear()
        self._cancel_due.clear()
        self._cancel_now.clear()
        self._pushable_ms.clear()

    def look(self) -> None:
        """What is overdue? Asked at most once a second."""
        world = self._world
        now_ms = world.now_ms
        if now_ms - self._looked_ms < 1_000 or world.down:
            return
        self._looked_ms = now_ms
        self.looks += 1
        for (conn, batch, attempt), since_ms in list(self._cancel_due.items()):
            link = self.links[conn]
            if not link.there or self.online.get(link.number) is not link:
                del self._cancel_due[conn, batch, attempt]
            elif now_ms > since_ms + 100:
                text = f"connection {conn} was not told that attempt {attempt} of batch {batch} is over"
                world.violate("cancels", text)
        since_ms = max(world.store.slow_until_ms, world.started_at_ms, world.woke_at_ms)
        if world.store.busy or now_ms < since_ms + 2 * LATE_MS:
            self._pushable_ms.clear()
            return
        free = self.slots_held() < world.plan.pushes_max
        if not free:
            self._pushable_ms.clear()
        for device, number in self._ledger.open.items():
            self._look_at(device, number, self._ledger.rows[device, number], free, now_ms)
        for number, batch in self._ledger.batches.items():
            if batch.status == BatchStatus.IN_PROGRESS and world.wall_is_known:
                late_ms = world.wall_ms - batch.expires_at_ms
                if late_ms > world.late_ms:
                    world.violate("validity", f"batch {number} should have expired {late_ms} ms ago")

    def _look_at(self, device: int, number: int, row: Row, free: bool, now_ms: int) -> None:
        world = self._world
        link = self.online.get(device)
        state = row.state
        if state == State.UPGRADING:
            late_ms = world.gateway_ms - self._ledger.due_of(row)
            if late_ms > LATE_MS:
                world.violate("time-out clock", f"{device, number} should have timed out {late_ms} ms ago")
        elif link is None or link.welcomed_ms is None:
            self._pushable_ms.pop(device, None)
        elif state == State.PUSHED:
            if link.delivered_ms is not None and now_ms > link.delivered_ms + ACKNOWLEDGE_MS + LATE_MS:
                late_ms = now_ms - link.delivered_ms - ACKNOWLEDGE_MS
                world.violate("acknowledgement clock", f"{device, number} is overdue by {late_ms} ms")
        elif state == State.TO_BE_UPGRADED or row.due_ms > world.gateway_ms:
            self._pushable_ms.pop(device, None)
        elif free and world.wall_is_known and self._is_valid(number):
            since_ms = self._pushable_ms.setdefault(device, now_ms)
            since_ms = max(since_ms, self._ledger.last_push_ms)
            if now_ms - since_ms > PUSH_WITHIN_MS:
                text = f"{device, number} is online, a slot is free, and it is not pushed"
                world.violate("progress", f"{text} for {now_ms - since_ms} ms")

    def _is_valid(self, number: int) -> bool:
        batch = self._ledger.batches[number]
        return self._world.wall_ms < batch.expires_at_ms - self._world.wall_slack_ms

    # -- rest ------------------------------------------------------------------------------------

    def rest(self) -> None:
        """Nothing has happened for a whole sweep: nothing may be left over."""
        self.rests += 1
        world, gateway = self._world, self._world.gateway
        upgrades = gateway.upgrades
        for link in list(gateway.plane.links.values()):
            if link.questions and link.alive and not link.superseded:
                world.violate("answers", f"connection {link.conn} waits for an answer to {link.questions}")
        running = {
            device: number
            for device, number in self._ledger.open.items()
            if self._ledger.rows[device, number].state in RUNNING_STATES
        }
        for device, number in running.items():
            online = self.online.get(device)
            row = self._ledger.rows[device, number]
            if online is not None and online.there and online.told != (number, row.attempt):
                world.violate(
                    "deliveries", f"{device, number} is back and was not told of {row.attempt} again"
                )
        self._judge_memory(upgrades)
        self._leak("presence", set(dict(gateway.presence.items())) - set(self.online))
        self._leak("rows", set(upgrades.rows) - (set(running) & set(self.online)))
        pushed = {device for device in running if self._waiting_row(device, running[device])}
        self._leak("awaiting", upgrades.awaiting - pushed)
        streaming = {device for device, link in self.online.items() if link.transfer is not None}
        self._leak("downloads", set(gateway.transfers.downloads) - (set(running) & streaming))
        self._leak("logging_in", upgrades.logging_in)
        self._leak("pending", upgrades._pending)
        self._leak("dirty", upgrades._dirty)
        self._leak("again", upgrades._again)
        self._leak("later", gateway.sessions.reports._later)
        self._leak("versions", gateway.sessions.reports._versions)
        self._leak("returned", gateway.dispatch._returned)
        working = {n for n, batch in self._ledger.batches.items() if batch.status == BatchStatus.IN_PROGRESS}
        self._leak("batches", set(upgrades.batches) - working)

    def _judge_memory(self, upgrades: Any) -> None:
        """What memory keeps of rows is what is durable, now that nothing is on its way."""
        for device, upgrade in upgrades.rows.items():
            row, durable = upgrade.row, self._ledger.rows[device, upgrade.batch]
            if (row.state, row.attempt, row.due_ms) != (durable.state, durable.attempt, durable.due_ms):
                self._world.violate("memory", f"{device, upgrade.batch} is {row}, durable is {durable}")
        for number, batch in upgrades.batches.items():
            roster = batch.roster
            for device in () if batch.ended else self._ledger.members[number]:
                row = self._ledger.rows[device, number]
                known = roster.get_state(device), roster.get_attempt(device)
                if known != (row.state, row.attempt):
                    self._world.violate(
                        "memory", f"the roster has {known} of {device, number}, which is {row}"
                    )

    def _waiting_row(self, device: int, number: int) -> bool:
        return device in self.online and self._ledger.rows[device, number].state == State.PUSHED

    def _leak(self, name: str, left: Any) -> None:
        if left:
            self._world.violate("leaks", f"{name} holds {left} with nothing going on")

    def judge_waiting(self, number: int, items: list[Any], number_by_name: dict[str, int]) -> None:
        """Whether operators are told the truth about what each device of a batch waits for."""
        world = self._world
        for item in items:
            device = number_by_name.get(item.identifier)
            if device is None:
                continue  # deleted since
            row = self._ledger.rows[device, number]
            if item.state != row.state.label or item.attempt != row.attempt:
                world.violate("waiting_for", f"{item} is shown, durable is {row}")
            expected = self._expected(device, row)
            if item.waiting_for not in expected:
                text = f"{item.identifier} in {number} waits for {item.waiting_for!r}, not {expected}"
                world.violate("waiting_for", text)

    def _expected(self, device: int, row: Row) -> tuple[str | None, ...]:
        link = self.online.get(device)
        if row.ended:
            return (None,)
        if link is None:
            return ("offline",)
        if row.state == State.TO_BE_RETRIED and row.due_ms > self._world.gateway_ms:
            return (retry_due_at(row.due_ms),)
        if row.state in (State.TO_BE_PUSHED, State.TO_BE_RETRIED):
            return ("a push slot",)
        if self._world.gateway.plane.waits_for_slot(link):
            return ("a download slot",)
        return (None,) if row.state == State.UPGRADING else ("the device to start",)
