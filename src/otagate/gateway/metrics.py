"""What GET /metrics tells of the gateway: the families, and the one place that reads all counters.

Nothing is computed ahead: a scrape reads what the rooms count anyway, in 2 to 3 ms.
"""

import os
import platform
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import trio

import otagate
from otagate.gateway.health import disk_free_bytes
from otagate.openmetrics import Family, Sample
from otagate.upgrade.counts import Counts
from otagate.upgrade.model import OPEN_STATES

if TYPE_CHECKING:
    from otagate.gateway.server import Gateway

BUILD = Family("otagate_build", "info", "The version that runs.", ("version", "python"))
READY = Family("otagate_ready", "gauge", "A check of /readyz: 1 when it is good.", ("check",))
UPTIME = Family("otagate_uptime_seconds", "gauge", "Since the gateway started.", unit="seconds")

# -- connections
CONNECTIONS = Family(
    "otagate_connections",
    "gauge",
    "Connections of devices now; `opening` ones have not said yet which link they speak.",
    ("link",),
)
CONNECTIONS_TLS = Family("otagate_connections_tls", "gauge", "Of the connections of devices those in TLS.")
CONNECTIONS_MAX = Family(
    "otagate_connections_max", "gauge", "Connections above which no more are accepted (configuration)."
)
ACCEPTED = Family("otagate_connections_accepted", "counter", "TCP connections accepted.")
ACCEPT_FAILURES = Family(
    "otagate_accept_failures", "counter", "Accepts that failed, for lack of descriptors or memory."
)
OPENED = Family("otagate_connections_opened", "counter", "Connections whose handshake was good.", ("link",))
ENDED = Family(
    "otagate_connections_ended",
    "counter",
    "Connections that are over, by cause: `refused_…` and `…_timeout` never became sessions; `silent`, "
    "`stalled`, `overflowed`, `broken` and `revoked` were ended by the gateway.",
    ("cause",),
)
TLS_HANDSHAKES = Family(
    "otagate_tls_handshakes",
    "counter",
    "TLS handshakes of devices: `full`, `resumed` by a session ticket, or `failed`.",
    ("result",),
)
STRANGERS_REFUSED = Family(
    "otagate_strangers_refused",
    "counter",
    "Connections closed at their accept: too many of their address had not logged in.",
)
SESSIONS = Family("otagate_sessions", "gauge", "Devices online: logged in on a live connection.")
LOGINS = Family("otagate_logins", "counter", "Logins that succeeded.")
LOGINS_REFUSED = Family("otagate_logins_refused", "counter", "Logins refused: unknown device or wrong mac.")
LOGINS_SENT_AWAY = Family(
    "otagate_logins_sent_away",
    "counter",
    "Logins told to come back later: too many wait for their commit (`overloaded`), or boards with one "
    "identity take its session from each other (`rival`).",
    ("cause",),
)
CUT_OFF = Family(
    "otagate_sessions_cut_off",
    "counter",
    "Sessions ended since their device went on asking while its answers waited for a commit.",
)
MESSAGES = Family("otagate_messages", "counter", "Messages of devices (in), and to them.", ("direction",))
PINGS = Family("otagate_pings", "counter", "Pings of devices, each answered.")
BYTES = Family(
    "otagate_device_bytes",
    "counter",
    "Bytes of devices (in), and to them, with firmware.",
    ("direction",),
    unit="bytes",
)

# -- downloads
STREAMED = Family("otagate_streamed_bytes", "counter", "Bytes of firmware given to the kernel.", unit="bytes")
TRANSFERS = Family("otagate_transfers", "gauge", "Downloads that run, or wait for their turn.", ("state",))
TRANSFERS_STARTED = Family("otagate_transfers_started", "counter", "Downloads whose first byte left.")
TRANSFERS_ENDED = Family("otagate_transfers_ended", "counter", "Downloads that are over, whole or not.")

# -- upgrades
TRANSITIONS = Family(
    "otagate_transitions",
    "counter",
    "Device upgrades that moved, by the state that they reached and why. Those that the end of their batch "
    "ended are not counted one by one.",
    ("state", "cause"),
)
BATCHES = Family("otagate_batches_in_progress", "gauge", "Batches in progress.")
OPEN_UPGRADES = Family(
    "otagate_open_upgrades", "gauge", "Device upgrades of batches in progress, by open state.", ("state",)
)
PUSHES = Family("otagate_pushes_awaiting", "gauge", "Upgrade messages sent and not yet acknowledged.")
PUSHES_MAX = Family("otagate_pushes_max", "gauge", "Of those as many as there may be (configuration).")
OVERDUE = Family(
    "otagate_deadline_overdue_seconds",
    "gauge",
    "By how much the earliest deadline of a batch (time-out, retry, validity) is past; 0 when none is.",
    unit="seconds",
)

# -- commits and the loop
COMMITS = Family("otagate_commit_seconds", "histogram", "A commit, from begin to durable.", unit="seconds")
COMMIT_CHANGES = Family("otagate_commit_changes", "histogram", "Changes that one commit made durable.")
JOURNAL = Family("otagate_journal_entries", "gauge", "Entries that wait for a commit.")
LATENESS = Family(
    "otagate_loop_lateness_seconds",
    "histogram",
    "How late the pump of devices ran after it was due: what everything else on the loop costs it.",
    unit="seconds",
)
TURNS = Family(
    "otagate_turn_seconds",
    "histogram",
    "One turn of the pump: a drain of devices, the decisions, the answers.",
    unit="seconds",
)

# -- store, disk, process
MAP_BYTES = Family("otagate_store_map_bytes", "gauge", "The most that the store can hold.", unit="bytes")
STORE_BYTES = Family(
    "otagate_store_used_bytes",
    "gauge",
    "Of the store's map in use, with pages that were freed inside it.",
    unit="bytes",
)
DISK_FREE = Family("otagate_disk_free_bytes", "gauge", "Free on the disk of the data folder.", unit="bytes")
DISK_FREE_MIN = Family(
    "otagate_disk_free_min_bytes",
    "gauge",
    "Below it uploads, new batches and bulk registrations are refused (configuration).",
    unit="bytes",
)
FDS = Family("otagate_open_fds", "gauge", "File descriptors in use.")
FDS_MAX = Family("otagate_max_fds", "gauge", "File descriptors that there may be.")
RESIDENT = Family("otagate_resident_memory_bytes", "gauge", "Memory in use (resident).", unit="bytes")
CPU = Family("otagate_cpu_seconds", "counter", "Processor time, all threads.", unit="seconds")

# -- operators
SUBSCRIBERS = Family("otagate_events_subscribers", "gauge", "Streams of events that are open.")
WEBHOOK_OUTBOX = Family(
    "otagate_webhook_outbox_entries",
    "gauge",
    "Deliveries that wait for a webhook.",
    ("webhook",),
)
WEBHOOK_DROPPED = Family(
    "otagate_webhook_dropped",
    "counter",
    "Deliveries lost because the outbox of a webhook was full.",
    ("webhook",),
)

FAMILIES = tuple(family for family in list(globals().values()) if isinstance(family, Family))


async def collect(gateway: "Gateway") -> list[Sample]:
    """Every sample that the gateway has."""
    samples = [
        Sample(BUILD, 1, (otagate.__version__, platform.python_version())),
        *_checks(gateway),
        *_connections(gateway),
        *_work(gateway),
        *_store(gateway),
        *_process(),
    ]
    async for sample in _batches(gateway):
        samples.append(sample)
    for webhook in await gateway.store.webhooks():
        samples.append(Sample(WEBHOOK_OUTBOX, webhook.pending, (webhook.id,)))
        samples.append(Sample(WEBHOOK_DROPPED, webhook.dropped, (webhook.id,)))
    return samples


def _checks(gateway: "Gateway") -> Iterator[Sample]:
    yield Sample(UPTIME, gateway.overview.uptime_s)
    for check in gateway.health.ready():
        yield Sample(READY, int(check.ok), (check.name,))


def _connections(gateway: "Gateway") -> Iterator[Sample]:
    now = gateway.plane.statistics()
    known = now["connections_websocket"] + now["connections_tcp"]
    yield Sample(CONNECTIONS, now["connections_websocket"], ("websocket",))
    yield Sample(CONNECTIONS, now["connections_tcp"], ("tcp",))
    yield Sample(CONNECTIONS, now["connections"] - known, ("opening",))
    yield Sample(CONNECTIONS_TLS, now["connections_tls"])
    yield Sample(CONNECTIONS_MAX, gateway.configuration.device.connections_max)
    yield Sample(ACCEPTED, now["accepted"])
    yield Sample(ACCEPT_FAILURES, now["accept_failures"])
    yield Sample(STRANGERS_REFUSED, now["refused_strangers"])
    yield Sample(OPENED, now["opened_websocket"], ("websocket",))
    yield Sample(OPENED, now["opened_tcp"], ("tcp",))
    for name, count in now.items():
        if name.startswith("ended_"):
            yield Sample(ENDED, count, (name.removeprefix("ended_"),))
    yield Sample(TLS_HANDSHAKES, now["tls_handshakes"] - now["tls_resumptions"], ("full",))
    yield Sample(TLS_HANDSHAKES, now["tls_resumptions"], ("resumed",))
    yield Sample(TLS_HANDSHAKES, now["ended_tls"], ("failed",))
    yield Sample(SESSIONS, len(gateway.presence))
    yield Sample(LOGINS, gateway.sessions.logins)
    yield Sample(LOGINS_REFUSED, gateway.sessions.logins_refused)
    yield Sample(LOGINS_SENT_AWAY, gateway.sessions.logins_overloaded, ("overloaded",))
    yield Sample(LOGINS_SENT_AWAY, gateway.sessions.takeovers_refused, ("rival",))
    yield Sample(CUT_OFF, gateway.sessions.reports.cut_off)
    yield Sample(PINGS, now["pings"])
    for direction in ("in", "out"):
        yield Sample(MESSAGES, now[f"messages_{direction}"], (direction,))
        yield Sample(BYTES, now[f"bytes_{direction}"], (direction,))
    yield Sample(STREAMED, now["bytes_streamed"])
    for state in ("running", "waiting"):
        yield Sample(TRANSFERS, now[f"transfers_{state}"], (state,))
    yield Sample(TRANSFERS_STARTED, now["transfers_started"])
    yield Sample(TRANSFERS_ENDED, now["transfers_ended"])


def _work(gateway: "Gateway") -> Iterator[Sample]:
    counters = gateway.counters
    for state, cause, count in counters.transitions():
        yield Sample(TRANSITIONS, count, (state.label, cause.label))
    yield Sample(PUSHES, len(gateway.upgrades.awaiting))
    yield Sample(PUSHES_MAX, gateway.configuration.device.pushes_max)
    yield Sample(OVERDUE, gateway.deadlines.overdue_ms() / 1000)
    yield Sample(COMMITS, counters.commit_seconds)
    yield Sample(COMMIT_CHANGES, counters.commit_changes)
    yield Sample(JOURNAL, gateway.journal.queued)
    yield Sample(LATENESS, counters.lateness_seconds)
    yield Sample(TURNS, counters.turn_seconds)
    yield Sample(SUBSCRIBERS, gateway.board.subscribers)


def _store(gateway: "Gateway") -> Iterator[Sample]:
    data = gateway.configuration.data
    sizes = gateway.store.sizes()
    yield Sample(MAP_BYTES, sizes.map_bytes)
    yield Sample(STORE_BYTES, sizes.used_bytes)
    yield Sample(DISK_FREE, disk_free_bytes(data.dir) or 0)
    yield Sample(DISK_FREE_MIN, data.disk_free_min)


def _process() -> Iterator[Sample]:
    yield Sample(FDS, len(os.listdir("/proc/self/fd")) - 1)  # without the one that lists them
    yield Sample(FDS_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    yield Sample(RESIDENT, pages * resource.getpagesize())
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield Sample(CPU, used.ru_utime + used.ru_stime)


async def _batches(gateway: "Gateway") -> AsyncIterator[Sample]:
    total = Counts()
    numbers = [number for number, batch in gateway.upgrades.batches.items() if not batch.ended]
    for number in numbers:
        view = await gateway.store.get_batch(f"b{number}")
        if view is not None:
            for state in OPEN_STATES:
                total.add(state, view.counts[state])
        await trio.lowlevel.checkpoint()
    yield Sample(BATCHES, len(numbers))
    for state in sorted(OPEN_STATES):
        yield Sample(OPEN_UPGRADES, total[state], (state.label,))
