"""Every rule for what people may type: `check_<field>(value)` gives the normalised value or raises Invalid.

Free text, names of firmware and file names are stored and compared in Unicode NFC; lengths count
characters (code points) after that. Keys, identifiers, versions and secrets are ASCII and taken as they
are. A message states the whole rule, so it is the same whatever broke it. tests/vectors/validation.json
holds the vectors that the gateway, the command line and the console all pass.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from otagate import limits
from otagate.errors import Invalid
from otagate.upgrade.model import Policy, Range, Rules

MINUTE_MS = 60_000
# Extension A, the unified block, the supplementary planes' extensions, and the number zero U+3007.
CHINESE = "\u3007\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
FIRMWARE_FORMATS = (".bin", ".rom", ".zip", ".gz", ".tar", ".tar.gz")
AUTH_METHODS = ("secret", "certificate", "both")

_WORD = f"{CHINESE}A-Za-z0-9"
_PRODUCT_KEY = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.product_key_chars_max}}}")
_IDENTIFIER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.:@-]{{0,{limits.identifier_chars_max - 1}}}")
_IDENTIFIER_LINES = re.compile(rf"(?:{_IDENTIFIER.pattern}\n)*+")
_SECRET = re.compile(rf"[ -~]{{{limits.secret_chars_min},{limits.secret_chars_max}}}")
_FIRMWARE_NAME = re.compile(
    rf"[{_WORD}](?:[{_WORD}_\-.()（）]{{0,{limits.firmware_name_chars_max - 2}}}[{_WORD}])?"
)
_FIRMWARE_VERSION = re.compile(rf"[A-Za-z0-9_.-]{{1,{limits.firmware_version_chars_max}}}")
# ASCII: without it, IGNORECASE takes the Turkish dotless i for an i.
_FILE_NAME = re.compile(
    rf"[{_WORD}_-]{{1,{limits.file_stem_chars_max}}}(?:{'|'.join(map(re.escape, FIRMWARE_FORMATS))})",
    re.ASCII | re.IGNORECASE,
)
_SPACES = " \u00a0\u3000"
# Control characters, line and paragraph separators, text direction overrides, lone surrogates: each can
# make a list show something else than it holds.
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_TEXT_RULE = "no control characters, no space at either end"
RULE = {
    "product_key": f"A product key is 1-{limits.product_key_chars_max} English letters, digits, '_' or '-'.",
    "product_name": f"A product name is 1-{limits.product_name_chars_max} characters: {_TEXT_RULE}.",
    "auth": "A product's auth is one of: secret, certificate, both.",
    "identifier": (
        f"A device identifier is 1-{limits.identifier_chars_max} English letters, digits, "
        "'_', '.', ':', '@' or '-', and begins with a letter or digit."
    ),
    "device_name": f"A device name is at most {limits.device_name_chars_max} characters: {_TEXT_RULE}.",
    "key_name": f"The name of a key is at most {limits.key_name_chars_max} characters: {_TEXT_RULE}.",
    "token_name": f"The name of a token is 1-{limits.token_name_chars_max} characters: {_TEXT_RULE}.",
    "secret": (
        f"A device secret is {limits.secret_chars_min}-{limits.secret_chars_max} printable ASCII characters."
    ),
    "firmware_name": (
        f"A firmware name is 1-{limits.firmware_name_chars_max} Chinese characters, English letters, digits, "
        "'_', '-', '.' or brackets ( ) （ ）, and begins and ends with a Chinese character, letter or digit."
    ),
    "firmware_version": (
        f"A firmware version is 1-{limits.firmware_version_chars_max} English letters, digits, "
        "'_', '-' or '.'."
    ),
    "firmware_description": (
        f"A description is at most {limits.firmware_description_chars_max} characters: "
        "no control characters but line breaks and tabs."
    ),
    "file_name": (
        f"A file name is 1-{limits.file_stem_chars_max} Chinese characters, English letters, digits, "
        f"'_' or '-', and then one of {' '.join(FIRMWARE_FORMATS)}."
    ),
    "size": f"A firmware file has 1 to {limits.image_bytes_max} bytes (100 MB).",
    "range": "The range is one of: all, directed.",
    "devices": (
        f"A directed batch names 1-{limits.directed_devices_max} device identifiers; "
        "a batch for all devices names none."
    ),
    "validity_days": (
        f"The validity is a whole number of days, {limits.validity_days_min}-{limits.validity_days_max}."
    ),
    "policy": "The policy is one of: standard, silent.",
    "timeout_minutes": (
        "The time-out is a whole number of minutes, "
        f"{limits.timeout_minutes_min}-{limits.timeout_minutes_max}."
    ),
    "retries": f"The number of retries is a whole number, 0-{limits.retries_max}.",
    "retry_interval_minutes": (
        "The retry interval is a whole number of minutes, "
        f"{limits.retry_interval_minutes_min}-{limits.retry_interval_minutes_max}; "
        "required when there are retries."
    ),
}


# -- kinds of rule ---------------------------------------------------------------------------------


def _invalid(field: str, rule: str) -> Invalid:
    return Invalid(RULE[rule], field=field)


def _matching(pattern: re.Pattern[str], value: Any, field: str, rule: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _invalid(field, rule)
    return value


def _nfc(value: Any, field: str, rule: str) -> str:
    if not isinstance(value, str):
        raise _invalid(field, rule)
    return unicodedata.normalize("NFC", value)


def _text(value: Any, field: str, rule: str, chars_min: int, chars_max: int) -> str:
    text = _nfc(value, field, rule)
    if not chars_min <= len(text) <= chars_max or text != text.strip(_SPACES) or _NOT_TEXT.search(text):
        raise _invalid(field, rule)
    return text


def _whole(value: Any, field: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:  # a bool is no number here
        raise _invalid(field, field)
    return value


def _word(value: Any, field: str, words: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in words:
        raise _invalid(field, field)
    return value


# -- products and devices --------------------------------------------------------------------------


def check_product_key(value: Any, field: str = "key") -> str:
    """English letters, digits, `_ -`, 1-64."""
    return _matching(_PRODUCT_KEY, value, field, "product_key")


def check_product_name(value: Any, field: str = "name") -> str:
    """Free text in NFC, 1-100 characters."""
    return _text(value, field, "product_name", 1, limits.product_name_chars_max)


def check_auth(value: Any) -> str:
    """`secret`, `certificate` or `both`."""
    return _word(value, "auth", AUTH_METHODS)


def check_identifier(value: Any, field: str = "identifier") -> str:
    """A letter or digit, then up to 127 of letters, digits and `_ . : @ -`."""
    return _matching(_IDENTIFIER, value, field, "identifier")


def check_device_name(value: Any, field: str = "name") -> str:
    """Free text in NFC, 0-100 characters; a device may go without a name."""
    return _text(value, field, "device_name", 0, limits.device_name_chars_max)


def check_secret(value: Any, field: str = "secret") -> str:
    """16-128 printable ASCII characters, U+0020 to U+007E."""
    return _matching(_SECRET, value, field, "secret")


def check_key_name(value: Any, field: str = "name") -> str:
    """Free text in NFC, 0-100 characters; a signing key may go without a name."""
    return _text(value, field, "key_name", 0, limits.key_name_chars_max)


def check_token_name(value: Any, field: str = "name") -> str:
    """Free text in NFC, 1-100 characters: the audit log shows it, where nothing may pass for another name."""
    return _text(value, field, "token_name", 1, limits.token_name_chars_max)


# -- firmware --------------------------------------------------------------------------------------


def check_firmware_name(value: Any, field: str = "name") -> str:
    """In NFC: 1-50 of Chinese characters, letters, digits and `_ - . ( ) （ ）`; none of these at an end."""
    return _matching(_FIRMWARE_NAME, _nfc(value, field, "firmware_name"), field, "firmware_name")


def check_firmware_version(value: Any, field: str = "version") -> str:
    """1-100 English letters, digits and `_ - .`."""
    return _matching(_FIRMWARE_VERSION, value, field, "firmware_version")


def check_firmware_description(value: Any, field: str = "description") -> str:
    """Free text in NFC, 0-100 characters, lines and tabs allowed."""
    text = _nfc(value, field, "firmware_description")
    bare = text.replace("\n", " ").replace("\r", " ").replace("\t", " ")
    if len(text) > limits.firmware_description_chars_max or _NOT_TEXT.search(bare):
        raise _invalid(field, "firmware_description")
    return text


def check_file_name(value: Any, field: str = "file_name") -> str:
    """In NFC: a stem of 1-64 Chinese characters, letters, digits, `_ -`, then a format in any letter case."""
    return _matching(_FILE_NAME, _nfc(value, field, "file_name"), field, "file_name")


def check_size(value: Any) -> int:
    """Bytes of an image: 1 to 104,857,600."""
    return _whole(value, "size", 1, limits.image_bytes_max)


# -- batches ---------------------------------------------------------------------------------------


def check_range(value: Any) -> str:
    """`all` or `directed`."""
    return _word(value, "range", tuple(member.label for member in Range))


def check_validity_days(value: Any) -> int:
    """1-7."""
    return _whole(value, "validity_days", limits.validity_days_min, limits.validity_days_max)


def check_policy(value: Any) -> str:
    """`standard` or `silent`."""
    return _word(value, "policy", tuple(member.label for member in Policy))


def check_timeout_minutes(value: Any) -> int:
    """1-1,440."""
    return _whole(value, "timeout_minutes", limits.timeout_minutes_min, limits.timeout_minutes_max)


def check_retries(value: Any) -> int:
    """0-5."""
    return _whole(value, "retries", 0, limits.retries_max)


def check_retry_interval_minutes(value: Any) -> int:
    """1-4,320."""
    field = "retry_interval_minutes"
    return _whole(value, field, limits.retry_interval_minutes_min, limits.retry_interval_minutes_max)


def check_devices(value: Any) -> tuple[str, ...]:
    """The identifiers of a directed batch, 1-100,000, each once, in the order in which they were given."""
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= limits.directed_devices_max:
        raise _invalid("devices", "devices")
    if not _are_identifiers(value):
        for index, identifier in enumerate(value):
            check_identifier(identifier, f"devices[{index}]")
    return tuple(dict.fromkeys(value))


def _are_identifiers(values: Sequence[Any]) -> bool:
    """All of them in one match: 100,000 one by one would hold up the loop for 50 ms, these for 8 ms."""
    if set(map(type, values)) != {str}:
        return False
    lines = "\n".join(values) + "\n"
    # a line break inside one would pass for the end of it
    return lines.count("\n") == len(values) and _IDENTIFIER_LINES.fullmatch(lines) is not None


class BatchParameters(msgspec.Struct, frozen=True):
    """The checked parameters of a batch. `devices` is empty for range all, the interval 0 if not given."""

    range: Range
    devices: tuple[str, ...]
    validity_days: int
    policy: Policy
    timeout_minutes: int
    retries: int
    retry_interval_minutes: int
    allow_rollback: bool = False

    def rules(self, target_version: str, created_at_ms: int) -> Rules:
        """What the steps of its device upgrades need."""
        return Rules(
            target_version=target_version,
            retries=self.retries,
            retry_interval_ms=self.retry_interval_minutes * MINUTE_MS,
            timeout_ms=self.timeout_minutes * MINUTE_MS,
            expires_at_ms=created_at_ms + self.validity_days * limits.DAY_MS,
        )


def check_batch(
    *,
    range: Any,
    validity_days: Any,
    policy: Any,
    timeout_minutes: Any,
    retries: Any,
    retry_interval_minutes: Any = None,
    devices: Any = None,
    allow_rollback: bool = False,
) -> BatchParameters:
    """All parameters of a batch but its firmware; the first broken rule is raised.

    `devices` belongs to range directed; the interval may be left out when `retries` is 0.
    """
    chosen = Range.from_label(check_range(range))
    if chosen is Range.ALL and devices not in (None, [], ()):
        raise _invalid("devices", "devices")
    identifiers = check_devices(devices) if chosen is Range.DIRECTED else ()
    number = check_retries(retries)
    interval = 0
    if number or retry_interval_minutes is not None:
        interval = check_retry_interval_minutes(retry_interval_minutes)
    return BatchParameters(
        range=chosen,
        devices=identifiers,
        validity_days=check_validity_days(validity_days),
        policy=Policy.from_label(check_policy(policy)),
        timeout_minutes=check_timeout_minutes(timeout_minutes),
        retries=number,
        retry_interval_minutes=interval,
        allow_rollback=allow_rollback,
    )


# By the names of the rules, as tests/vectors/validation.json uses them.
CHECKS: dict[str, Callable[[Any], str | int]] = {
    "product_key": check_product_key,
    "product_name": check_product_name,
    "auth": check_auth,
    "identifier": check_identifier,
    "device_name": check_device_name,
    "token_name": check_token_name,
    "secret": check_secret,
    "firmware_name": check_firmware_name,
    "firmware_version": check_firmware_version,
    "firmware_description": check_firmware_description,
    "file_name": check_file_name,
    "size": check_size,
    "range": check_range,
    "validity_days": check_validity_days,
    "policy": check_policy,
    "timeout_minutes": check_timeout_minutes,
    "retries": check_retries,
    "retry_interval_minutes": check_retry_interval_minutes,
}
