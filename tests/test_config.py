"""The configuration: layers, refusals, what is shown, the sample file."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from otagate import config, limits
from otagate.config import Configuration, load, render, sample
from otagate.config_texts import Address
from otagate.errors import ConfigurationError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    """Writes a configuration file and returns its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "otagate.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refusal(**arguments: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**arguments)
    return str(caught.value)


# -- layers ----------------------------------------------------------------------------------------


def test_defaults_are_the_limits_and_have_no_source() -> None:
    configuration = load()
    assert configuration == Configuration()
    assert configuration.sources == {}
    assert configuration.data.dir == Path("otagate-data")
    assert configuration.data.disk_free_min == limits.disk_free_min_bytes
    assert configuration.device.heartbeat_s == limits.heartbeat_s
    assert configuration.upgrade.acknowledge_timeout_s * 1000 == limits.acknowledge_timeout_ms
    assert configuration.upgrade.restart_grace_s == 150


def test_every_default_is_itself_allowed() -> None:
    flags = {key.path: str(key.default) for key in config.KEYS.values()}
    loaded = load(flags=flags)
    for section in config.SECTIONS:
        assert getattr(loaded, section) == getattr(Configuration(), section)


def test_later_sources_win(toml: Any) -> None:
    file = toml("[device]\nlisten = '0.0.0.0:1'\nheartbeat_s = 20\nconnections_max = 5\n")
    environ = {"OTAGATE_DEVICE__LISTEN": "0.0.0.0:2", "OTAGATE_DEVICE__HEARTBEAT_S": "30", "PATH": "/bin"}
    loaded = load(file, environ, {"device.listen": "0.0.0.0:3", "data.dir": None})
    assert (loaded.device.listen, loaded.device.heartbeat_s, loaded.device.connections_max) == (
        "0.0.0.0:3",
        30,
        5,
    )
    assert loaded.sources == {
        "device.listen": "flag --device-listen",
        "device.heartbeat_s": "environment OTAGATE_DEVICE__HEARTBEAT_S",
        "device.connections_max": f"file {file}",
        "upgrade.restart_grace_s": "2.5 × device.heartbeat_s",
    }


def test_flags_are_values_or_text_and_data_is_named_as_typed() -> None:
    loaded = load(flags={"data.dir": Path("/srv/ota"), "device.heartbeat_s": 600, "log.format": "json"})
    assert (loaded.data.dir, loaded.device.heartbeat_s, loaded.log.format) == (Path("/srv/ota"), 600, "json")
    assert loaded.sources["data.dir"] == "flag --data"
    assert loaded.sources["device.heartbeat_s"] == "flag --device-heartbeat-s"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 150),
        ({"OTAGATE_DEVICE__HEARTBEAT_S": "10"}, 25),
        ({"OTAGATE_DEVICE__HEARTBEAT_S": "10", "OTAGATE_UPGRADE__RESTART_GRACE_S": "0"}, 0),
        ({"OTAGATE_UPGRADE__RESTART_GRACE_S": "7"}, 7),
    ],
)
def test_restart_grace_follows_the_heartbeat_unless_set(environ: dict[str, str], expected: int) -> None:
    assert load(environ=environ).upgrade.restart_grace_s == expected


def test_variables_of_others_are_left_alone() -> None:
    environ = {"OTAGATE_URL": "x", "OTAGATE_TOKEN": "y", "OTAGATE_PYTHON": "z", "DATA__DIR": "w"}
    assert load(environ=environ).sources == {}


# -- refusals: key, value, what is allowed, where it came from -------------------------------------

BAD_VALUES = [
    ("device.heartbeat_s", "9", "a whole number of seconds from 10 to 600"),
    ("device.heartbeat_s", "601", "a whole number of seconds from 10 to 600"),
    ("device.heartbeat_s", "60s", "a whole number of seconds from 10 to 600"),
    ("device.heartbeat_s", "", "a whole number of seconds from 10 to 600"),
    ("device.heartbeat_s", "true", "a whole number of seconds from 10 to 600"),
    ("device.connections_max", "0", "a whole number of connections from 1 to 10000000"),
    ("device.chunk_bytes", "1000", "a power of two"),
    ("device.message_bytes_max", "512", "not be below device.hello_bytes_max = 1024"),
    ("device.listen", "7700", "HOST:PORT"),
    ("log.level", "verbose", 'one of "debug", "info", "warning", "error"'),
    ("log.format", "JSON", 'one of "text", "json"'),
    ("data.dir", "", "a path"),
    ("data.dir", "a\0b", "a path"),
]


@pytest.mark.parametrize(("path", "value", "allowed"), BAD_VALUES)
def test_bad_value_in_the_environment(path: str, value: str, allowed: str) -> None:
    variable = "OTAGATE_" + path.upper().replace(".", "__")
    said = refusal(environ={variable: value})
    assert said.startswith(f"{path} = ")
    assert f"(environment {variable})" in said
    assert allowed in said


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("heartbeat_s = '60'", '"60"'),  # the file has types: text is no number there
        ("heartbeat_s = 60.5", "60.5"),
        ("heartbeat_s = true", "true"),
        ("heartbeat_s = [60]", "[60]"),
        ("heartbeat_s = 2026-01-01", '"2026-01-01"'),
        ("listen = 7700", "7700"),
        ("listen = {host = 'a'}", '{"host": "a"}'),
    ],
)
def test_bad_value_in_the_file(toml: Any, line: str, shown: str) -> None:
    file = toml(f"[device]\n{line}\n")
    assert refusal(file=file).startswith(f"device.{line.split()[0]} = {shown} (file {file}) must be ")


def test_bad_flag() -> None:
    assert "log.level = 3 (flag --log-level) must be one of" in refusal(flags={"log.level": 3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[device]\nheartbeats = 1",
            "unknown key device.heartbeats (file {file}); did you mean device.heartbeat_s?",
        ),
        ("[devices]\nlisten = 'a:1'", "unknown section devices (file {file}); did you mean device?"),
        ("[zebra]", "unknown section zebra (file {file})"),
        ("device = 1", "device (file {file}) must be a section: [device]"),
        ("[device.listen]\nhost = 'a'", 'device.listen = {{"host": "a"}} (file {file}) must be HOST:PORT'),
        ("[device", "the configuration file {file} is not TOML: "),
        (b"\xff", "the configuration file {file} is not TOML: "),
    ],
)
def test_bad_file(toml: Any, text: str | bytes, said: str) -> None:
    file = toml(text)
    assert refusal(file=file).startswith(said.format(file=file))


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert refusal(file=missing) == f"cannot read the configuration file {missing}: No such file or directory"
    assert refusal(file=tmp_path).endswith("Is a directory")


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("OTAGATE_DEVICE__HEARTBEAT", "; did you mean OTAGATE_DEVICE__HEARTBEAT_S?"),
        ("OTAGATE_DATA_DIR", "; did you mean OTAGATE_DATA__DIR?"),  # the likely slip: one underscore
        ("OTAGATE_Q__Q", ""),
    ],
)
def test_unknown_variable(variable: str, hint: str) -> None:
    assert refusal(environ={variable: "1"}) == f"unknown variable {variable} (environment){hint}"


def test_unknown_flag() -> None:
    assert (
        refusal(flags={"data.dirr": "x"})
        == "unknown key data.dirr (flag --data-dirr); did you mean data.dir?"
    )


# -- addresses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("0.0.0.0:7700", "0.0.0.0", 7700),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("localhost:65535", "localhost", 65535),
        ("[::1]:7700", "::1", 7700),
        ("[::]:0", "::", 0),
        ("gate-1.example:80", "gate-1.example", 80),
    ],
)
def test_address(text: str, host: str, port: int) -> None:
    address = Address(text)
    assert (address, address.host, address.port) == (text, host, port)


NO_PORT = ["", "7700", "host", "host:", "host:x", "host:-1", "host:65536", "host:１", "host:1\n", "[::1]"]
NO_HOST = [":", ":7700", "-:1", "é:1", "::1:7700", "[]:1", "[host]:1", "[::1:1", "a b:1", "http://host:1"]


@pytest.mark.parametrize("text", NO_PORT + NO_HOST)
def test_not_an_address(text: str) -> None:
    with pytest.raises(ValueError):
        Address(text)


# -- certificates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("", []),
        (" , ", []),
        ("a.pem=a.key", [("a.pem", "a.key")]),
        (" a.pem = a.key ,b=c=d,", [("a.pem", "a.key"), ("b", "c=d")]),
        ("a=k, b=k", [("a", "k"), ("b", "k")]),  # one key for two
    ],
)
def test_more_certificates(text: str, files: list[tuple[str, str]]) -> None:
    assert load(environ={"OTAGATE_TLS__MORE_CERTIFICATES": text}).tls.more_certificates.files == files


@pytest.mark.parametrize(
    "text", ["a.pem", "=", "a=", "=a", "a=k, b", "a=k, a=j", ",".join(map("{0}={0}".format, range(65)))]
)
def test_not_certificates(text: str) -> None:
    said = refusal(environ={"OTAGATE_TLS__MORE_CERTIFICATES": text})
    assert said.startswith("tls.more_certificates = ")
    assert said.endswith("must be CERTIFICATE=KEY, up to 64 with commas between them, or empty")


# -- what is shown ---------------------------------------------------------------------------------


def test_render_is_toml_that_loads_to_the_same_and_names_sources(toml: Any) -> None:
    awkward = 'a "quoted" \\ path\twith é and \x7f'
    configuration = load(environ={"OTAGATE_DATA__DIR": awkward}, flags={"device.heartbeat_s": 10})
    shown = render(configuration)
    assert re.search(r"^heartbeat_s = 10 +# flag --device-heartbeat-s$", shown, re.M)
    assert re.search(r"^dir = .* +# environment OTAGATE_DATA__DIR$", shown, re.M)
    assert re.search(r"^restart_grace_s = 25 +# 2.5 × device.heartbeat_s$", shown, re.M)
    assert re.search(r"^transfers_max = 1000 +# default$", shown, re.M)
    again = load(toml(shown))
    assert again.data.dir == Path(awkward)
    assert [getattr(again, section) for section in config.SECTIONS] == [
        getattr(configuration, section) for section in config.SECTIONS
    ]


def test_sample_names_every_key_and_changes_nothing(toml: Any) -> None:
    text = sample()
    for key in config.KEYS.values():
        assert key.variable in text
        assert (key.meta.description or "") in text
    assert load(toml(text)).sources == {}
    uncommented = re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.M)
    assert sum(len(table) for table in tomllib.loads(uncommented).values()) == len(config.KEYS)
    loaded = load(toml(uncommented))
    assert [getattr(loaded, section) for section in config.SECTIONS] == [
        getattr(Configuration(), section) for section in config.SECTIONS
    ]


def test_sample_file_is_fresh() -> None:
    assert (ROOT / "docs/otagate.toml").read_text() == sample(), "stale: run tools/generate"


def test_every_key_has_an_explanation_and_a_number_has_a_unit() -> None:
    for key in config.KEYS.values():
        assert (key.meta.description or "").endswith("."), key.path
        assert key.allowed, key.path


# -- TLS -------------------------------------------------------------------------------------------

OF_TLS = {"tls.certificate": "c.pem", "tls.key": "k.pem"}
OF_ADMIN = {"admin.certificate": "c.pem", "admin.key": "k.pem"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"device.tls": "optional"}, 'device.tls = "optional" (flag --device-tls) needs tls.certificate'),
        (
            {"device.tls": "required", "tls.certificate": "c.pem"},
            'device.tls = "required" (flag --device-tls) needs tls.key',
        ),
        (
            {"admin.tls": "true"},
            "admin.tls = true (flag --admin-tls) needs admin.certificate and admin.key, or those of [tls]",
        ),
        ({"admin.tls": "true", "tls.key": "k.pem"}, "admin.tls = true (flag --admin-tls) needs"),
        (
            {"admin.tls": "true", "admin.key": "k.pem", **OF_TLS},
            'admin.key = "k.pem" (flag --admin-key) needs admin.certificate: set both, or none',
        ),
        (
            {"admin.certificate": "c.pem"},
            'admin.certificate = "c.pem" (flag --admin-certificate) needs admin.key: set both, or none',
        ),
    ],
)
def test_tls_needs_a_certificate_with_its_key(flags: dict[str, str], words: str) -> None:
    assert words in refusal(flags=flags)


@pytest.mark.parametrize("given", [OF_TLS, OF_ADMIN, OF_TLS | OF_ADMIN])
def test_operators_have_a_certificate_of_their_own_or_the_common_one(given: dict[str, str]) -> None:
    assert load(flags={"admin.tls": "true", **given}).admin.tls


@pytest.mark.parametrize(
    "text", ["{product}{device}", "{product}", "{product}-{device}", "{device}/{device}"]
)
def test_a_template_names_each_device_apart(text: str) -> None:
    assert "tls.certificate_template" in refusal(flags={"tls.certificate_template": text})


@pytest.mark.parametrize(
    "text", ["{product}/{device}", "urn:otagate:{product}:{device}", "{device}.{product}"]
)
def test_a_template_may_be(text: str) -> None:
    assert load(flags={"tls.certificate_template": text}).tls.certificate_template == text
