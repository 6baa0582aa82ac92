"""The figures that the project has set itself, each a row: what is measured, the target, and its peers.

Absolute figures hold on one machine; ratios to peers measured in the same run, alternately, hold on any.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import scenarios
from .measure import Bench, Figure, Result
from .peers import Peer, work

Measure = Callable[[Bench], list[Result]]


@dataclass
class Row:
    """A figure of the gateway, and of the peers that do the same work.

    `pick`: the result of `gateway` that this row is about. `figure`: its name, or "latency/point" of one.
    `work`: what one operation is in the unit of a figure that is a rate per CPU-second.
    """

    name: str
    figure: str
    gateway: Measure
    target: str
    met: Callable[["Row"], bool]
    pick: Callable[[Result], bool] = lambda result: True
    peers: tuple[str, ...] = ()
    peer: Callable[[Bench, Peer], Result] | None = None
    higher_is_better: bool = True
    work: float = 1.0
    headline: str = ""  # in the README's summary
    judged_by: tuple[str, ...] = ()  # peers that the target speaks of
    results: dict[str, Result] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def value(self, subject: str = "gateway", figure: str = "") -> float:
        """The median of a subject; nan if it was not measured."""
        found = self.of(subject, figure)
        return found.value if found is not None else float("nan")

    def of(self, subject: str, figure: str = "") -> Figure | None:
        """The figure of a subject."""
        result = self.results.get(subject)
        if result is None:
            return None
        name = figure or self.figure
        if "/" in name:
            latency, point = name.split("/")
            points = result.latencies_ms.get(latency, {})
            samples = result.latency_samples.get(latency, {})
            return Figure(points[point], "ms", samples.get(point, [])) if point in points else None
        return result.figures.get(name)

    def cost_us(self) -> float:
        """Processor microseconds of one operation, of a row whose figure is a rate per CPU-second."""
        return self.work / self.value() * 1e6

    def ratio(self, peer: str, figure: str = "") -> float:
        """Gateway to peer; above 1: the gateway is better. nan if either was not measured."""
        ours, theirs = self.value("gateway", figure), self.value(peer, figure)
        if not ours or not theirs:
            return float("nan")
        return ours / theirs if self.higher_is_better else theirs / ours


@dataclass(frozen=True)
class Scale:
    """How much of it: `full` is what targets speak of."""

    idle: tuple[int, int] = (5_000, 19_000)
    idle_peers: tuple[int, int] = (1_000, 5_000)
    logins: int = 19_000
    logins_peers: int = 5_000
    reporters: int = 1_000
    seconds: float = 4.0
    transitions: int = 10_000
    pushes: int = 10_000
    campaign: int = 10_000
    big: int = 1_000_000
    in_progress: int = 100_000
    mixed: int = 100_000
    curve: tuple[int, ...] = (1_000, 5_000, 10_000, 19_000)
    gateways: tuple[int, ...] = (2, 4)
    many_receivers: int = 1_000
    hashed: int = 256 * 2**20
    rounds: int = 3
    repeats: int = 3


FULL = Scale()
SMALL = Scale(
    idle=(500, 2_500), idle_peers=(500, 1_500), logins=2_000, logins_peers=2_000, reporters=500, seconds=1.0,
    transitions=2_000, pushes=2_000, campaign=1_000, big=20_000, in_progress=2_000, mixed=5_000,
    curve=(200, 500, 1_000), gateways=(2,), many_receivers=200, hashed=16 * 2**20, rounds=1, repeats=1,
)  # fmt: skip


def _has(**parameters: Any) -> Callable[[Result], bool]:
    return lambda result: all(result.parameters.get(name) == value for name, value in parameters.items())


def _idle_rows(scale: Scale) -> list[Row]:
    peers_low, peers_high = scale.idle_peers
    names = ("nginx", "mosquitto", "uWebSockets", "Go gorilla", "picows, uvloop", "websockets.trio")

    def gateway(bench: Bench) -> list[Result]:
        return scenarios.idle(bench, low=scale.idle[0], high=scale.idle[1])

    return [
        Row(
            f"private memory of an idle device, {link}",
            "bytes_per_device",
            gateway,
            "≤ 256 B",
            lambda row: row.value() <= 256,
            _has(link=link),
            names if link == "websocket" else (),
            lambda bench, peer: work.idle(bench, peer, low=peers_low, high=peers_high),
            higher_is_better=False,
            headline="memory of an idle device" if link == "websocket" else "",
        )
        for link in ("websocket", "tcp")
    ]


def _login_rows(scale: Scale) -> list[Row]:
    names = ("nginx", "mosquitto", "uWebSockets", "Go gorilla", "picows, uvloop", "websockets.trio")

    def gateway(bench: Bench) -> list[Result]:
        return scenarios.login(bench, devices=scale.logins)

    return [
        Row(
            "logins per CPU-second (peers: their handshake alone)",
            "logins_per_cpu_s",
            gateway,
            "≥ 12,000",
            lambda row: row.value() >= 12_000,
            _has(kind="returning"),
            (*names, "plane alone"),
            lambda bench, peer: work.login(bench, peer, devices=scale.logins_peers),
            headline="logins (of the others: handshakes alone)",
        ),
        Row(
            f"{scale.logins:,} devices back after a restart",
            "all_back",
            gateway,
            "≤ 3 s",
            lambda row: row.value() <= 3,
            _has(kind="returning"),
            higher_is_better=False,
            headline=f"{scale.logins:,} devices back after a restart",
        ),
    ]


def _report_rows(scale: Scale) -> list[Row]:
    names = ("C floor", "nginx", "mosquitto", "uWebSockets", "Go gorilla", "picows, uvloop")

    def gateway(bench: Bench) -> list[Result]:
        return scenarios.report(bench, devices=scale.reporters, seconds=scale.seconds)

    return [
        Row(
            f"progress reports, {depth} in flight, {link}",
            "reports",
            gateway,
            f"≥ {goal:,} /s",
            lambda row, goal=goal: row.value() >= goal,  # type: ignore[misc]
            _has(link=link, in_flight=depth),
            (*names, "websockets.trio", "plane alone") if link == "websocket" else (),
            lambda bench, peer, depth=depth: work.report(  # type: ignore[misc]
                bench, peer, devices=scale.reporters, depth=depth, seconds=scale.seconds
            ),
            headline=f"progress reports, {depth} in flight" if link == "websocket" else "",
        )
        for depth, goal in ((1, 100_000), (16, 300_000))
        for link in ("websocket", "tcp")
    ]


def _durable_rows(scale: Scale) -> list[Row]:
    def gateway(bench: Bench) -> list[Result]:
        return scenarios.durable(bench, devices=scale.transitions, rounds=scale.rounds)

    return [
        Row(
            "durable transitions",
            "transitions",
            gateway,
            "≥ 30,000 /s",
            lambda row: row.value() >= 30_000,
            _has(rate="full"),
            headline="transitions, answered after their fdatasync",
        ),
        Row(
            "durable transitions at half of that rate: p99 of an acknowledgement",
            "acknowledgement/p99",
            gateway,
            "≤ 25 ms",
            lambda row: row.value() <= 25,
            _has(rate="half"),
            higher_is_better=False,
            headline="such an answer at half of that rate, p99",
        ),
        Row(
            "durable transitions at half of that rate: lateness of the loop, p99.9",
            "lateness of the loop/p99.9",
            gateway,
            "≤ 20 ms",
            lambda row: row.value() <= 20,
            _has(rate="half"),
            higher_is_better=False,
        ),
    ]


STREAMERS = ("nginx", "nginx, SO_SNDBUF", "picows, uvloop")


def _stream_row(
    scale: Scale,
    receivers: int,
    chunk: int,
    peers: tuple[str, ...],
    target: str,
    met: Callable[[Row], bool],
    judged_by: tuple[str, ...] = (),
) -> Row:
    return Row(
        f"16 MiB to {receivers:,}, {chunk // 1024} KiB chunks",
        "rate",
        lambda bench: scenarios.stream(bench, receivers=(receivers,), chunks=(chunk,), seconds=scale.seconds),
        target,
        met,
        _has(receivers=receivers),
        peers,
        lambda bench, peer: work.stream(bench, peer, receivers=receivers, chunk=chunk, seconds=scale.seconds),
        judged_by=judged_by,
        headline=f"16 MiB to {receivers:,}, {chunk // 1024} KiB chunks" if judged_by else "",
    )


def _stream_rows(scale: Scale) -> list[Row]:
    many = scale.many_receivers
    return [
        _stream_row(scale, 1, 262_144, STREAMERS, "-", lambda row: True),
        _stream_row(
            scale, 100, 262_144, (*STREAMERS, "Go gorilla"),
            "≥ 1.5 × nginx, ≥ 0.95 × nginx with that SO_SNDBUF",
            lambda row: row.ratio("nginx") >= 1.5 and row.ratio("nginx, SO_SNDBUF") >= 0.95,
            ("nginx", "nginx, SO_SNDBUF"),
        ),
        _stream_row(
            scale, 100, 65_536, ("picows, uvloop",), "≥ picows", lambda row: row.ratio("picows, uvloop") >= 1,
            ("picows, uvloop",),
        ),
        _stream_row(
            scale, many, 262_144, ("nginx", "websockets.trio"), "≥ 5 × websockets.trio",
            lambda row: row.ratio("websockets.trio") >= 5,
            ("websockets.trio",),
        ),
    ]  # fmt: skip


def _upgrade_rows(scale: Scale) -> list[Row]:
    names = ("C floor", "mosquitto", "uWebSockets", "Go gorilla", "picows, uvloop", "websockets.trio")
    return [
        Row(
            f"push to {scale.pushes:,}, durable (peers: bare fan-out)",
            "all_have_read",
            lambda bench: scenarios.push(bench, devices=scale.pushes, rounds=scale.rounds),
            "≤ 500 ms",
            lambda row: row.value() <= 500,
            peers=names,
            peer=lambda bench, peer: work.push(bench, peer, devices=scale.pushes),
            higher_is_better=False,
            headline=f"a batch created, until {scale.pushes:,} devices have read its message "
            "(the others: fan-out alone)",
        ),
        Row(
            f"a whole campaign: {scale.campaign:,} devices, 1 MiB",
            "devices_per_cpu_s",
            lambda bench: scenarios.campaign(bench, devices=scale.campaign),
            "≥ 2,000 per CPU-second",
            lambda row: row.value() >= 2_000,
            headline=f"whole upgrades, {scale.campaign:,} devices, 1 MiB",
        ),
    ]


def _big_rows(scale: Scale) -> list[Row]:
    def gateway(bench: Bench) -> list[Result]:
        return scenarios.big(bench, devices=scale.big, in_progress=scale.in_progress)

    def row(words: str, figure: str, step: str, target: str, most: float, headline: bool = False) -> Row:
        return Row(
            f"{scale.big:,} devices: {words}",
            figure,
            gateway,
            target,
            lambda row: row.value() <= most,
            _has(step=step),
            higher_is_better=False,
            headline=f"{scale.big:,} devices: {words}" if headline else "",
        )

    late, others = "lateness of the loop/max", "acknowledgement of others/p99"
    return [
        row("registered in bulk", "registering", "register", "≤ 60 s", 60, True),
        row("batch over all created", "request_answered", "create", "≤ 10 s", 10_000, True),
        row("memory that grew", "memory_growth", "create", "≤ 100 MiB", 100),
        row("lateness of the loop meanwhile, worst", late, "create", "≤ 50 ms", 50),
        row("acknowledgements of others meanwhile, p99", others, "create", "≤ 50 ms", 50),
        row("abort answered", "request_answered", "abort", "≤ 100 ms", 100),
        row("lateness of the loop after the abort, worst", late, "abort", "≤ 50 ms", 50),
        row("acknowledgements of others after the abort, p99", others, "abort", "≤ 50 ms", 50),
        row(
            f"restart with {scale.in_progress:,} upgrades under way, to serving",
            "restart_to_serving",
            "restart",
            "≤ 3 s",
            3,
            True,
        ),
    ]


def _mixed_rows(scale: Scale) -> list[Row]:
    return [
        Row(
            f"lateness of the loop: uploads, lists, 1,000 downloads, a batch of {scale.mixed:,}, p99.9",
            "lateness of the loop/p99.9",
            lambda bench: scenarios.mixed(bench, devices=scale.mixed),
            "≤ 20 ms",
            lambda row: row.value() <= 20,
            higher_is_better=False,
            headline="lateness of the loop under uploads, lists, a large batch and downloads, p99.9",
        )
    ]


def _hashing_rows(scale: Scale) -> list[Row]:
    return [
        Row(
            "an upload's MD5, SHA-256 and chunk digests: time to that of OpenSSL's MD5, then SHA-256",
            "time_to_openssl",
            lambda bench: scenarios.hashing(bench, size=scale.hashed),
            "≤ 1.2 ×",
            lambda row: row.value() <= 1.2,
            higher_is_better=False,
        )
    ]


CHUNK_BYTES = 262_144


def _breakdown_rows(scale: Scale) -> list[Row]:
    """What the gateway does most, each with a profile if perf is here: told as processor time of one."""

    def profiled(measure: Measure) -> Measure:
        def work(bench: Bench) -> list[Result]:
            with bench.profiling():
                return measure(bench)

        return work

    login = profiled(lambda bench: scenarios.login(bench, devices=scale.logins))
    report = profiled(
        lambda bench: scenarios.report(
            bench, devices=scale.reporters, seconds=scale.seconds, links=("websocket",)
        )
    )
    durable = profiled(lambda bench: scenarios.durable(bench, devices=scale.transitions, rounds=1))
    stream = profiled(
        lambda bench: scenarios.stream(bench, receivers=(100,), chunks=(CHUNK_BYTES,), seconds=scale.seconds)
    )
    push = profiled(lambda bench: scenarios.push(bench, devices=scale.pushes, rounds=1))
    campaign = profiled(lambda bench: scenarios.campaign(bench, devices=scale.campaign))
    operations: list[tuple[str, str, Measure, dict[str, Any], float]] = [
        ("login", "logins_per_cpu_s", login, {"kind": "returning"}, 1),
        ("first login, noted durably", "logins_per_cpu_s", login, {"kind": "new"}, 1),
        ("progress report, 1 in flight", "reports_per_cpu_s", report, {"in_flight": 1}, 1),
        ("progress report, 16 in flight", "reports_per_cpu_s", report, {"in_flight": 16}, 1),
        ("durable transition", "transitions_per_cpu_s", durable, {"rate": "full"}, 1),
        ("upgrade message, durable", "pushes_per_cpu_s", push, {}, 1),
        ("chunk of 256 KiB", "rate_per_cpu_s", stream, {}, CHUNK_BYTES / 1e6),
        ("whole upgrade with 1 MiB", "devices_per_cpu_s", campaign, {}, 1),
    ]
    return [
        Row(name, figure, measure, "-", lambda row: True, _has(**parameters), work=work)
        for name, figure, measure, parameters, work in operations
    ]


def _curve_rows(scale: Scale) -> list[Row]:
    def gateway(bench: Bench) -> list[Result]:
        return scenarios.curve(bench, counts=scale.curve, gateways=scale.gateways)

    return [
        Row(
            f"with {count:,} devices",
            "report",
            gateway,
            "-",
            lambda row: True,
            _has(devices=count),
            higher_is_better=False,
        )
        for count in (*scale.curve, *(number * scale.curve[-1] for number in scale.gateways))
    ]


PARTS: dict[str, Callable[[Scale], list[Row]]] = {
    "idle": _idle_rows,
    "login": _login_rows,
    "report": _report_rows,
    "durable": _durable_rows,
    "stream": _stream_rows,
    "upgrades": _upgrade_rows,
    "hashing": _hashing_rows,
    "mixed": _mixed_rows,
    "big": _big_rows,
    "breakdown": _breakdown_rows,
    "curve": _curve_rows,
}
ONCE = {"mixed", "big", "curve", "breakdown"}  # parts that take long, or are told as they are: not repeated
# Parts that have sections of their own on the page, and no line in the table.
APART = {"breakdown", "curve"}
