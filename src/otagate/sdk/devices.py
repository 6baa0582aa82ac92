"""What a device program supplies: where the image goes, and what burning and rebooting mean.

The client calls one method at a time, in this order: wait_to_begin (silent policy only), open_image, write
(in order, without gaps), verify, burn, reboot; `discard` at any point before burn ends it. A method that
cannot do its work raises `UpdateFailed`; an OSError counts as such. Nothing else may come out of them.
"""

import os
from pathlib import Path
from typing import BinaryIO, Protocol

import trio

from otagate.errors import OtagateError
from otagate.wire import messages

FAILURES = (
    "download_failed",
    "verification_failed",
    "burn_failed",
    "other",
    "wrong_version",
    "upgrade_timeout",
)


class UpdateFailed(OtagateError):  # noqa: N818 - a result like any other
    """The device cannot go on with this attempt. `reason` is None for the one that fits the step."""

    def __init__(self, detail: str, reason: messages.Reason | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason


class Device(Protocol):
    """A device as its upgrades see it."""

    async def wait_to_begin(self, firmware: messages.FirmwareOffer) -> None:
        """Silent policy: returns when the device wants to begin. Cancelled when the upgrade is."""

    async def open_image(self, firmware: messages.FirmwareOffer) -> None:
        """Make room for firmware.size bytes; what an earlier image left is void."""

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        """Keep these bytes; `data` is only valid during the call."""

    async def verify(self) -> None:
        """All bytes are here and match the MD5. Check what else matters (a signature), make them durable."""

    async def burn(self) -> None:
        """Put the image in place. The gateway has agreed; nothing cancels this."""

    async def reboot(self) -> str:
        """Start the new firmware and return the version that runs now. A real device does not return."""

    async def discard(self) -> None:
        """The image is not wanted any more."""


class SimulatedDevice:
    """Keeps no bytes, burns and reboots in virtual seconds; fails where it is told to.

    `failure` is one of FAILURES: "wrong_version" still runs the old one after the reboot, "upgrade_timeout"
    begins and never ends, the others are what the device reports. `choose_s` is how long it hesitates
    under silent policy.
    """

    def __init__(
        self,
        version: str,
        *,
        choose_s: float = 0.0,
        burn_s: float = 0.0,
        reboot_s: float = 0.0,
        failure: str | None = None,
    ) -> None:
        self.version = version
        self._choose_s = choose_s
        self._burn_s = burn_s
        self._reboot_s = reboot_s
        self._failure = failure
        self._firmware: messages.FirmwareOffer | None = None

    async def wait_to_begin(self, firmware: messages.FirmwareOffer) -> None:
        await trio.sleep(self._choose_s)

    async def open_image(self, firmware: messages.FirmwareOffer) -> None:
        self._firmware = firmware

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        assert self._firmware is not None
        if self._failure == "download_failed" and offset + len(data) > self._firmware.size // 2:
            raise UpdateFailed("simulated: half way", "download_failed")

    async def verify(self) -> None:
        if self._failure == "upgrade_timeout":
            await trio.sleep_forever()
        if self._failure == "verification_failed":
            raise UpdateFailed("simulated: the signature does not fit", "verification_failed")

    async def burn(self) -> None:
        await trio.sleep(self._burn_s)
        if self._failure == "burn_failed":
            raise UpdateFailed("simulated: the flash is worn out", "burn_failed")
        if self._failure == "other":
            raise UpdateFailed("simulated: the battery is low", "other")

    async def reboot(self) -> str:
        assert self._firmware is not None
        await trio.sleep(self._reboot_s)
        if self._failure != "wrong_version":
            self.version = self._firmware.version
        return self.version

    async def discard(self) -> None:
        self._firmware = None


class FileDevice:
    """Writes the image to `path`.part and renames it to `path` when it burns: durable before, whole after.

    The file's version is kept beside it in `path`.version, for the next start of the program. A real
    program overrides `reboot`.
    """

    def __init__(self, path: str | os.PathLike[str], version: str) -> None:
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.version_path = self.path.with_name(self.path.name + ".version")
        self.version = version
        if self.version_path.exists():
            self.version = self.version_path.read_text("ascii").strip() or version
        self._file: BinaryIO | None = None
        self._offered = ""

    async def wait_to_begin(self, firmware: messages.FirmwareOffer) -> None:
        """Begins at once; a program that knows better overrides it."""

    async def open_image(self, firmware: messages.FirmwareOffer) -> None:
        self._close()
        self._file = self.part.open("wb")
        self._offered = firmware.version

    async def write(self, offset: int, data: bytes | memoryview) -> None:
        assert self._file is not None
        self._file.seek(offset)
        self._file.write(data)

    async def verify(self) -> None:
        assert self._file is not None
        self._file.flush()
        await trio.to_thread.run_sync(os.fsync, self._file.fileno())
        self._close()

    async def burn(self) -> None:
        self.part.replace(self.path)  # first: a crash here leaves the new image, offered once more
        await trio.to_thread.run_sync(self._write_version)

    def _write_version(self) -> None:
        """Whole or not at all: a device with an empty version could not even log in."""
        part = self.version_path.with_name(self.version_path.name + ".part")
        with part.open("w", encoding="ascii") as file:
            file.write(self._offered + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.version_path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    async def reboot(self) -> str:
        self.version = self._offered
        return self.version

    async def discard(self) -> None:
        self._close()
        self.part.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
