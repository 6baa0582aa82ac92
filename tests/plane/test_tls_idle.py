"""What an idle TLS connection costs: OpenSSL's own state, and nothing of the certificate that it showed."""

import subprocess
import sys
from pathlib import Path

import pytest

from otagate import plane

from .rig import PREFACE, TEXT, Rig, frame
from .test_idle import allocated_bytes
from .test_tls_names import make
from .tls import Make, TlsRig, count

FEW, MANY = 20, 120
BYTES_MAX = 16_384  # OpenSSL 3.0: 14,200; with what it keeps of a client's certificate it would be 24,500
HALF_BYTES_MAX = 65_536  # 56,000; with room for 128 KiB it would be 209,000

# In a process of its own: its half of the connections is not to be counted.
CLIENT = """
import socket, ssl, sys
port, count, folder, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
context = ssl.create_default_context(cafile=f"{folder}/ca.pem")
if device:
    context.load_cert_chain(f"{folder}/devices/{device}.pem", f"{folder}/devices/{device}.key")
held = []
for _ in range(count):
    raw = socket.create_connection(("127.0.0.1", port))
    held.append(context.wrap_socket(raw, server_hostname=sys.argv[6]))
    held[-1].sendall(bytes.fromhex(sys.argv[5]))
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["localhost", "lamp.example", "lamp." * 40 + "example"])
@pytest.mark.parametrize("device", ["", "lamp/d0"], ids=["without a certificate", "with one"])
def test_bytes(certs: Path, tmp_path: Path, device: str, name: str) -> None:
    rig = TlsRig(certs, connections_max=FEW + MANY)
    authorities = (certs / "ca.pem").read_bytes()
    more = {} if name == "localhost" else {"other": make(certs, tmp_path / "other", name)}
    rig.use(more=more, **({"client_certificates": "required", "authorities": authorities} if device else {}))
    opening = (PREFACE + frame("tcp", TEXT, b"hello")).hex()
    processes = []

    def log_in(count: int) -> int:
        arguments = [str(rig.address[1]), str(count), str(certs), device, opening, name]
        command = [sys.executable, "-c", CLIENT, *arguments]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        for number in range(1, count + 1):
            conn, certificate = rig.wait_event(plane.HELLO)[1::3]
            assert certificate.startswith(device.encode() + b"\n" if device else b"")
            rig.apply((plane.ADMIT, conn, number))
        rig.settle()
        return allocated_bytes()

    try:
        few = log_in(FEW)
        assert (log_in(MANY) - few) / MANY < BYTES_MAX
    finally:
        for process in processes:
            process.communicate()
        rig.close()


@pytest.mark.parametrize("announced", [500, 16_000])
def test_half_a_client_hello(make_tls: Make, announced: int) -> None:
    """OpenSSL makes room for all of a message when it has its head."""
    rig = make_tls(connections_max=FEW + MANY)
    part = b"\x16\x03\x01\x00\x64\x01" + announced.to_bytes(3, "big") + bytes(96)

    def begin(connections: int) -> int:
        for _ in range(connections):
            Rig.connect(rig).send_raw(part)
        rig.settle()
        return allocated_bytes()

    few = begin(FEW)
    assert (begin(MANY) - few) / MANY < HALF_BYTES_MAX
    assert count(rig, "connections_tls") == [FEW + MANY]
    rig.plane.advance_clock(60_000)
    rig.wait_count("connections", 0)
    assert allocated_bytes() <= few
