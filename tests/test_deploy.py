"""What docs/ offers for running otagate: it names what exists, and the service manager starts it."""

import configparser
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from otagate import cli, config, limits
from otagate.admin import metrics as admin_metrics
from otagate.gateway import metrics as gateway_metrics
from tests.end_to_end.process import running

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs" / "deploy"
FAMILIES = (*gateway_metrics.FAMILIES, *admin_metrics.FAMILIES)
HISTOGRAM_ENDS = ("_bucket", "_count", "_sum")
SAMPLES = {
    family.sample_name + end
    for family in FAMILIES
    for end in (HISTOGRAM_ENDS if family.kind == "histogram" else ("",))
}
LABELS = {label for family in FAMILIES for label in family.labels} | {"le", "instance", "job"}

# -- metrics: the page, the dashboard, the alerts -------------------------------------------------------


def test_the_page_is_not_stale() -> None:
    tool = ROOT / "tools" / "generate_metrics"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_and_units() -> None:
    names = [family.name for family in FAMILIES]
    assert len(set(names)) == len(names)
    for family in FAMILIES:
        assert re.fullmatch(r"otagate_[a-z_]+", family.name)
        assert not family.unit or family.name.endswith(f"_{family.unit}")
        assert family.help.endswith(".")


def expressions() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    dashboard = json.loads((DEPLOY / "otagate.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    found += [annotation["expr"] for annotation in dashboard["annotations"]["list"]]
    found += [variable["query"]["query"] for variable in dashboard["templating"]["list"][1:]]
    return found + [rule["expr"] for rule in rules()]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_queries_name_what_there_is(expression: str) -> None:
    assert expression.count("(") == expression.count(")")
    names = set(re.findall(r"\botagate_[a-z_]+", re.sub(r'"[^"]*"', '""', expression)))
    assert names <= SAMPLES
    assert names or expression.startswith("up{")
    grouped = re.findall(r"\b(?:by|on) \(([a-z, ]+)\)", expression)
    asked = {label.strip() for labels in grouped for label in labels.split(",")}
    asked |= set(re.findall(r"[{,]\s*([a-z_]+)=~?\"", expression))
    assert asked <= LABELS


def test_rules_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_the_dashboard_is_whole() -> None:
    panels = json.loads((DEPLOY / "otagate.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


# -- the service manager --------------------------------------------------------------------------------


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((DEPLOY / name).read_text())
    return parser


def test_the_service() -> None:
    service = unit("otagate.service")["Service"]
    assert service["Type"] == "notify"
    assert int(service["LimitNOFILE"]) > limits.connections_max
    assert int(service["TimeoutStopSec"]) * 1000 > limits.drain_timeout_ms
    assert int(service["WatchdogSec"]) * 1000 > limits.health_stall_ms, "/livez tells first"
    command = service["ExecStart"].split()[1:]
    options = cli.build_parser().parse_args(command)
    assert str(options.data) == f"/var/lib/{service['StateDirectory']}"
    for variable in re.findall(
        r"^Environment=(\w+)=", (DEPLOY / "otagate.service").read_text(), re.MULTILINE
    ):
        assert variable in {key.variable for key in config.KEYS.values()}


def test_the_sockets() -> None:
    ports = {}
    for name in ("devices", "admin"):
        parser = unit(f"otagate-{name}.socket")
        assert parser["Socket"]["FileDescriptorName"] == name
        assert f"otagate-{name}.socket" in unit("otagate.service")["Unit"]["Requires"]
        ports[name] = parser["Socket"]["ListenStream"]
    defaults = config.Configuration()
    assert ports == {"devices": str(defaults.device.listen.port), "admin": defaults.admin.listen}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_units_verify(tmp_path: Path) -> None:
    """systemd-analyze says nothing about the units, once the program that they name exists."""
    for path in DEPLOY.glob("otagate*.s*"):
        if path.suffix in (".service", ".socket"):
            text = path.read_text().replace("/opt/otagate/bin/otagate", shutil.which("true") or "/bin/true")
            (tmp_path / path.name).write_text(text)
    units = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "otagate" in line]
    assert said == []


# Does what systemd does before it starts a service with sockets; LISTEN_PID is the process that becomes it.
HAND_OVER = """
import fcntl, os, socket, sys
given = [socket.create_server(("127.0.0.1", 0)) for name in ("devices", "admin")]
for at, high in enumerate([fcntl.fcntl(own, fcntl.F_DUPFD, 50) for own in given], 3):
    os.dup2(high, at, inheritable=True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "devices:admin"}
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
NOT_OURS = "192.0.2.1:1"  # RFC 5737: nobody can listen there


def test_it_tells_the_service_manager(tmp_path: Path) -> None:
    """READY=1 on sockets that were handed over, WATCHDOG=1 while it turns, STOPPING=1 at SIGTERM."""
    name = str(tmp_path / "notify")
    command = (sys.executable, "-c", HAND_OVER, "-P", "-m", "otagate", "serve")
    environment = {"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "300000"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name)
        manager.settimeout(60)
        with running(
            tmp_path / "data", command=command, environment=environment, listen=(NOT_OURS, NOT_OURS)
        ) as gateway:
            heard = {manager.recv(4096) for _ in range(5)}
            assert heard == {b"READY=1\nSTATUS=serving", b"WATCHDOG=1"}
            socket.create_connection(gateway.devices, 10).close()
            checks = httpx.get(f"http://127.0.0.1:{gateway.admin[1]}/readyz").json()["checks"]
            assert [check["name"] for check in checks] == ["listeners", "pump", "store", "map", "disk"]
            gateway.terminate()
            while manager.recv(4096) != b"STOPPING=1\nSTATUS=draining":
                pass


# -- the container ----------------------------------------------------------------------------------------


def test_the_container() -> None:
    """No engine to build it with here: its instructions are known, its paths and variables exist."""
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    instructions = [line.split(None, 1) for line in lines if line.strip()]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL"}
    assert {name for name, _ in instructions} <= known | {"HEALTHCHECK", "ENTRYPOINT", "CMD"}
    for name, rest in instructions:
        words = rest.split()
        if name == "COPY" and not rest.startswith("--from"):
            assert all((ROOT / source).exists() for source in words[:-1]), rest
        if name == "ENV":
            variables = {word.partition("=")[0] for word in words} - {"PATH"}
            assert variables <= {key.variable for key in config.KEYS.values()}
    names = [name for name, _ in instructions]
    assert names.index("USER") < names.index("ENTRYPOINT"), "not as root"
    ports = {str(address.port) for address in (config.Device().listen, config.Admin().listen)}
    assert set(dict(map(tuple, instructions))["EXPOSE"].split()) == ports
