"""What the supplied devices do with an image."""

import os
from pathlib import Path

import pytest

from otagate.sdk.devices import FileDevice

from .gateway import IMAGE, upgrade


async def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "firmware.bin"
    target.write_bytes(b"old")
    device = FileDevice(target, "1.0")
    await device.open_image(upgrade("2.0").firmware)
    for offset in range(0, len(IMAGE), 30_000):
        await device.write(offset, memoryview(IMAGE)[offset : offset + 30_000])
        assert target.read_bytes() == b"old"
    await device.verify()
    await device.burn()
    assert target.read_bytes() == IMAGE
    assert not device.part.exists()
    assert await device.reboot() == "2.0"
    assert FileDevice(target, "1.0").version == "2.0"  # as the program finds it at its next start


async def test_discard_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "firmware.bin"
    target.write_bytes(b"old")
    device = FileDevice(target, "1.0")
    await device.open_image(upgrade("2.0").firmware)
    await device.write(0, b"new")
    await device.discard()
    await device.discard()
    assert target.read_bytes() == b"old"
    assert not device.part.exists()


async def test_a_second_image_begins_anew(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "firmware.bin", "1.0")
    await device.open_image(upgrade("2.0").firmware)
    await device.write(0, b"x" * 100)
    await device.open_image(upgrade("3.0").firmware)
    await device.write(0, b"yy")
    await device.verify()
    await device.burn()
    assert device.path.read_bytes() == b"yy"
    assert await device.reboot() == "3.0"


async def test_what_the_disk_refuses_is_an_os_error(tmp_path: Path) -> None:
    device = FileDevice(tmp_path / "missing" / "firmware.bin", "1.0")
    with pytest.raises(FileNotFoundError):
        await device.open_image(upgrade("2.0").firmware)


async def test_a_power_cut_never_leaves_half_a_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device with an empty version could not log in any more."""
    device = FileDevice(tmp_path / "firmware.bin", "1.0")
    device.version_path.write_text("1.5\n")
    seen: list[str] = []

    def fsync(_: int) -> None:
        seen.append(device.version_path.read_text())

    monkeypatch.setattr(os, "fsync", fsync)
    await device.open_image(upgrade("2.0").firmware)
    await device.write(0, b"new")
    await device.verify()
    await device.burn()
    assert seen == ["1.5\n", "1.5\n", "2.0\n"]  # the image, the version beside the old one, their names
    device.version_path.write_text("")  # as former releases could leave it
    assert FileDevice(device.path, "1.0").version == "1.0"
