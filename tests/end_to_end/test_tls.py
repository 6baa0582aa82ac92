"""TLS from the command line to the device: files, SIGHUP, certificates as logins, PROXY headers in front."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otagate import cli
from otagate.cli import certs
from otagate.wire import messages
from tests.end_to_end.device import SECRET
from tests.end_to_end.process import ROOT, SERVE, GatewayProcess, Operator, running

PROXY = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(
    [192, 0, 2, 7, 127, 0, 0, 1, 0x30, 0x39, 0x1E, 0x14]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `otagate certs dev`."""
    made = tmp_path_factory.mktemp("certs")
    assert list(certs.make(made, devices=["lamp/d1", "lamp/d2"]))
    return made


def settings(folder: Path, **more: str) -> dict[str, str]:
    """Variables of the gateway."""
    return {
        "OTAGATE_DEVICE__TLS": "required",
        "OTAGATE_TLS__CERTIFICATE": str(folder / "server.pem"),
        "OTAGATE_TLS__KEY": str(folder / "server.key"),
        **{f"OTAGATE_{name}": value for name, value in more.items()},
    }


OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class Peer:
    """A device on raw TCP below TLS, as blocking as can be."""

    def __init__(
        self,
        gateway: GatewayProcess,
        folder: Path,
        device: str = "",
        before: bytes = b"",
        session: ssl.SSLSession | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        if context is None:
            context = ssl.create_default_context(cafile=folder / "ca.pem")
            if device:
                stem = folder / f"devices/lamp/{device}"
                context.load_cert_chain(f"{stem}.pem", f"{stem}.key")
        raw = socket.create_connection(gateway.devices, timeout=20)
        raw.sendall(before)
        self._open(raw, context, session)

    def _open(
        self, raw: socket.socket, context: ssl.SSLContext, session: ssl.SSLSession | None = None
    ) -> None:
        OPEN.append(raw)
        self.socket = context.wrap_socket(raw, server_hostname="localhost", session=session)
        OPEN.append(self.socket)
        self.socket.sendall(b"OTG\x01")
        self.nonce = self.receive()["nonce"]

    def receive(self) -> Any:
        head = self._exactly(4)
        payload = self._exactly(int.from_bytes(head[1:], "big"))
        return json.loads(payload) if head[0] == 1 else (head[0], payload)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data)) or pytest.fail("the end")
        return data

    def hello(self, device: str, *, secret: str | None = SECRET) -> Any:
        """The answer."""
        message = {"type": "hello", "product": "lamp", "device": device, "version": "1.0"}
        if secret is not None:
            message["mac"] = messages.login_mac(secret, self.nonce, "lamp", device)
        payload = json.dumps(message).encode()
        self.socket.sendall(b"\x01" + len(payload).to_bytes(3, "big") + payload)
        return self.receive()


@contextmanager
def gateway_with(
    tmp_path: Path, environment: dict[str, str], auth: str = "secret"
) -> Iterator[GatewayProcess]:
    """With product lamp and devices d1, d2."""
    with running(tmp_path / "data", environment=environment) as gateway:
        with Operator(gateway) as operator:
            operator.call("POST", "/products", 201, json={"key": "lamp", "name": "Lamp", "auth": auth})
            operator.register("d1", "d2")
        yield gateway
        while OPEN:  # or the gateway would wait for their close notifications
            OPEN.pop().close()


CASES = [
    # auth, certificate of, secret, welcome
    ("secret", "", SECRET, True),
    ("secret", "d1", SECRET, True),
    ("secret", "d2", SECRET, False),  # a certificate that names another device
    ("secret", "d1", None, False),
    ("certificate", "d1", None, True),
    ("certificate", "d1", SECRET, True),
    ("certificate", "d1", "wrong" * 5, False),  # a mac that is sent must hold
    ("certificate", "d2", None, False),
    ("certificate", "", SECRET, False),
    ("both", "d1", SECRET, True),
    ("both", "d1", None, False),
    ("both", "", SECRET, False),
]


@pytest.mark.parametrize("auth", ["secret", "certificate", "both"])
def test_what_a_product_asks_for(tmp_path: Path, folder: Path, auth: str) -> None:
    environment = settings(folder, TLS__CLIENT_CERTIFICATES="optional", TLS__CLIENT_CA=str(folder / "ca.pem"))
    with gateway_with(tmp_path, environment, auth) as gateway:
        for which, certificate, secret, welcome in CASES:
            if which == auth:
                answer = Peer(gateway, folder, certificate).hello("d1", secret=secret)
                expected = "welcome" if welcome else "error"
                assert answer["type"] == expected, (auth, certificate, secret, answer)


def test_a_product_s_own_authority(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    assert list(certs.make(other, devices=["lamp/d1"]))
    environment = settings(
        folder,
        TLS__CLIENT_CERTIFICATES="optional",
        TLS__CLIENT_CA=str(folder / "ca.pem"),
        TLS__PRODUCT_CA=f"lamp={other / 'ca.pem'}",
    )
    with gateway_with(tmp_path, environment, "certificate") as gateway:
        assert Peer(gateway, folder, "d1").hello("d1", secret=None)["type"] == "error"
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        context.load_cert_chain(other / "devices/lamp/d1.pem", other / "devices/lamp/d1.key")
        peer = Peer.__new__(Peer)
        peer._open(socket.create_connection(gateway.devices, timeout=20), context)
        assert peer.hello("d1", secret=None)["type"] == "welcome"


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def test_a_uri_names_the_device_until_it_is_revoked(tmp_path: Path) -> None:
    """Another template, and a revocation list that SIGHUP brings: it holds for who is in, and for tickets."""
    folder, revoked = tmp_path / "certs", tmp_path / "crl.pem"
    assert list(certs.make(folder))
    for device in ("d1", "d2"):
        (folder / "devices/lamp").mkdir(parents=True, exist_ok=True)
        named = [f"subjectAltName=URI:urn:otagate:lamp:{device}", "extendedKeyUsage=clientAuth"]
        certs._make(folder / f"devices/lamp/{device}", "any", named, 2, folder / "ca")
    (tmp_path / "index.txt").touch()
    config = tmp_path / "ca.cnf"
    config.write_text(
        f"[ca]\ndefault_ca = one\n[one]\ndatabase = {tmp_path}/index.txt\ndefault_md = sha256\n"
        "default_crl_days = 30\n"
    )
    authority = ("-config", config, "-cert", folder / "ca.pem", "-keyfile", folder / "ca.key")
    openssl("ca", *authority, "-gencrl", "-out", revoked)
    environment = settings(
        folder,
        TLS__CLIENT_CERTIFICATES="required",
        TLS__CLIENT_CA=str(folder / "ca.pem"),
        TLS__CLIENT_CRL=str(revoked),
        TLS__CERTIFICATE_NAME="uri",
        TLS__CERTIFICATE_TEMPLATE="urn:otagate:{product}:{device}",
    )
    with gateway_with(tmp_path, environment, "certificate") as gateway:
        before, other = (Peer(gateway, folder, device) for device in ("d1", "d2"))
        assert before.hello("d1", secret=None)["type"] == "welcome"
        assert other.hello("d2", secret=None)["type"] == "welcome"
        assert Peer(gateway, folder, "d1").hello("d2", secret=None)["type"] == "error"
        openssl("ca", *authority, "-revoke", folder / "devices/lamp/d1.pem")
        openssl("ca", *authority, "-gencrl", "-out", revoked)
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for(lambda: " reloaded " in gateway.log)
        assert before.receive() == (8, b"\x0f\xa1certificate revoked")
        session = before.socket.session
        assert session is not None
        for ticket in (None, session):
            with pytest.raises(ssl.SSLError, match="revoked"):
                Peer(gateway, folder, "d1", session=ticket, context=before.socket.context)
        assert other.hello("d2", secret=None)["code"] == "conflict"  # it is still logged in
        assert Peer(gateway, folder, "d2").hello("d2", secret=None)["type"] == "welcome"


def test_sighup_takes_a_new_certificate(tmp_path: Path) -> None:
    folder, renewed = tmp_path / "certs", tmp_path / "renewed"
    for made in (folder, renewed):
        assert list(certs.make(made))
    with gateway_with(tmp_path, settings(folder)) as gateway:
        before = Peer(gateway, folder)
        for name in ("server.pem", "server.key"):
            (folder / name).write_bytes((renewed / name).read_bytes())
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for(lambda: " reloaded " in gateway.log)
        assert Peer(gateway, renewed).hello("d2")["type"] == "welcome"
        assert before.hello("d1")["type"] == "welcome"


def shown(gateway: GatewayProcess, folder: Path, name: str) -> bool:
    """Is there a certificate of the folder's authority for the name?"""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    with socket.create_connection(gateway.devices, timeout=20) as raw:
        try:
            context.wrap_socket(raw, server_hostname=name).close()
        except ssl.SSLCertVerificationError:
            return False
    return True


def test_names_have_their_certificates(tmp_path: Path) -> None:
    """And SIGHUP reads all of them anew, or none."""
    folder, renewed = tmp_path / "certs", tmp_path / "renewed"
    names = ["localhost", "lamp.example", "pump.example"]
    for made in (folder, renewed):
        assert list(certs.make(made, names=names[1:]))
    stems = [folder / "names" / name for name in names[1:]]
    more = ", ".join(f"{stem}.pem={stem}.key" for stem in stems)
    gateway = GatewayProcess(tmp_path / "data", environment=settings(folder, TLS__MORE_CERTIFICATES=more))
    gateway.start()
    try:
        assert [shown(gateway, folder, name) for name in (*names, "nobody.example")] == [True] * 3 + [False]
        for path in ("server.pem", "server.key", "names/lamp.example.pem", "names/lamp.example.key"):
            (folder / path).write_bytes((renewed / path).read_bytes())
        missing = Path(f"{stems[1]}.key")
        key = missing.read_bytes()
        missing.unlink()
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for(lambda: " not_reloaded " in gateway.log)
        assert f"cannot read tls.more_certificates = {missing}: No such file" in gateway.log
        assert [shown(gateway, folder, name) for name in names] == [True] * 3
        missing.write_bytes(key)
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for(lambda: " reloaded " in gateway.log)
        assert [shown(gateway, renewed, name) for name in names] == [True, True, False]
    finally:
        gateway.kill()


LAMP, PUMP = "lamp.example lamp.example", "pump.example pump.example"
SAME_NAME = "the certificate of {0}lamp{1} and that of {0}LAMP{1} both have the name lamp.example"
OTHER_KEY = "the key of {0}pump{1} cannot be used: key values mismatch"
CHECKS = [
    ([], "server", ""),
    ([LAMP, PUMP], "server", ""),
    ([LAMP, "LAMP.example LAMP.example"], "server", f"tls: {SAME_NAME}"),
    ([LAMP, "pump.example lamp.example"], "server", f"tls: {OTHER_KEY}"),
    (["none none"], "server", "cannot read tls.more_certificates = {0}none.pem: No such file or directory"),
    ([], "ca", "admin.certificate and admin.key cannot be used: KEY_VALUES_MISMATCH"),
]


@pytest.mark.parametrize(("more", "admin", "said"), CHECKS)
def test_the_configuration_is_checked_with_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], admin: str, said: str
) -> None:
    """more: names of each certificate's file and its key's."""
    assert list(certs.make(tmp_path, names=["lamp.example", "LAMP.example", "pump.example"]))
    stem = f"{tmp_path}/names/"
    pairs = ", ".join(f"{stem}{certificate}.pem={stem}{key}.key" for certificate, key in map(str.split, more))
    file = tmp_path / "otagate.toml"
    file.write_text(
        f"[device]\ntls = 'required'\n[tls]\n"
        f"certificate = '{tmp_path}/server.pem'\nkey = '{tmp_path}/server.key'\n"
        f"more_certificates = '{pairs}'\n"
        f"[admin]\ntls = true\ncertificate = '{tmp_path}/server.pem'\nkey = '{tmp_path}/{admin}.key'\n"
    )
    code = cli.main(["config", "check", "--config", str(file)])
    told = capsys.readouterr().err.removeprefix("otagate: ").removesuffix("\n")
    assert (code, told) == (2 if said else 0, said.format(stem, ".example.pem (tls.more_certificates)"))


def test_development_certificates_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certs", "dev", str(tmp_path), "--names"]
    assert cli.main([*command, "lamp.example", "*.lamp.example"]) == 0
    made = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert made == {"ca.pem", "server.pem", "lamp.example.pem", "*.lamp.example.pem"}
    assert cli.main([*command, "lamp.example"]) == 0  # what is there stays
    assert capsys.readouterr().out == ""
    for name in ("127.0.0.1", "../lamp", "a b", ""):
        assert cli.main([*command, name]) == 2
        assert f"--names {name} is no host name" in capsys.readouterr().err


def test_a_device_s_broken_record_is_no_fault_of_operators(tmp_path: Path, folder: Path) -> None:
    """Theirs is Python's ssl, in the same thread, which reads the same queue of errors."""
    environment = settings(folder, ADMIN__TLS="true")
    with (
        running(tmp_path / "data", environment=environment, ca=folder / "ca.pem") as gateway,
        Operator(gateway) as before,
    ):
        before.call("GET", "/products", 200)
        for _ in range(5):
            device = Peer(gateway, folder).socket
            with socket.socket(fileno=os.dup(device.fileno())) as below:
                below.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that nobody sealed
                with pytest.raises(OSError, match=r"alert|reset"):
                    device.recv(1)
            device.close()
            before.call("GET", "/products", 200)
            with Operator(gateway) as behind:
                behind.call("GET", "/products", 200)


def test_operators_below_tls(tmp_path: Path) -> None:
    """The API, the command line, and SIGHUP: for new connections there is another certificate."""
    folder, renewed = tmp_path / "certs", tmp_path / "renewed"
    for made in (folder, renewed):
        assert list(certs.make(made))
    environment = settings(folder, DEVICE__TLS="off", ADMIN__TLS="true")
    with running(tmp_path / "data", environment=environment, ca=folder / "ca.pem") as gateway:
        with Operator(gateway) as operator:
            operator.call("POST", "/products", 201, json={"key": "lamp", "name": "Lamp"})
        command = [sys.executable, "-m", "otagate", "product", "list", "--url", gateway.url, "--json"]
        with_token = {**os.environ, "OTAGATE_TOKEN": gateway.token, "PYTHONPATH": str(ROOT / "src")}
        for trusted, code in ((folder, 0), (renewed, 3)):
            asked = [*command, "--ca", str(trusted / "ca.pem")]
            done = subprocess.run(asked, capture_output=True, text=True, env=with_token, check=False)
            assert done.returncode == code, done
            assert ('"lamp"' in done.stdout, "certificate" in done.stderr) == (not code, bool(code))
        for name in ("server.pem", "server.key"):
            (folder / name).write_bytes((renewed / name).read_bytes())
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for(lambda: " reloaded " in gateway.log)
        gateway.tls = ssl.create_default_context(cafile=renewed / "ca.pem")
        with Operator(gateway) as operator:
            assert operator.call("GET", "/products", 200)["items"][0]["key"] == "lamp"


def test_a_certificate_that_cannot_be_used_is_refused_at_the_start(tmp_path: Path, folder: Path) -> None:
    environment = settings(folder, DEVICE__TLS="off", ADMIN__TLS="true", TLS__KEY=str(folder / "ca.key"))
    listen = ("--device-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
    command = [*SERVE, "--data", str(tmp_path / "data"), *listen]
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, timeout=60, check=False)
    assert done.returncode == 2
    assert "tls.certificate and tls.key cannot be used: KEY_VALUES_MISMATCH" in done.stderr


def test_a_proxy_says_for_whom_it_speaks(tmp_path: Path, folder: Path) -> None:
    environment = settings(folder, DEVICE__PROXY_TRUSTED="127.0.0.0/8, ::1")
    with gateway_with(tmp_path, environment) as gateway:
        assert Peer(gateway, folder, before=PROXY).hello("d1")["type"] == "welcome"


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_the_simulator_speaks_tls(tmp_path: Path, folder: Path, scheme: str) -> None:
    import trio

    from otagate.sdk.links import open_link

    with gateway_with(tmp_path, settings(folder)) as gateway:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        with trio.fail_after(20):
            async with open_link(f"{scheme}://localhost:{gateway.devices[1]}", context=context) as link:
                assert json.loads(await link.receive())["type"] == "challenge"
