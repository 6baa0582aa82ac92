"""Every attack: who takes part, what bounds it, what counts it, for how long a peer may go on.

The table of docs/reliability.md, Slow and greedy peers, as a program.
"""

from collections.abc import Callable
from dataclasses import dataclass

from otagate import limits

KIB = 1024
SLOW_PAUSE_S = 0.1  # between two bytes: more often than any slowloris
SMALL_BUFFER = 4_096


@dataclass(frozen=True)
class Patience:
    """For how long the gateway waits for what, in seconds (keys of [device] in the configuration)."""

    handshake_timeout_s: int = limits.handshake_timeout_ms // 1000
    hello_timeout_s: int = limits.hello_timeout_ms // 1000
    write_stall_timeout_s: int = limits.write_stall_timeout_ms // 1000
    heartbeat_s: int = limits.heartbeat_s_min

    @property
    def silence_s(self) -> float:
        """Of a session, then it is closed; and `close_timeout_ms` later, given up."""
        return limits.heartbeats_missed * self.heartbeat_s + limits.close_timeout_ms / 1000

    @property
    def stall_s(self) -> float:
        """Of a reader: a sixteenth more, since its progress is looked at so often."""
        return self.write_stall_timeout_s * 17 / 16


@dataclass(frozen=True)
class Wave:
    """Peers that do the same. `attack`: in `attacks`; share: of all peers, and at most `most`.

    identities: each device is so many of them. offers: their devices are offered an upgrade.
    """

    attack: str
    share: float = 1.0
    most: int = 15_000  # of one process, which has 20,000 descriptors
    again: bool = True
    pause_s: float = 0.0
    buffer: int = 0
    boards: int = 1
    names: str = "x{}"
    offers: bool = False
    one_address: bool = False

    def peers(self, all_of_them: int) -> int:
        """How many."""
        return max(2, min(int(all_of_them * self.share), self.most))


@dataclass(frozen=True)
class Attack:
    """See the module. bounds: a name in `limits`; "": it takes its turns, and that is all.

    counter: a sample of /metrics.

    holds_s: each peer is cut off within so long (None: it may stay, for it costs others nothing).
    bytes_each: memory that a peer may cost. slow_disk: against a gateway whose commits take long.
    """

    name: str
    waves: tuple[Wave, ...]
    bounds: str
    counter: str
    holds_s: Callable[[Patience], float] | None = None
    bytes_each: int = 2 * KIB
    slow_disk: bool = False


def ended(cause: str) -> str:
    """The counter of connections that ended by this cause."""
    return f'otagate_connections_ended_total{{cause="{cause}"}}'


MESSAGES = 'otagate_messages_total{direction="in"}'
SESSION_BYTES = limits.message_bytes_max + 2 * KIB
STUCK_BYTES = limits.connection_output_bytes_max + 8 * KIB
FLOOD = 50  # peers: a flood is one by what each sends

NOBODY = Attack("nobody", (), "", MESSAGES)
ATTACKS = (
    Attack(
        "slow handshakes",
        (
            Wave("slow_handshake", 0.5, pause_s=SLOW_PAUSE_S),
            Wave("slow_preface", 0.25, pause_s=SLOW_PAUSE_S),
            Wave("silent", 0.25, pause_s=SLOW_PAUSE_S),
        ),
        "handshake_timeout_ms",
        ended("handshake_timeout"),
        holds_s=lambda patience: patience.handshake_timeout_s,
        bytes_each=limits.http_head_bytes_max + 2 * KIB,
    ),
    Attack(
        "slow logins",
        (
            Wave("slow_hello", 0.5, pause_s=SLOW_PAUSE_S),
            Wave("slow_fragments", 0.5, pause_s=SLOW_PAUSE_S),
        ),
        "hello_timeout_ms",
        ended("hello_timeout"),
        holds_s=lambda patience: patience.hello_timeout_s,
        bytes_each=limits.hello_bytes_max + 2 * KIB,
    ),
    Attack(
        "slow messages, half-open sessions",
        (
            Wave("slow_message", 0.5, pause_s=SLOW_PAUSE_S),
            Wave("half_open", 0.5, pause_s=SLOW_PAUSE_S, names="y{}"),
        ),
        "heartbeats_missed",
        ended("silent"),
        holds_s=lambda patience: patience.silence_s,
        bytes_each=SESSION_BYTES,
    ),
    Attack(
        "readers that stop",
        (
            Wave("stuck_reader", 0.02, pause_s=SLOW_PAUSE_S, buffer=SMALL_BUFFER),
            Wave("stuck_download", 0.1, again=False, buffer=SMALL_BUFFER, names="y{}", offers=True),
        ),
        "write_stall_timeout_ms",
        ended("stalled"),
        holds_s=lambda patience: patience.stall_s,
        bytes_each=STUCK_BYTES,
    ),
    Attack("flood of messages", (Wave("flood_messages", most=FLOOD),), "turn_messages_max", MESSAGES),
    Attack("flood of bad messages", (Wave("flood_bad_messages", most=FLOOD),), "turn_messages_max", MESSAGES),
    Attack("flood of versions", (Wave("flood_versions", most=FLOOD),), "turn_messages_max", MESSAGES),
    Attack("flood of pings", (Wave("flood_pings", most=FLOOD),), "turn_messages_max", "otagate_pings_total"),
    Attack(
        "flood of fetches",
        (Wave("flood_fetches", most=FLOOD, names="z{}", offers=True),),
        "transfers_max",
        "otagate_transfers_ended_total",
        bytes_each=STUCK_BYTES,
    ),
    Attack(
        "empty fragments without end",
        (Wave("endless_fragments", most=FLOOD),),
        "turn_messages_max",
        'otagate_device_bytes_total{direction="in"}',
    ),
    Attack(
        "oversize frames and messages",
        (Wave("oversize", most=FLOOD), Wave("large_fragments", most=FLOOD, names="y{}")),
        "message_bytes_max",
        ended("broken"),
        holds_s=lambda patience: limits.close_timeout_ms / 1000,
        bytes_each=SESSION_BYTES,
    ),
    Attack(
        "flood of wrong logins",
        (Wave("flood_logins", 0.1), Wave("flood_hellos", most=FLOOD)),
        "",
        "otagate_logins_refused_total",
    ),
    Attack(
        "flood of connections",
        (Wave("flood_connections", 0.1),),
        "",
        ended("lost"),
    ),
    Attack(
        "one address",
        (Wave("silent", pause_s=SLOW_PAUSE_S, one_address=True),),
        "strangers_per_address_max",
        "otagate_strangers_refused_total",
        holds_s=lambda patience: patience.handshake_timeout_s,
    ),
    Attack(
        "two boards with one identity",
        (Wave("rival", 0.1, boards=2),),
        "takeovers_free",
        'otagate_logins_sent_away_total{cause="rival"}',
    ),
    Attack("login storm", (Wave("storm"),), "", "otagate_logins_total"),
    Attack(
        "login storm, slow disk",
        (Wave("storm"),),
        "logins_under_way_max",
        'otagate_logins_sent_away_total{cause="overloaded"}',
        slow_disk=True,
    ),
)
