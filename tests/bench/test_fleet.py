"""The compiled fleet against a real gateway: both links, every kind of work, every fault."""

import socket

import pytest

from bench import gateway
from otagate.bench.fleet import Fleet
from tests.bench.conftest import run_until

BOTH = ["websocket", "tcp"]


def log_in(gate: gateway.Gateway, count: int, **options: object) -> Fleet:
    """A fleet whose devices are registered and online."""
    gate.api.register(count)
    fleet = Fleet(first=0, count=count, links=BOTH)
    fleet.configure(address="127.0.0.1", port=gate.device_port, **options)  # type: ignore[arg-type]
    fleet.connect()
    counters = run_until(fleet, lambda counters: counters["online"] == count)
    assert counters["logged_in"]["count"] == count
    return fleet


def test_a_campaign_ends_well_on_both_links(gate: gateway.Gateway) -> None:
    fleet = log_in(gate, 40, work="campaign", chunk_size=4096)
    batch = gate.api.create_batch(gate.api.add_firmware(50_001, "2.0.0"))
    counters = run_until(fleet, lambda counters: counters["upgraded"]["count"] == 40)
    assert counters["image_bytes"] == 40 * 50_001
    assert counters["chunks"] == 40 * 13
    assert counters["chunk_errors"] == counters["md5_errors"] == counters["protocol_errors"] == 0
    ended = gate.api.batch(batch["id"])
    assert (ended["status"], ended["counts"]["succeeded"]) == ("completed", 40)


def test_every_fault_and_the_gateway_tells_the_same_story(gate: gateway.Gateway) -> None:
    faults = {"drop": 0.2, "corrupt": 0.2, "fail": 0.15, "silent": 0.1, "slow": 0.1, "storm": 0.15}
    fleet = log_in(gate, 100, work="campaign", faults=faults, retry_ms=10)
    batch = gate.api.create_batch(gate.api.add_firmware(300_000, "2.0.0"))
    run_until(fleet, lambda counters: gate.api.batch(batch["id"])["status"] == "completed")
    counters = fleet.counters()
    assert all(counters["faults"][name] > 0 for name in faults)
    assert counters["chunk_errors"] == counters["md5_errors"] == counters["protocol_errors"] == 0
    counts = gate.api.batch(batch["id"])["counts"]
    hopeless = counters["faults"]["fail"] + counters["faults"]["silent"]
    assert counts["succeeded"] == counters["upgraded"]["count"] == 100 - hopeless
    assert counts["failed"] == hopeless


def test_the_same_seed_plays_the_same_faults() -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        fleet = Fleet(first=0, count=200, links=BOTH, seed=seed)
        fleet.configure(address="127.0.0.1", port=1, faults={"fail": 0.3, "slow": 0.2})
        return fleet.faults()

    assert drawn(1) == drawn(1) != drawn(2)
    assert 30 < drawn(1).count(3) < 90


@pytest.mark.parametrize("depth", [1, 16])
def test_reports_are_answered_in_order(gate: gateway.Gateway, depth: int) -> None:
    fleet = log_in(gate, 10, work="report", depth=depth)
    gate.api.create_batch(gate.api.add_firmware(1_000, "2.0.0"))
    run_until(fleet, lambda counters: counters["answers"]["count"] == 10)
    fleet.start()
    counters = run_until(fleet, lambda counters: counters["answers"]["count"] > 2_000)
    assert counters["protocol_errors"] == counters["errors"] == 0
    assert fleet.histograms()["answer"]["count"] == counters["answers"]["count"]


def test_transitions_wait_for_the_start_and_end_the_batch(gate: gateway.Gateway) -> None:
    gate_fleet = log_in(gate, 20, work="transitions", rate=2_000.0)
    batch = gate.api.create_batch(gate.api.add_firmware(1_000, "2.0.0"))
    run_until(gate_fleet, lambda counters: counters["upgrades"]["count"] == 20)
    assert gate_fleet.counters()["answers"]["count"] == 0
    gate_fleet.start()
    run_until(gate_fleet, lambda counters: counters["answers"]["count"] == 60)
    run_until(gate_fleet, lambda counters: gate.api.batch(batch["id"])["status"] == "completed")
    assert gate.api.batch(batch["id"])["counts"]["failed"] == 20


def test_streams_are_dropped_in_the_kernel_and_still_counted(gate: gateway.Gateway) -> None:
    fleet = log_in(gate, 6, work="stream", discard=True, verify=False, read_bytes=262_144)
    gate.api.create_batch(gate.api.add_firmware(1_000_000, "2.0.0"))
    fleet.start()
    counters = run_until(fleet, lambda counters: counters["downloads"]["count"] >= 30)
    assert counters["image_bytes"] >= 30 * 1_000_000
    assert counters["chunk_errors"] == counters["protocol_errors"] == 0


def test_devices_come_back_after_a_restart(gate: gateway.Gateway) -> None:
    fleet = log_in(gate, 30, work="versions", retry_ms=10)
    fleet.start()
    run_until(fleet, lambda counters: counters["answers"]["count"] > 100)
    assert gate.process is not None
    gate.process.kill()
    counters = run_until(fleet, lambda counters: counters["online"] == 0)
    assert counters["lost"] >= 30


# -- a gateway that does not keep to the protocol ------------------------------------------------------


def serve_once(fleet: Fleet, listener: socket.socket) -> socket.socket:
    """The fleet's first connection."""
    fleet.connect()
    fleet.run(0.02)
    connection, _ = listener.accept()
    return connection


@pytest.mark.parametrize(
    "frame",
    [b"\x01\x00\x00\x02[]", b'\x01\x00\x00\x0e{"type":"odd"}', b"\x02\x00\x00\x01x", b"\xff\x00\x00\x00"],
)
def test_what_should_not_come_is_counted(frame: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet = Fleet(first=0, count=1, links=["tcp"])
        fleet.configure(address="127.0.0.1", port=listener.getsockname()[1], reconnect=False)
        with serve_once(fleet, listener) as connection:
            assert connection.recv(100) == b"OTG\x01"
            connection.sendall(frame)
            fleet.run(0.05)
            assert fleet.counters()["protocol_errors"] == 1


def test_a_wrong_handshake_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fleet = Fleet(first=0, count=1, links=["websocket"])
        fleet.configure(address="127.0.0.1", port=listener.getsockname()[1], reconnect=False)
        with serve_once(fleet, listener) as connection:
            assert connection.recv(1000).startswith(b"GET /device HTTP/1.1\r\n")
            connection.sendall(b"HTTP/1.1 101 Fine\r\nSec-WebSocket-Accept: wrong\r\n\r\n")
            fleet.run(0.05)
            assert fleet.counters()["protocol_errors"] == 1
            assert fleet.counters()["opened"]["count"] == 0


@pytest.mark.parametrize("address", ["8.8.8.8", "192.168.0.1", "0.0.0.0"])
def test_only_this_machine(address: str) -> None:
    fleet = Fleet(first=0, count=1, links=BOTH)
    with pytest.raises(ValueError, match=r"127\.0\.0\.0/8"):
        fleet.configure(address=address, port=7700)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="fleet"):
        Fleet(first=0, count=0, links=BOTH)
    fleet = Fleet(first=0, count=1, links=BOTH)
    with pytest.raises(ValueError, match="at most 1"):
        fleet.configure(address="127.0.0.1", port=1, faults={"drop": 0.7, "fail": 0.7})
    with pytest.raises(ValueError, match="depth"):
        fleet.configure(address="127.0.0.1", port=1, depth=1000)
