"""The gateway: wires the rooms together, pumps the plane, starts and drains.

The pump is the one task that reads devices: it waits until the plane has something or a deadline comes,
drains a batch of events, has them handled, does what is due, and hands the answers back. Commits settle in
the journal's task, pushes are decided in dispatch's; both put their commands through the same outbox.

Starting: open the store, sweep the images, take up the batches, then listen. Stopping (SIGTERM): stop
accepting, say goodbye to every device, let what was read be answered, close the store; bounded by
`drain_timeout_s`, and cut short by a second SIGTERM.
"""

import gc
import math
import os
import secrets
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from otagate import limits, logs, plane
from otagate.config import Configuration
from otagate.config_texts import Address
from otagate.errors import ConfigurationError, StoreError
from otagate.gateway.access import Access, hash_of
from otagate.gateway.acts import GATEWAY
from otagate.gateway.batches import Batches
from otagate.gateway.board import Board
from otagate.gateway.clock import Clock
from otagate.gateway.counters import Counters
from otagate.gateway.deadlines import Deadlines
from otagate.gateway.dispatch import Dispatch
from otagate.gateway.health import Health
from otagate.gateway.housekeeping import Housekeeping
from otagate.gateway.journal import Journal
from otagate.gateway.notify import ADMIN as ADMIN_SOCKET
from otagate.gateway.notify import DEVICES as DEVICE_SOCKETS
from otagate.gateway.notify import Notifier, take_listeners, take_notifier
from otagate.gateway.observer import Observer
from otagate.gateway.outbox import Outbox
from otagate.gateway.overview import Overview
from otagate.gateway.posting import Poster
from otagate.gateway.service import Service
from otagate.gateway.sessions import Sessions
from otagate.gateway.stalls import Stalls
from otagate.gateway.tables import Presence
from otagate.gateway.tls import (
    TICKET_KEYS_FILE,
    keep_tickets_fresh,
    operators_context,
    secure,
    security_of,
)
from otagate.gateway.transfers import Transfers
from otagate.gateway.upgrades import Upgrades
from otagate.gateway.webhooks import Webhooks
from otagate.store.blobs import Blobs
from otagate.store.interface import Store
from otagate.store.lmdb import open_store
from otagate.store.migrations import FIRST_TOKEN
from otagate.store.operators import ADMIN, AddToken, AuditNote, Token
from otagate.wire import messages

log = logs.get("gateway")

TOKEN_FILE = "admin-token"  # noqa: S105 - a name, no secret
OTHERS_STEPS = 4  # between two turns of a busy plane; see `_pump`
GOODBYE_SLICE = 1_000
PATIENCE_SHARE = 0.9  # of the time to drain; the rest is for writing what only memory has

Wait = Callable[[], Awaitable[None]]
WaitReady = Callable[[int], Awaitable[None]]
ServeAdmin = Callable[..., Awaitable[Any]]


class Gateway:
    """The rooms of one gateway, wired. `plane_face` is a plane; a simulated one in tests."""

    def __init__(
        self,
        configuration: Configuration,
        store: Store,
        plane_face: "plane.Plane",
        clock: Clock,
        path_of: Callable[[str], Path],
        nursery: trio.Nursery,
        notifier: Notifier | None = None,
    ) -> None:
        self.configuration = configuration
        self.store = store
        self.plane = plane_face
        self.clock = clock
        self.nursery = nursery
        self.access = Access(clock.now_ms)
        self.presence = Presence()
        self.outbox = Outbox(plane_face)
        self.counters = Counters()
        self.board = Board()
        observer = Observer(self.counters, self.board)
        self.journal = Journal(store, self._group_settled, observer.committed)
        self.upgrades = Upgrades(store, self.journal, self.presence, self.outbox, clock, self.board)
        self.upgrades.acknowledge_timeout_ms = configuration.upgrade.acknowledge_timeout_s * 1000
        self.upgrades.chunk_bytes = configuration.device.chunk_bytes
        self.dispatch = Dispatch(self.upgrades, configuration.device.pushes_max)
        self.transfers = Transfers(self.outbox, path_of, nursery)
        self.batches = Batches(store, self.journal, self.upgrades, self.dispatch, nursery)
        self.sessions = Sessions(
            store,
            self.journal,
            self.presence,
            self.outbox,
            self.upgrades,
            self.dispatch,
            self.transfers,
            heartbeat_s=configuration.device.heartbeat_s,
        )
        grace_ms = configuration.upgrade.restart_grace_s * 1000
        self.deadlines = Deadlines(self.upgrades, self.dispatch, grace_ms)
        self.deadlines.on_sweep.append(self.sessions.flush_last_seen)
        self.housekeeping = Housekeeping(self.access, self.journal, nursery.start_soon)
        self.deadlines.on_sweep.append(self.housekeeping.sweep)
        poster = Poster(store.sealer, lambda: clock.validity_now_ms() / 1000)
        self.webhooks = Webhooks(store, self.journal, poster, clock.now_ms)
        stalled_ms = configuration.webhook.stalled_minutes * 60_000
        self.stalls = Stalls(self.upgrades, self.webhooks, stalled_ms, nursery.start_soon)
        self.deadlines.on_sweep.append(self.stalls.sweep)
        self.deadlines.on_sweep.append(lambda now_ms: logs.report_suppressed())
        self.upgrades.on_stop_transfer = self.transfers.stop_attempt
        self.upgrades.on_batch_completed = lambda batch: self.batches.image_maybe_unused(
            batch.firmware_sha256
        )
        self.batches.on_image_unused = self.transfers.forget_image
        self.overview = Overview(self)
        self.health = Health(self, notifier or Notifier())
        self.deadlines.on_sweep.append(self.overview.sample)
        self.operators_tls: ssl.SSLContext | None = None  # of their new connections
        self.listening = False
        self.draining = False

    def _group_settled(self) -> None:
        self.upgrades.group_settled()
        self.outbox.flush()
        self.board.publish()
        if self.webhooks:
            self.webhooks.look()

    async def take_up(self) -> None:
        """Rebuild memory from the store. Before the first device is read."""
        self.access.load(await self.store.tokens())
        grace_ms = self.configuration.upgrade.restart_grace_s * 1000
        await self.batches.take_up(self.clock.now_ms(), grace_ms)

    async def run(self, wait_ready: WaitReady | None = None) -> None:
        """Work until cancelled. Raises CommitFailed.

        `wait_ready` waits for the plane's descriptor, for so many milliseconds at most.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.journal.run)
            nursery.start_soon(self.dispatch.run)
            nursery.start_soon(self.webhooks.run)
            nursery.start_soon(self._pump, wait_ready or self._wait_readable)

    async def _wait_readable(self, wait_ms: int) -> None:
        self.plane.wake_after(wait_ms)
        await trio.lowlevel.wait_readable(self.plane.fileno())

    async def _pump(self, wait_ready: WaitReady) -> None:
        self.deadlines.start()
        while True:
            await self.journal.wait_room()
            asked_s = trio.current_time()
            wait_ms = self.deadlines.next_ms() - self.clock.now_ms()
            if self.plane.pending or wait_ms <= 0:
                # Devices can keep the plane busy without end, 4 ms a turn and more, and an operator's
                # request takes some twenty steps: 66 ms in a flood of pings with one a turn, 21 with four.
                for _ in range(OTHERS_STEPS):
                    await trio.lowlevel.checkpoint()
                began_s = trio.current_time()
                self.counters.lateness_seconds.observe(began_s - asked_s + max(-wait_ms, 0) / 1000)
            else:
                await wait_ready(wait_ms)
                began_s = trio.current_time()
                late_s = began_s - asked_s - wait_ms / 1000
                if late_s >= 0:
                    self.counters.lateness_seconds.observe(late_s)
            await self.sessions.handle(self.plane.drain())
            # the answers of this drain leave together, before anything slower is begun
            self.outbox.flush()
            self.board.publish()
            if self.clock.now_ms() >= self.deadlines.next_ms():
                await self.deadlines.tick()
                self.outbox.flush()
            ended_s = trio.current_time()
            self.counters.turn_seconds.observe(ended_s - began_s)
            self.health.turned(ended_s)

    # -- asked by the service --------------------------------------------------------------------

    def end_session(self, device: int, reason: bytes) -> None:
        """Close the device's live session, if it has one: it has to log in anew."""
        self.sessions.end_session(device, reason)
        self.outbox.flush()

    def seen_ms(self, device: int) -> int:
        """When the last frame of an online device arrived, UTC ms."""
        ago_ms = self.plane.last_seen_ms(self.presence.get(device))
        return self.clock.now_ms() - max(ago_ms, 0)

    # -- stopping --------------------------------------------------------------------------------

    async def drain(self, patience_s: float = math.inf, wait_operators: Wait | None = None) -> bool:
        """Say goodbye to every device, let everything that was read be answered, write what is in memory.

        After `patience_s` nobody is waited for any more. Returns whether all had gone by then.
        """
        self.draining = True
        self.board.close()
        self.plane.unlisten()
        goodbye = messages.encode(
            messages.Goodbye(retry_after_s=self.configuration.device.goodbye_retry_after_s)
        )
        self.sessions.farewell = goodbye
        online = self.presence.items()
        for at in range(0, len(online), GOODBYE_SLICE):
            for _, conn in online[at : at + GOODBYE_SLICE]:
                self.outbox.send_encoded(conn, goodbye)
                self.outbox.close(conn, 0)
            self.outbox.flush()
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(patience_s) as patience:
            await self.sessions.wait_none()
            if wait_operators is not None:
                await wait_operators()
        self.sessions.flush_last_seen(self.clock.now_ms(), all_of_them=True)
        self.upgrades.flush_progress()
        self.housekeeping.flush_used()
        await self.journal.wait_idle()
        return not patience.cancelled_caught


# -- the process -------------------------------------------------------------------------------------


def listen(address: Address, backlog: int = 4096) -> socket.socket:
    """A listening, non-blocking TCP socket. ConfigurationError names the address that cannot be had."""
    try:
        info = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(info[0], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {address}: {error.strerror or error}") from error
    return listener


async def ensure_admin(gateway: Gateway, data_dir: Path) -> None:
    """See that somebody can make tokens: a store without a good token of role admin gets one.

    Its clear text is left in DATA/admin-token (0600); on the first start it is named "first".
    """
    if gateway.access.has_admin():
        return
    clear = secrets.token_urlsafe(32)
    path = data_dir / TOKEN_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, 0o600)  # the file may have stood there with other rights
            file.write(clear + "\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error
    # only now the hash: a crash in between makes another token, never a hash whose token nobody has
    now_ms = gateway.clock.now_ms()
    name = f"{FIRST_TOKEN} {now_ms}" if gateway.access.has_name(FIRST_TOKEN) else FIRST_TOKEN
    change = AddToken(name, ADMIN, hash_of(clear), now_ms)

    def note(token: Token) -> AuditNote:
        return AuditNote(token.id, {"name": token.name, "role": token.role})

    audited = GATEWAY.wrap(change, now_ms, "token.create", note, lambda token: token)
    await gateway.journal.write(audited, gateway.access.keep)
    log.info("admin_token_made", file=str(path))


async def serve(
    configuration: Configuration,
    serve_admin: ServeAdmin,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a gateway until SIGTERM or SIGINT. Raises ConfigurationError, StoreError.

    `serve_admin` is admin.server.serve: admin stands above this room, so it is handed in. `task_status` is
    told when both listeners accept.
    """
    data = configuration.data
    store = open_store(data.dir, key_file=data.key_file, map_bytes=data.map_bytes)
    try:
        await _serve(configuration, store, serve_admin, task_status)
    finally:
        await store.close()


def ease_collections() -> None:
    """What has been made until now lives as long as the process: no collection of garbage need look at it
    again. With it a full one took up to 49 ms, in which nobody was served."""
    gc.collect()
    gc.freeze()


async def _serve(
    configuration: Configuration,
    store: Store,
    serve_admin: ServeAdmin,
    task_status: trio.TaskStatus[None],
) -> None:
    data_dir = configuration.data.dir
    notifier = take_notifier(os.environ)
    async with trio.open_nursery() as nursery:
        blobs = Blobs(data_dir, configuration.data.disk_free_min, store.image_used)
        await blobs.open()
        await blobs.sweep(await store.images())
        given = take_listeners(os.environ)
        device_listeners = given.get(DEVICE_SOCKETS) or [listen(configuration.device.listen)]
        admin_listener = (given.get(ADMIN_SOCKET) or [listen(configuration.admin.listen)])[0]
        admin_name = _name(admin_listener)
        clock = Clock(await store.newest_time_ms())
        device_plane = make_plane(configuration)
        gateway = Gateway(configuration, store, device_plane, clock, blobs.path, nursery, notifier)
        _secure(gateway)
        await gateway.take_up()
        nursery.start_soon(gateway.run)
        if configuration.device.tls != "off":
            nursery.start_soon(keep_tickets_fresh, device_plane, data_dir / TICKET_KEYS_FILE)
        await ensure_admin(gateway, data_dir)
        service = Service(gateway, blobs)
        stopping = trio.Event()
        operators_gone = trio.Event()

        async def serve_operators(task_status: trio.TaskStatus[None]) -> None:
            fd = admin_listener.detach()
            await serve_admin(
                service,
                fd,
                shutdown_trigger=stopping.wait,
                tls=lambda: gateway.operators_tls,
                task_status=task_status,
            )
            operators_gone.set()

        await nursery.start(serve_operators)
        for listener in device_listeners:
            device_plane.listen(listener.fileno(), security_of(configuration))
        ease_collections()
        gateway.listening = True
        log.info(
            "serving",
            devices=" ".join(map(_name, device_listeners)),
            admin=admin_name,
            data=str(data_dir),
            batches=len(gateway.upgrades.batches),
        )
        notifier.tell("READY=1", "STATUS=serving")
        task_status.started()
        await _wait_signal(nursery, partial(_reload, gateway))
        log.info("draining", sessions=len(gateway.presence))
        notifier.tell("STOPPING=1", "STATUS=draining")
        for listener in device_listeners:
            listener.close()
        complete = False
        timeout_s = configuration.admin.drain_timeout_s
        with trio.move_on_after(timeout_s):
            stopping.set()
            complete = await gateway.drain(timeout_s * PATIENCE_SHARE, operators_gone.wait)
        log.info("stopped", complete=complete)
        nursery.cancel_scope.cancel()
        device_plane.close()
        notifier.close()


def make_plane(configuration: Configuration) -> "plane.Plane":
    """A plane with the bounds of the configuration."""
    device = configuration.device
    made = plane.Plane(
        connections_max=device.connections_max,
        strangers_per_address_max=device.strangers_per_address_max,
        transfers_max=device.transfers_max,
        heartbeat_timeout_ms=int(limits.heartbeats_missed * device.heartbeat_s * 1000),
        handshake_timeout_ms=device.handshake_timeout_s * 1000,
        hello_timeout_ms=device.hello_timeout_s * 1000,
        write_stall_timeout_ms=device.write_stall_timeout_s * 1000,
        http_head_bytes_max=device.http_head_bytes_max,
        hello_bytes_max=device.hello_bytes_max,
        message_bytes_max=device.message_bytes_max,
    )
    made.trust_proxies(device.proxy_trusted.networks)
    return made


def _secure(gateway: Gateway) -> None:
    """Read the certificates, for new connections. Raises ConfigurationError; then all is as before."""
    operators = operators_context(gateway.configuration)
    gateway.sessions.certificates = secure(gateway.configuration, gateway.plane)
    gateway.operators_tls = operators


def _reload(gateway: Gateway) -> None:
    """Read them anew."""
    try:
        _secure(gateway)
    except ConfigurationError as error:
        log.error("not_reloaded", message=str(error))
    else:
        configuration = gateway.configuration
        log.info("reloaded", devices=configuration.device.tls, admin=configuration.admin.tls)


async def _wait_signal(nursery: trio.Nursery, reload: Callable[[], None]) -> None:
    """Return at the first SIGTERM or SIGINT; the second one ends the process at once. SIGHUP reloads."""
    ready = trio.Event()

    async def listen_to_signals() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            count = 0
            async for number in signals:
                if number == signal.SIGHUP:
                    reload()
                    continue
                count += 1
                if count == 1:
                    ready.set()
                else:
                    log.warning("stopped_at_once", signal=signal.Signals(number).name)
                    os._exit(128 + number)

    nursery.start_soon(listen_to_signals)
    await ready.wait()


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
