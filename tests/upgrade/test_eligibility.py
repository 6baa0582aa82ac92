from typing import NamedTuple

import pytest

from otagate.upgrade.eligibility import Reason, ineligible_reason


class Device(NamedTuple):
    product: str = "lamp"
    active: bool = True
    version: str = "1.0"


class Firmware(NamedTuple):
    product: str = "lamp"
    version: str = "2.0"
    not_before: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("device", "has_open_upgrade", "reason"),
    [
        (Device(), False, None),
        (Device(version="2.0 "), False, None),
        (None, False, "unknown_device"),
        (Device(product="lock"), False, "other_product"),
        (Device(active=False, version=""), False, "never_logged_in"),
        (Device(version="2.0"), False, "same_version"),
        (Device(), True, "upgrade_not_ended"),
        # The first reason that speaks against it.
        (Device("lock", False, "2.0"), True, "other_product"),
        (Device("lamp", False, "2.0"), True, "never_logged_in"),
        (Device("lamp", True, "2.0"), True, "same_version"),
    ],
)
def test_reason(device: Device | None, has_open_upgrade: bool, reason: str | None) -> None:
    assert ineligible_reason(device, Firmware(), has_open_upgrade) == reason


@pytest.mark.parametrize(
    ("version", "not_before", "rollback"),
    [
        ("1.0", (), False),
        ("1.0", ("0.9", "1.0"), False),
        ("3.0", ("0.9", "1.0"), True),
        ("1.0 ", ("1.0",), True),
    ],
)
def test_a_rollback_is_what_the_signer_did_not_name(
    version: str, not_before: tuple[str, ...], rollback: bool
) -> None:
    device, firmware = Device(version=version), Firmware(not_before=not_before)
    assert ineligible_reason(device, firmware, False) == (Reason.ROLLBACK if rollback else None)
    assert ineligible_reason(device, firmware, False, allow_rollback=True) is None
    assert ineligible_reason(device, firmware, True, allow_rollback=True) == Reason.UPGRADE_NOT_ENDED


def test_every_reason_has_a_sentence() -> None:
    sentences = {reason.sentence for reason in Reason}
    assert len(sentences) == len(Reason)
    assert all(sentence.endswith(".") for sentence in sentences)
