"""Which devices may be chosen for a firmware, and why another may not (docs/upgrades.md)."""

from enum import StrEnum
from typing import Protocol


class Reason(StrEnum):
    """Why a device is not eligible: a stable code, and a sentence for the operator."""

    UNKNOWN_DEVICE = "unknown_device"
    OTHER_PRODUCT = "other_product"
    NEVER_LOGGED_IN = "never_logged_in"
    SAME_VERSION = "same_version"
    ROLLBACK = "rollback"
    UPGRADE_NOT_ENDED = "upgrade_not_ended"

    @property
    def sentence(self) -> str:
        """For the operator, without the device's name."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.UNKNOWN_DEVICE: "No device of this product has that identifier.",
    Reason.OTHER_PRODUCT: "The device belongs to another product than the firmware.",
    Reason.NEVER_LOGGED_IN: "The device has never logged in.",
    Reason.SAME_VERSION: "The device already runs the version of this firmware.",
    Reason.ROLLBACK: "The firmware's signature does not say that it may replace the device's version.",
    Reason.UPGRADE_NOT_ENDED: "The device has an upgrade that has not ended.",
}


class DeviceFacts(Protocol):
    """What counts of a device: its product's key, whether it ever logged in, its last reported version."""

    @property
    def product(self) -> str: ...
    @property
    def active(self) -> bool: ...
    @property
    def version(self) -> str | None: ...


class FirmwareFacts(Protocol):
    """What counts of a firmware: its product's key, its version, and the versions that it may replace as its
    signer says (docs/signing.md); none: any."""

    @property
    def product(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def not_before(self) -> tuple[str, ...]: ...


def ineligible_reason(
    device: DeviceFacts | None,
    firmware: FirmwareFacts,
    has_open_upgrade: bool,
    allow_rollback: bool = False,
) -> Reason | None:
    """The first reason that speaks against it, or None for an eligible device.

    `device` is None when nobody has that identifier. `has_open_upgrade` is about effective rows: an
    upgrade that succeeded or failed in a batch still in progress, or whose batch was aborted, is over.
    """
    if device is None:
        return Reason.UNKNOWN_DEVICE
    if device.product != firmware.product:
        return Reason.OTHER_PRODUCT
    if not device.active:
        return Reason.NEVER_LOGGED_IN
    if device.version == firmware.version:
        return Reason.SAME_VERSION
    if firmware.not_before and device.version not in firmware.not_before and not allow_rollback:
        return Reason.ROLLBACK
    if has_open_upgrade:
        return Reason.UPGRADE_NOT_ENDED
    return None
