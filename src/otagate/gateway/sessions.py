"""Sessions: from the plane's events to the rules, and the answers back. The only room that speaks both.

A device logs in by challenge and HMAC; the newest login of a device wins. From then on each event carries
the device's number, so a session needs no object: presence says which connection is the device's, and
whatever another connection of it still says does not count.

A drain's events are handled together: one lookup for all its logins, one for all rows that memory lacks.
Messages of one device are handled in their order.
"""

import hmac
import secrets
from collections.abc import Sequence
from functools import partial

import trio

from otagate import limits, logs, plane
from otagate.gateway.dispatch import Dispatch
from otagate.gateway.journal import Callback, Journal
from otagate.gateway.outbox import Outbox
from otagate.gateway.pacing import Rivals, retry_after_s
from otagate.gateway.reports import Reports
from otagate.gateway.tables import Presence
from otagate.gateway.tls import Certificates
from otagate.gateway.transfers import Transfers
from otagate.gateway.upgrades import Upgrades
from otagate.store.interface import Device, Store, TouchDevices, Upgrade
from otagate.store.sealing import SealError, about_device
from otagate.upgrade.events import ChunkWritten, Returned
from otagate.upgrade.model import RUNNING_STATES
from otagate.wire import messages
from otagate.wire.constants import CloseCode, ErrorCode

log = logs.get("sessions")


class Sessions:
    """Handles the plane's events; the one reader of what connections say before they are sessions."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        presence: Presence,
        outbox: Outbox,
        upgrades: Upgrades,
        dispatch: Dispatch,
        transfers: Transfers,
        *,
        heartbeat_s: int,
    ) -> None:
        self._store = store
        self._journal = journal
        self._presence = presence
        self._outbox = outbox
        self._upgrades = upgrades
        self._dispatch = dispatch
        self._transfers = transfers
        self._heartbeat_s = heartbeat_s
        self._clock = upgrades.clock
        self.reports = Reports(store, presence, outbox, upgrades, transfers)
        self.reports.on_greedy = partial(self.end_session, reason=b"overloaded", code=CloseCode.OVERLOADED)
        self.last_seen: dict[int, int] = {}  # of devices that went offline and are not written yet
        self._next_last_seen_ms = 0
        self._auths = {"": "secret"}  # by product, as they were asked for; nobody has none
        self.certificates = Certificates()  # replaced when the files of [tls] were read
        self._none = trio.Event()
        self.farewell: bytes | None = None  # while the gateway drains: what whoever comes is told
        self.logins = 0
        self.logins_refused = 0
        self.logins_overloaded = 0  # told to come back: too many were under way
        self.takeovers_refused = 0  # told to come back: the device's session was taken over too often
        self._rivals = Rivals()
        # An unknown device must cost what a known one does: it is asked to prove a secret that nobody has.
        nobody = store.sealer.seal(secrets.token_urlsafe(24), about_device("", ""))
        self._nobody = Device(0, "", "", "", nobody, None, False, None, 0)

    # -- events ----------------------------------------------------------------------------------

    async def handle(self, events: Sequence[tuple[int, ...]]) -> None:
        """Handle what a drain returned: what sessions said, then the sessions that end, then the new ones.

        So a last report counts although the connection ended right behind it, or its device is back.
        """
        hellos: list[tuple[int, messages.Hello, bytes, bytes]] = []
        closed: list[tuple[int, int]] = []
        at = 0
        while (at := self.reports.take_progress(events, at)) < len(events):
            event = events[at]
            at += 1
            kind = event[0]
            if kind == plane.MESSAGE:
                _, conn, device, payload = event
                if self._presence.get(device) == conn:
                    self.reports.receive(device, conn, payload)  # type: ignore[arg-type]
            elif kind == plane.HELLO:
                _, conn, payload, nonce, certificate = event
                hello = self._decode_hello(conn, payload)  # type: ignore[arg-type]
                if hello is not None:
                    hellos.append((conn, hello, nonce, certificate))  # type: ignore[arg-type]
            elif kind == plane.CLOSED:
                closed.append((event[1], event[2]))
            elif kind == plane.STARTED:
                self._started(event[1], event[2], event[3])
            elif kind == plane.ENDED:
                self._transfers.ended(event[2], event[1], event[3], event[4])
        await self.reports.finish()
        for conn, device in closed:
            self._closed(conn, device)
        if hellos:
            await self._log_in(hellos)

    def _closed(self, conn: int, device: int) -> None:
        self._upgrades.logging_in.discard(conn)
        if not device or not self._presence.leave(device, conn):
            return
        if not len(self._presence):
            self._none.set()
        self.last_seen[device] = self._clock.now_ms()
        self._transfers.session_ended(device)
        self._upgrades.session_ended(device)
        self._upgrades.connection_changed(device)

    def _started(self, conn: int, device: int, transfer: int) -> None:
        download = self._transfers.started(device, conn, transfer)
        upgrade = self._upgrades.rows.get(device)
        if download is not None and upgrade is not None and upgrade.batch == download.batch:
            self._upgrades.decide(upgrade, ChunkWritten(download.attempt), conn=conn)

    # -- login -----------------------------------------------------------------------------------

    def _decode_hello(self, conn: int, payload: bytes) -> messages.Hello | None:
        """The hello, or None after the error was sent."""
        try:
            message = messages.decode_device_message(payload)
        except messages.BrokenMessage as error:
            self._outbox.send(conn, messages.Error(code=ErrorCode.BAD_MESSAGE, message=str(error)))
            self._outbox.close(conn, CloseCode.INVALID_DATA)
            return None
        except messages.BadMessage as error:
            self._outbox.send(conn, self.reports.bad_message(error))
            self._outbox.retry_hello(conn)
            return None
        if type(message) is not messages.Hello:
            refusal = messages.Error(
                id=message.id, code=ErrorCode.CONFLICT, message="log in with hello first"
            )
            self._outbox.send(conn, refusal)
            self._outbox.retry_hello(conn)
            return None
        return message

    async def _log_in(self, hellos: Sequence[tuple[int, messages.Hello, bytes, bytes]]) -> None:
        if self.farewell is not None:
            for conn, *_ in hellos:
                self._outbox.send_encoded(conn, self.farewell)
                self._outbox.close(conn, 0)
            return
        room = max(limits.logins_under_way_max - len(self._upgrades.logging_in), 0)
        for conn, hello, nonce, _ in hellos[room:]:
            self.logins_overloaded += 1
            self._send_away(conn, hello, "too many logins", nonce, limits.login_retry_after_s, 3)
        hellos = hellos[:room]
        names = [(hello.product, hello.device) for _, hello, *_ in hellos]
        records = await self._store.lookup_devices(names)
        good: list[tuple[int, messages.Hello, bytes, Device]] = []
        for (conn, hello, nonce, certificate), record in zip(hellos, records, strict=True):
            proved = await self._proves(hello, nonce, certificate, record or self._nobody)
            if record is not None and proved:
                if self._presence.get(record.number) and self._is_rival(record.number):
                    self.takeovers_refused += 1
                    words = "this device logs in too often"
                    self._send_away(conn, hello, words, nonce, limits.takeover_retry_after_s, 2)
                else:
                    good.append((conn, hello, nonce, record))
            else:
                self._refuse(conn, hello)
        # Presence first, the upgrade after it: a push decided in between finds the device.
        for conn, _, _, record in good:
            self._enter(conn, record.number)
        newest = await self._upgrades.newest([record.number for *_, record in good])
        for (conn, hello, nonce, record), upgrade in zip(good, newest, strict=True):
            device = record.number
            if self._presence.get(device) != conn:
                continue  # a newer login of the same drain
            if upgrade is not None and upgrade.row.state in RUNNING_STATES and self._upgrades.known(upgrade):
                self._upgrades.rows.setdefault(device, upgrade)
            known = self.reports.known_version(device, record)
            self.reports.report_version(device, hello.version, known, upgrade, conn=conn, answer=None)
            welcome = partial(self._welcome, conn, hello, nonce, record, upgrade)
            self._upgrades.after_pending(device, welcome)

    async def _proves(self, hello: messages.Hello, nonce: bytes, certificate: bytes, record: Device) -> bool:
        """What the device shows must be right, and be all that its product asks for."""
        right = self._mac_is_right(hello, nonce, record)
        named = certificate != b"" and self.certificates.name(certificate, hello.product, hello.device)
        if (hello.mac is not None and not right) or (certificate and not named):
            return False
        auth = self._auths.get(record.product)
        if auth is None:
            product = await self._store.get_product(record.product)
            auth = self._auths[record.product] = product.auth if product else "secret"
        return (right or auth == "certificate") and (named or auth == "secret")

    def _secret_of(self, record: Device) -> str:
        return self._store.sealer.open(record.sealed, about_device(record.product, record.identifier))

    def _mac_is_right(self, hello: messages.Hello, nonce: bytes, record: Device) -> bool:
        try:
            secret = self._secret_of(record)
        except SealError:  # somebody wrote to the store
            log.limited("secret_unreadable", product=record.product, device=record.identifier)
            return False
        right = messages.login_mac(secret, nonce.decode(), hello.product, hello.device)
        return hmac.compare_digest(right, hello.mac or "")

    def _refuse(self, conn: int, hello: messages.Hello) -> None:
        """The same words whether the device is unknown or its mac is wrong."""
        self.logins_refused += 1
        log.limited("login_refused", product=hello.product, device=hello.device)
        refusal = messages.Error(
            id=hello.id, code=ErrorCode.UNAUTHORIZED, message="unknown device or wrong mac"
        )
        self._outbox.send(conn, refusal)
        self._outbox.close(conn, CloseCode.UNAUTHORIZED, b"unauthorized")

    def _is_rival(self, device: int) -> bool:
        return self._rivals.too_many(device, self._clock.now_ms())

    def _send_away(
        self, conn: int, hello: messages.Hello, words: str, nonce: bytes, least_s: int, factor: int
    ) -> None:
        """Come back in `least_s` to `factor` times as many seconds."""
        after_s = retry_after_s(least_s, factor * least_s, nonce)
        refusal = messages.Error(id=hello.id, code=ErrorCode.OVERLOADED, message=words, retry_after_s=after_s)
        self._outbox.send(conn, refusal)
        self._outbox.close(conn, CloseCode.OVERLOADED, b"overloaded")

    def _enter(self, conn: int, device: int) -> None:
        before = self._presence.enter(device, conn)
        self._upgrades.logging_in.add(conn)
        if before:
            self._rivals.note(device, self._clock.now_ms())
            self._upgrades.logging_in.discard(before)
            self._outbox.close(before, CloseCode.SUPERSEDED, b"superseded")
            self._transfers.session_ended(device)
            self._upgrades.session_ended(device)

    def _welcome(
        self, conn: int, hello: messages.Hello, nonce: bytes, record: Device, upgrade: Upgrade | None
    ) -> None:
        """What the hello reported is durable: the session begins. `upgrade`: its newest, as read at login."""
        device = record.number
        self._upgrades.logging_in.discard(conn)
        if self._presence.get(device) != conn:
            return  # superseded, or gone, while the commit was under way
        self.logins += 1
        self._upgrades.connection_changed(device)
        mac = None
        if hello.nonce is not None:
            mac = messages.gateway_mac(self._secret_of(record), hello.nonce, nonce.decode())
        self._outbox.admit(conn, device)
        self._outbox.send(
            conn,
            messages.Welcome(
                server_time=self._clock.validity_now_ms() // 1000,  # the same clock as `expires_at`
                heartbeat_s=self._heartbeat_s,
                mac=mac,
                id=hello.id,
            ),
        )
        running = self._upgrades.rows.get(device)
        if running is not None and running.row.state in RUNNING_STATES:
            if not self._upgrades.is_being_pushed(device):
                deliveries = self._upgrades.deliveries(running)
                self._upgrades.decide(running, Returned(deliveries), conn=conn)
        elif upgrade is not None and not upgrade.row.ended:
            self._dispatch.consider(device, upgrade.batch)

    async def wait_none(self) -> None:
        """Wait until no device is online (when the gateway drains)."""
        while len(self._presence):
            self._none = trio.Event()
            await self._none.wait()

    # -- last seen -------------------------------------------------------------------------------

    def flush_last_seen(self, now_ms: int, *, all_of_them: bool = False) -> None:
        """Write when devices were last seen, coalesced: losing a minute of it in a crash harms nobody."""
        if now_ms < self._next_last_seen_ms and not all_of_them:
            return
        self._next_last_seen_ms = now_ms + limits.last_seen_flush_ms
        seen, self.last_seen = list(self.last_seen.items()), {}
        for at in range(0, len(seen), limits.slice_devices):
            self._journal.submit(Callback((TouchDevices(seen[at : at + limits.slice_devices]),), _nothing))

    def end_session(self, device: int, reason: bytes, code: CloseCode = CloseCode.UNAUTHORIZED) -> None:
        """End the device's session, if it has one (its secret was rotated, it was deleted): whatever its
        connection still says while it closes does not count."""
        conn = self._presence.get(device)
        if conn:
            self._outbox.close(conn, code, reason)
            self._closed(conn, device)

    def forget_product(self, key: str) -> None:
        """The product was deleted; another one may take its key with another `auth`."""
        self._auths.pop(key, None)


def _nothing() -> None:
    return None
