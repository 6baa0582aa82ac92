"""Which other servers there are, what each can do, how it is started, and what is missing if it cannot be."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..gateway import free_ports
from ..machine import PYTHON
from ..processes import BenchError, Process, wait_until

HERE = Path(__file__).parent
BUILT = Path("build/peers")  # below the folder the bench is called in
VENV_PYTHON = BUILT / "venv" / "bin" / "python"  # of the peers' own environment
IMAGE_BYTES = 16 * 2**20
REQUEST_BYTES = 128
SNDBUF_BYTES = 256 * 1024  # what the gateway sets
READY_TIMEOUT_S = 20.0

TEXT = b'{"type":"progress","stage":"downloading","percent":50'.ljust(REQUEST_BYTES - 1) + b"}"
HTTP = b"GET /ok HTTP/1.1\r\nHost: x\r\nX-Padding: "
HTTP += b"x" * (REQUEST_BYTES - len(HTTP) - 4) + b"\r\n\r\n"
# PUBLISH, QoS 1, topic "data", packet 1 (MQTT 3.1.1 section 3.3)
MQTT = b"\x32\x88\x01\x00\x04data\x00\x01" + TEXT
HTTP_IMAGE = b"GET /image.bin HTTP/1.1\r\nHost: x\r\n\r\n"

IDLE, LOGIN, REPORT, STREAM, PUSH = "idle", "login", "report", "stream", "push"
EVERYTHING = frozenset({IDLE, LOGIN, REPORT, STREAM, PUSH})


@dataclass(frozen=True)
class Peer:
    """A server: `command(folder, port)` is what is started; `missing()` says what it lacks, in words."""

    name: str
    link: str
    command: Callable[[Path, int], list[str]]
    missing: Callable[[], str]
    version: Callable[[], str]
    does: frozenset[str] = EVERYTHING
    request: bytes = TEXT

    def stream_request(self, chunk: int) -> bytes:
        """What asks for the image."""
        return HTTP_IMAGE if self.link == "http" else b"S %d %d" % (chunk, IMAGE_BYTES)

    def start(self, folder: Path, core: int | None) -> tuple[Process, int]:
        """The running server and its port. BenchError if it does not come up."""
        lacks = self.missing()
        if lacks:
            raise BenchError(f"{self.name}: {lacks}")
        port = free_ports(1)[0]
        environ = dict(os.environ)
        if self.command is not _echo:
            environ.pop("PYTHONPATH", None)
        process = Process(self.command(folder, port), folder / f"{self.name}.log", core=core, environ=environ)

        def listening() -> bool:
            process.check()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            wait_until(listening, READY_TIMEOUT_S, f"the start of {self.name}")
        except BaseException:
            process.stop()
            raise
        return process, port


def _python() -> str:
    """The peers' own, or this one: websockets and Trio are the project's dependencies, too."""
    return str(VENV_PYTHON.absolute()) if VENV_PYTHON.exists() else PYTHON


def _python_peer(script: str) -> Callable[[Path, int], list[str]]:
    return lambda folder, port: [_python(), "-P", str(HERE / script), str(port)]


def _package(*names: str) -> Callable[[], str]:
    def missing() -> str:
        code = "import " + ", ".join(names)
        found = subprocess.run([_python(), "-P", "-c", code], capture_output=True, check=False)
        return "" if found.returncode == 0 else f"{', '.join(names)} cannot be imported"

    return missing


def _package_version(name: str) -> Callable[[], str]:
    code = f"from importlib.metadata import version; print(version({name!r}))"

    def version() -> str:
        done = subprocess.run([_python(), "-P", "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return version


def _program(name: str) -> Callable[[], str]:
    return lambda: "" if find(name) else f"{name} is not installed"


def find(name: str) -> str | None:
    """A program, also where only root's PATH looks."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _built(name: str) -> Callable[[], str]:
    return lambda: "" if (BUILT / name).exists() else "it is not built"


def _says(*command: str) -> Callable[[], str]:
    def version() -> str:
        program = find(command[0]) or command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines else ""

    return version


def _filled(name: str, folder: Path, port: int, sndbuf: str = "") -> Path:
    """A configuration with its blanks filled in."""
    text = (HERE / name).read_text()
    for blank, value in {"{PORT}": str(port), "{SNDBUF}": sndbuf, "{FOLDER}": str(folder.absolute())}.items():
        text = text.replace(blank, value)
    path = folder / name
    path.write_text(text)
    return path


def _nginx(sndbuf: str, configuration: str = "nginx.conf") -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        (folder / "image.bin").write_bytes(os.urandom(IMAGE_BYTES))
        folder.chmod(0o755)
        path = _filled(configuration, folder, port, sndbuf)
        return [find("nginx") or "nginx", "-c", str(path.absolute()), "-g", f"user {_me()};"]

    return command


def _me() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _mosquitto(folder: Path, port: int) -> list[str]:
    return [find("mosquitto") or "mosquitto", "-c", str(_filled("mosquitto.conf", folder, port).absolute())]


def _echo(folder: Path, port: int) -> list[str]:
    return [PYTHON, "-P", "-m", "otagate.plane.echo", f"127.0.0.1:{port}"]


NGINX = {"request": HTTP, "missing": _program("nginx"), "version": _says("nginx", "-v")}
# Those of the scenario `tls` need {FOLDER}/certs, as `otagate certs dev` makes it.
NGINX_TLS, NGINX_TLS_SNDBUF = (
    Peer(name, "http", _nginx(sndbuf, "nginx_tls.conf"), does=frozenset(), **NGINX)  # type: ignore[arg-type]
    for name, sndbuf in (("nginx", ""), ("nginx, SO_SNDBUF", f" sndbuf={SNDBUF_BYTES // 1024}k"))
)
TRIO_TLS = Peer(
    "trio.SSLStream",
    "tcp",
    lambda folder, port: [
        PYTHON,
        "-P",
        str(HERE / "trio_tls.py"),
        str(port),
        str((folder / "certs").absolute()),
    ],
    lambda: "",
    lambda: "",
    does=frozenset(),
)
PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            "C floor",
            "tcp",
            lambda folder, port: [str((BUILT / "floor").absolute()), str(port)],
            _built("floor"),
            lambda: "",
            does=frozenset({IDLE, REPORT, PUSH}),
        ),
        Peer(
            "nginx",
            "http",
            _nginx(""),
            does=frozenset({IDLE, LOGIN, REPORT, STREAM}),
            **NGINX,  # type: ignore[arg-type]
        ),
        Peer(
            "nginx, SO_SNDBUF",
            "http",
            _nginx(f" sndbuf={SNDBUF_BYTES // 1024}k"),
            does=frozenset({STREAM}),
            **NGINX,  # type: ignore[arg-type]
        ),
        Peer(
            "mosquitto",
            "mqtt",
            _mosquitto,
            _program("mosquitto"),
            _says("mosquitto", "-h"),
            does=frozenset({IDLE, LOGIN, REPORT, PUSH}),
            request=MQTT,
        ),
        Peer(
            "uWebSockets",
            "websocket",
            _python_peer("socketify_uws.py"),
            _package("socketify"),
            _package_version("socketify"),
            does=EVERYTHING - {STREAM},
        ),
        Peer(
            "Go gorilla",
            "websocket",
            lambda folder, port: [str((BUILT / "gorilla").absolute()), str(port)],
            _built("gorilla"),
            _says("go", "version"),
        ),
        Peer(
            "picows, uvloop",
            "websocket",
            _python_peer("picows_uvloop.py"),
            _package("picows", "uvloop"),
            _package_version("picows"),
        ),
        Peer(
            "websockets.trio",
            "websocket",
            _python_peer("websockets_trio.py"),
            _package("websockets.trio"),
            _package_version("websockets"),
        ),
        Peer(
            "plane alone",
            "websocket",
            _echo,
            lambda: "",
            lambda: "echo of this tree",
            does=frozenset({IDLE, LOGIN, REPORT}),
        ),
    )
}
