"""`otagate certs dev`: certificates for trying TLS. A real gateway's come from a real authority.

The folder holds the authority (`ca.pem`, `ca.key`), the gateway's certificate (`server.pem`, `server.key`),
more of them for other names (`names/NAME.pem` and `.key`) and those of devices (`devices/PRODUCT/DEVICE.pem`
and `.key`). What is there stays, so that a second call adds devices of the same authority. All keys are ECDSA
P-256, made by the command `openssl`.
"""

import argparse
import contextlib
import ipaddress
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from otagate.cli.exits import CommandError, Exit
from otagate.cli.grammar import add_command

DAYS = 825  # what clients accept at most of a server's certificate
AUTHORITY_DAYS = 3650
COMMON_NAME_CHARS_MAX = 64  # X.520, ub-common-name
DEVICE = re.compile(r"[0-9A-Za-z_-]{1,64}/[0-9A-Za-z][0-9A-Za-z_.:@-]{0,127}")
HOST = re.compile(r"[0-9A-Za-z*][0-9A-Za-z.-]{0,252}")
NO_EXTENSIONS = "[req]\ndistinguished_name = name\nprompt = no\n[name]\n"  # whatever openssl.cnf says


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Arguments of `certs`."""
    parser = add_command(commands, "certs", "make certificates for development")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    dev = add_command(actions, "dev", "an authority, a gateway's certificate, devices' certificates")
    dev.add_argument("dir", type=Path, metavar="DIR", help="folder; made if missing")
    dev.add_argument(
        "--host",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names and addresses of the gateway (localhost, 127.0.0.1, ::1)",
    )
    dev.add_argument(
        "--names",
        nargs="+",
        default=[],
        metavar="NAME",
        help="further certificates of the gateway, for these",
    )
    dev.add_argument(
        "--devices", nargs="+", default=[], metavar="PRODUCT/DEVICE", help="certificates for these"
    )
    dev.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make what is missing; one line of stdout for each certificate that is made."""
    for host in arguments.host:
        if not _is_address(host) and not HOST.fullmatch(host):
            raise CommandError(f"--host {host} is neither a host name nor an IP address", Exit.USAGE)
    for name in arguments.names:
        if _is_address(name) or not HOST.fullmatch(name):
            raise CommandError(f"--names {name} is no host name", Exit.USAGE)
    for device in arguments.devices:
        if not DEVICE.fullmatch(device):
            raise CommandError(f"--devices {device} is not PRODUCT/DEVICE", Exit.USAGE)
        if len(device) > COMMON_NAME_CHARS_MAX:
            raise CommandError(f"--devices {device} is longer than a common name may be (64)", Exit.USAGE)
    try:
        for made in make(arguments.dir, arguments.host, arguments.devices, arguments.names):
            print(made)
    except OSError as error:
        raise CommandError(f"cannot write {error.filename or arguments.dir}: {error.strerror}") from error
    return Exit.OK


def make(
    folder: Path, hosts: Sequence[str] = (), devices: Sequence[str] = (), names: Sequence[str] = ()
) -> Iterator[Path]:
    """Makes what is missing in the folder, and yields the certificates made. `hosts` renew the gateway's."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ca.pem").exists():
        yield _make(
            folder / "ca",
            "otagate development authority",
            ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"],
            AUTHORITY_DAYS,
        )
    if hosts or not (folder / "server.pem").exists():
        yield _make_server(folder, "server", hosts or ("localhost", "127.0.0.1", "::1"))
    for name in names:
        if not (folder / "names" / f"{name}.pem").exists():
            (folder / "names").mkdir(exist_ok=True)
            yield _make_server(folder, f"names/{name}", [name])
    for device in devices:
        target = folder / "devices" / device
        if not Path(f"{target}.pem").exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            extensions = ["extendedKeyUsage=clientAuth", "basicConstraints=CA:FALSE"]
            yield _make(target, device, extensions, DAYS, folder / "ca")


def _make_server(folder: Path, stem: str, names: Sequence[str]) -> Path:
    alternatives = ",".join(f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names)
    extensions = [
        f"subjectAltName={alternatives}",
        "extendedKeyUsage=serverAuth",
        "basicConstraints=CA:FALSE",
    ]
    return _make(folder / stem, names[0], extensions, DAYS, folder / "ca")


def _make(stem: Path, name: str, extensions: Sequence[str], days: int, issuer: Path | None = None) -> Path:
    """Key and certificate, `stem`.key and `stem`.pem; self-signed without an issuer. The certificate."""
    subject = "/CN=" + name.replace("\\", "\\\\").replace("/", "\\/")
    certificate, key = Path(f"{stem}.pem"), Path(f"{stem}.key")
    with _private(key):
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(key))
    with contextlib.ExitStack() as stack:
        config, request, asked = (stack.enter_context(_scratch(stem, end)) for end in ("cnf", "csr", "ext"))
        config.write_text(NO_EXTENSIONS)
        asked.write_text("\n".join(extensions) + "\n")
        _openssl(
            *("req", "-new", "-config", str(config), "-key", str(key), "-subj", subject, "-out", str(request))
        )
        signer = ["-signkey", str(key)]
        if issuer is not None:
            signer = ["-CA", f"{issuer}.pem", "-CAkey", f"{issuer}.key"]
        serial = f"0x{secrets.randbits(158) | 1:x}"
        _openssl(
            *("x509", "-req", "-in", str(request), *signer, "-set_serial", serial, "-sha256"),
            *("-days", str(days), "-extfile", str(asked), "-out", str(certificate)),
        )
    return certificate


@contextlib.contextmanager
def _private(path: Path) -> Iterator[None]:
    """What is written to the file meanwhile only its owner can read."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    os.chmod(path, 0o600)
    yield


@contextlib.contextmanager
def _scratch(stem: Path, end: str) -> Iterator[Path]:
    path = Path(f"{stem}.{secrets.token_hex(4)}.{end}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _openssl(*arguments: str) -> None:
    try:
        command = ("openssl", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise CommandError("the command openssl is missing") from None
    if done.returncode:
        raise CommandError(f"openssl {arguments[0]}: {done.stderr.strip()}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
