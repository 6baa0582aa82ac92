"""The configuration: one frozen struct from file < environment < flags, which knows each value's source.

Theory. The structs below are the only list of keys: their types are what is allowed, their `Meta` is what
is said to people, their defaults come from limits.py. Reading, checking, showing and the sample file
(docs/otagate.toml) walk that list, so a key is added by adding a field. A key is spoken of as
`section.name`; in the environment it is `OTAGATE_SECTION__NAME`. Nothing is guessed: an unknown key, a
value of the wrong type or out of range is a ConfigurationError naming key, value, source and what is allowed.

Pure, except that `load` reads the file it is given.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from otagate import limits
from otagate.config_texts import (
    Address,
    CertificateFiles,
    File,
    HostNames,
    Networks,
    ProductFiles,
    Template,
)
from otagate.errors import ConfigurationError

ENVIRONMENT_PREFIX = "OTAGATE_"
# Flags whose name is not --section-name (the command line of `otagate serve`).
FLAG_NAMES = {"data.dir": "--data"}


def _whole(low: int, high: int, unit: str, about: str) -> Meta:
    return Meta(ge=low, le=high, description=about, extra={"unit": unit})


def _about(text: str) -> Meta:
    return Meta(description=text)


class Data(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept on disk."""

    dir: Annotated[
        Path, _about("Folder of the store, the images and the first admin token; made if missing.")
    ] = Path("otagate-data")
    key_file: Annotated[
        Path,
        _about(
            "The key under which secrets of devices and webhooks are sealed; made at the first start. A "
            "relative path is one in data.dir. No backup holds it: keep a copy."
        ),
    ] = Path("secret-key")
    disk_free_min: Annotated[
        int, _whole(0, 2**50, "bytes", "Uploads, new batches and bulks are refused while less is free.")
    ] = limits.disk_free_min_bytes
    map_bytes: Annotated[
        int,
        _whole(2**26, 2**46, "bytes", "Address space of the store's map: the most it can ever hold. Sparse."),
    ] = limits.map_bytes


class Device(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listener for devices, and what one device may take."""

    listen: Annotated[Address, _about("Where devices connect, on every link.")] = Address("0.0.0.0:7700")
    tls: Annotated[
        Literal["off", "optional", "required"],
        _about("TLS on this listener; with `optional` beside plain connections."),
    ] = "off"
    proxy_trusted: Annotated[
        Networks, _about("Who may say, in a PROXY header (version 2), for whom it speaks.")
    ] = Networks()
    heartbeat_s: Annotated[
        int,
        _whole(
            limits.heartbeat_s_min,
            limits.heartbeat_s_max,
            "seconds",
            "A device sends a frame at least this often; silent for 2.5 times as long, it is offline.",
        ),
    ] = limits.heartbeat_s
    connections_max: Annotated[
        int, _whole(1, 10_000_000, "connections", "More wait until one ends. Each takes a file descriptor.")
    ] = limits.connections_max
    strangers_per_address_max: Annotated[
        int,
        _whole(
            1,
            65_535,
            "connections",
            "Of one address (IPv6: of one /64), not logged in yet; more are closed as they come.",
        ),
    ] = limits.strangers_per_address_max
    transfers_max: Annotated[
        int, _whole(1, 1_000_000, "downloads", "Downloads running at a time; further ones wait their turn.")
    ] = limits.transfers_max
    pushes_max: Annotated[
        int,
        _whole(
            1, 1_000_000, "messages", "Upgrade messages sent and not yet acknowledged; further ones wait."
        ),
    ] = limits.pushes_max
    chunk_bytes: Annotated[
        int,
        _whole(
            limits.chunk_bytes_min,
            limits.chunk_bytes_max,
            "bytes",
            "Chunk size suggested to devices, a power of two; each may ask for another.",
        ),
    ] = limits.chunk_bytes_default
    handshake_timeout_s: Annotated[
        int, _whole(1, 600, "seconds", "For the TLS handshake, and again for the WebSocket head.")
    ] = limits.handshake_timeout_ms // 1000
    hello_timeout_s: Annotated[int, _whole(1, 600, "seconds", "For `hello`, after the handshake.")] = (
        limits.hello_timeout_ms // 1000
    )
    write_stall_timeout_s: Annotated[
        int,
        _whole(
            1, 3600, "seconds", "A device that reads nothing for this long, while output waits, is cut off."
        ),
    ] = limits.write_stall_timeout_ms // 1000
    http_head_bytes_max: Annotated[
        int, _whole(512, 64 * limits.KIB, "bytes", "A WebSocket handshake's head.")
    ] = limits.http_head_bytes_max
    hello_bytes_max: Annotated[int, _whole(512, 64 * limits.KIB, "bytes", "A message before login.")] = (
        limits.hello_bytes_max
    )
    message_bytes_max: Annotated[
        int, _whole(512, 64 * limits.KIB, "bytes", "A message after login; not below hello_bytes_max.")
    ] = limits.message_bytes_max
    goodbye_retry_after_s: Annotated[
        int,
        _whole(
            0, 3600, "seconds", "A stopping gateway asks its devices to stay away for at least this long."
        ),
    ] = limits.goodbye_retry_after_s


class Tls(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Certificates. All files are PEM; SIGHUP reads them anew, for new connections."""

    certificate: Annotated[File, _about("The gateway's certificate, then those between it and the root.")] = (
        File()
    )
    key: Annotated[File, _about("Its private key, without a password.")] = File()
    more_certificates: Annotated[
        CertificateFiles,
        _about("Further certificates, for devices that ask for a DNS name (server_name) in one of them."),
    ] = CertificateFiles()
    client_certificates: Annotated[
        Literal["off", "optional", "required"],
        _about("Whether devices are asked for a certificate, and whether they must have one."),
    ] = "off"
    client_ca: Annotated[File, _about("Authorities that sign devices' certificates.")] = File()
    product_ca: Annotated[
        ProductFiles, _about("Products whose devices have an authority of their own, and no other.")
    ] = ProductFiles()
    client_crl: Annotated[
        File, _about("Certificates that were revoked: a CRL of each of these authorities.")
    ] = File()
    certificate_name: Annotated[
        Literal["cn", "uri", "dns"],
        _about("Where a device's certificate names it: common name, or the one URI or DNS name."),
    ] = "cn"
    certificate_template: Annotated[Template, _about("What that name looks like.")] = Template(
        "{product}/{device}"
    )


class Admin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The listener for operators: API, console, metrics."""

    listen: Annotated[
        Address, _about("Where operators connect. Without TLS it is plain HTTP: keep it on this machine.")
    ] = Address("127.0.0.1:7780")
    hosts: Annotated[
        HostNames,
        _about(
            "Names under which operators, proxies and scrapers reach this listener, without port; "
            "localhost and addresses always do."
        ),
    ] = HostNames()
    tls: Annotated[bool, _about("HTTPS on this listener, and nothing else.")] = False
    certificate: Annotated[
        File, _about("Its certificate, then those between it and the root. Unless set: that of [tls].")
    ] = File()
    key: Annotated[File, _about("The certificate's private key. Unless set: that of [tls].")] = File()
    metrics_token: Annotated[
        bool, _about("Whether GET /metrics asks for a token, of any role. Without it everybody may scrape.")
    ] = False
    drain_timeout_s: Annotated[
        int, _whole(0, 600, "seconds", "From SIGTERM to exit: what still runs then is cut off.")
    ] = limits.drain_timeout_ms // 1000


class Upgrade(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The clocks of device upgrades that no batch sets."""

    acknowledge_timeout_s: Annotated[
        int, _whole(1, 600, "seconds", "A device that was sent an upgrade message answers within this.")
    ] = limits.acknowledge_timeout_ms // 1000
    restart_grace_s: Annotated[
        int,
        _whole(
            0,
            86_400,
            "seconds",
            "After a start, or a sleep of the machine, time-outs that fell due meanwhile wait this long, so "
            "that devices report first. Unless set: 2.5 times device.heartbeat_s.",
        ),
    ] = int(limits.heartbeats_missed * limits.heartbeat_s)


class Webhook(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What webhooks are told, and when."""

    stalled_minutes: Annotated[
        int,
        _whole(
            1,
            10_080,
            "minutes",
            "A batch in progress without a transition for this long, although devices of it are online, has "
            "stalled.",
        ),
    ] = limits.batch_stalled_minutes


class Log(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is written to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Lines below this level are not written.")
    ] = "info"
    format: Annotated[
        Literal["text", "json"], _about("One line per fact: `time level event key=value`, or a JSON object.")
    ] = "text"


class Configuration(Struct, frozen=True, kw_only=True):
    """All settings in force. `sources` says for each `section.name` where it came from; absent: default."""

    data: Data = Data()
    device: Device = Device()
    tls: Tls = Tls()
    admin: Admin = Admin()
    upgrade: Upgrade = Upgrade()
    webhook: Webhook = Webhook()
    log: Log = Log()
    sources: Mapping[str, str] = field(default_factory=dict)


_WORDS: dict[type, str] = {
    Path: "a path",
    File: "a path, or empty",
    Networks: "addresses and networks with commas between them, or empty",
    HostNames: "host names with commas between them, or empty",
    ProductFiles: "PRODUCT=PATH with commas between them, or empty",
    CertificateFiles: (
        f"CERTIFICATE=KEY, up to {limits.more_certificates_max} with commas between them, or empty"
    ),
    Template: "a text with {product}, {device} and between them a character that no product key has",
}
_MAY_BE_EMPTY = (File, Networks, HostNames, ProductFiles, CertificateFiles)


class _Key(NamedTuple):
    section: str
    name: str
    type: Any
    meta: Meta
    default: Any

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT_PREFIX}{self.section}__{self.name}".upper()

    @property
    def allowed(self) -> str:
        """What may stand there, in words."""
        kind = get_args(self.type)[0]
        if kind is int:
            return (
                f"a whole number of {(self.meta.extra or {})['unit']} from {self.meta.ge} to {self.meta.le}"
            )
        if kind is bool:
            return "true or false"
        if kind is Address:
            return "HOST:PORT, with an IPv6 address in brackets, port 0 to 65535"
        if kind in _WORDS:
            return _WORDS[kind]
        assert get_origin(kind) is Literal
        return "one of " + ", ".join(_toml(choice) for choice in get_args(kind))


SECTIONS: dict[str, type[Struct]] = {
    "data": Data,
    "device": Device,
    "tls": Tls,
    "admin": Admin,
    "upgrade": Upgrade,
    "webhook": Webhook,
    "log": Log,
}


def _keys() -> dict[str, _Key]:
    keys = {}
    for section, struct in SECTIONS.items():
        hints = get_type_hints(struct, include_extras=True)
        for item in msgspec.structs.fields(struct):
            hint = hints[item.name]
            key = _Key(section, item.name, hint, get_args(hint)[1], item.default)
            keys[key.path] = key
    return keys


KEYS = _keys()
_BY_VARIABLE = {key.variable: key for key in KEYS.values()}


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Configuration:
    """Read the configuration; later sources win: file, environment, flags.

    `flags` maps `section.name` to a value or its text; None means not given. Variables without the
    double underscore (OTAGATE_URL …) belong to others and are left alone.
    Raises ConfigurationError, one sentence naming key, value, source and what is allowed.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(key: _Key, value: Any, source: str, *, text: bool) -> None:
        values[key.path] = _convert(key, value, source, text=text)
        sources[key.path] = source

    for path, value, source in _from_file(file) if file is not None else ():
        take(_known(path, KEYS, source), value, source, text=False)
    for variable, text in sorted((environ or {}).items()):
        if _is_ours(variable):
            source = f"environment {variable}"
            take(_known(variable, _BY_VARIABLE, "environment"), text, source, text=True)
    for path, value in (flags or {}).items():
        if value is not None:
            source = "flag " + FLAG_NAMES.get(path, "--" + path.replace(".", "-").replace("_", "-"))
            take(_known(path, KEYS, source), value, source, text=isinstance(value, str))

    if "upgrade.restart_grace_s" not in values and "device.heartbeat_s" in values:
        values["upgrade.restart_grace_s"] = int(limits.heartbeats_missed * values["device.heartbeat_s"])
        sources["upgrade.restart_grace_s"] = "2.5 × device.heartbeat_s"
    sections: dict[str, Any] = {
        section: struct(**{key.name: values[key.path] for key in _of(section) if key.path in values})
        for section, struct in SECTIONS.items()
    }
    configuration = Configuration(**sections, sources=sources)
    _check_together(configuration)
    return configuration


def render(configuration: Configuration) -> str:
    """Every key with its value, as TOML; a comment names where the value came from."""
    lines = []
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for key in _of(section):
            value = getattr(getattr(configuration, section), key.name)
            source = configuration.sources.get(key.path, "default")
            lines.append(f"{key.name} = {_toml(value)}".ljust(40) + f"  # {source}")
    return "\n".join(lines[1:]) + "\n"


def sample() -> str:
    """Every key explained, with its default commented out: the contents of docs/otagate.toml."""
    lines = [
        "# The configuration of otagate: every key with its default. Written by tools/generate.",
        "# `otagate serve --config FILE` reads it. The variable beside a key wins over the file, a flag of",
        "# the command line over both; `otagate config show` says what is in force and from where.",
    ]
    for section, struct in SECTIONS.items():
        lines += ["", f"# {struct.__doc__}", f"[{section}]"]
        for key in _of(section):
            lines += ["", f"# {key.meta.description}", f"# {_capital(key.allowed)}. {key.variable}"]
            lines.append(f"#{key.name} = {_toml(key.default)}")
    return "\n".join(lines) + "\n"


def _of(section: str) -> list[_Key]:
    return [key for key in KEYS.values() if key.section == section]


def _from_file(file: Path) -> list[tuple[str, Any, str]]:
    """What the file sets: (path of the key, value, source)."""
    try:
        tables = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the configuration file {file} is not TOML: {error}") from error
    found = []
    for section, table in tables.items():
        if section not in SECTIONS:
            raise _unknown(section, list(SECTIONS), f"file {file}", "section")
        if not isinstance(table, dict):
            raise ConfigurationError(f"{section} (file {file}) must be a section: [{section}]")
        found += [(f"{section}.{name}", value, f"file {file}") for name, value in table.items()]
    return found


def _is_ours(variable: str) -> bool:
    """Meant for us: has the double underscore, or would be one of ours if it had."""
    return variable.startswith(ENVIRONMENT_PREFIX) and (
        "__" in variable or any(variable == known.replace("__", "_") for known in _BY_VARIABLE)
    )


def _known(name: str, table: Mapping[str, _Key], source: str) -> _Key:
    if name not in table:
        raise _unknown(name, list(table), source, "variable" if table is _BY_VARIABLE else "key")
    return table[name]


def _unknown(name: str, known: list[str], source: str, noun: str) -> ConfigurationError:
    # The common prefix would make every variable resemble every other.
    stems = {one.removeprefix(ENVIRONMENT_PREFIX): one for one in known}
    close = difflib.get_close_matches(name.removeprefix(ENVIRONMENT_PREFIX), stems, n=1)
    hint = f"; did you mean {stems[close[0]]}?" if close else ""
    return ConfigurationError(f"unknown {noun} {name} ({source}){hint}")


def _convert(key: _Key, value: Any, source: str, *, text: bool) -> Any:
    """The value as the key's type; from text, numbers are read too."""

    def make(kind: type, raw: Any) -> Any:
        if not isinstance(raw, str | Path) or "\0" in str(raw):
            raise ValueError(raw)
        if not str(raw) and kind not in _MAY_BE_EMPTY:
            raise ValueError(raw)
        return kind(raw)

    try:
        return msgspec.convert(value, key.type, strict=not text, dec_hook=make)
    except msgspec.ValidationError as error:
        message = f"{key.path} = {_toml(value)} ({source}) must be {key.allowed}"
        raise ConfigurationError(message) from error


def _check_together(configuration: Configuration) -> None:
    """Rules over more than one key, or more than a range."""
    device = configuration.device

    def refuse(path: str, rule: str) -> ConfigurationError:
        section, name = path.split(".")
        value = getattr(getattr(configuration, section), name)
        source = configuration.sources.get(path, "default")
        return ConfigurationError(f"{path} = {_toml(value)} ({source}) {rule}")

    if device.chunk_bytes.bit_count() != 1:
        raise refuse("device.chunk_bytes", "must be a power of two")
    if device.tls != "off":
        for name in ("certificate", "key"):
            if not getattr(configuration.tls, name):
                raise refuse("device.tls", f"needs tls.{name}")
    admin = configuration.admin
    for one, other in (("certificate", "key"), ("key", "certificate")):
        if getattr(admin, one) and not getattr(admin, other):
            raise refuse(f"admin.{one}", f"needs admin.{other}: set both, or none")
    if admin.tls and not (admin.key or (configuration.tls.certificate and configuration.tls.key)):
        raise refuse("admin.tls", "needs admin.certificate and admin.key, or those of [tls]")
    if device.message_bytes_max < device.hello_bytes_max:
        rule = f"must not be below device.hello_bytes_max = {device.hello_bytes_max}"
        raise refuse("device.message_bytes_max", rule)


def _toml(value: Any) -> str:
    """The value as TOML writes it; JSON's strings are TOML's, but for DEL."""
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value, default=str)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
