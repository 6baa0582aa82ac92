"""A complete device program: it keeps the file IMAGE up to date and starts itself again after each upgrade.

python example_device.py URL PRODUCT DEVICE SECRET_FILE IMAGE
"""

import os
import sys
import time
from pathlib import Path
from typing import NoReturn

import trio

from otagate.sdk import Agent, Client, FileDevice, Note, UpdateFailed
from otagate.wire.messages import FirmwareOffer

FACTORY_VERSION = "1.0.0"  # what runs until the first upgrade
DAY_S = 86_400
NOON_S = DAY_S // 2  # UTC


class Lamp(FileDevice):
    """FileDevice writes IMAGE.part and renames it when it burns; the rest is for the lamp to say."""

    async def wait_to_begin(self, firmware: FirmwareOffer) -> None:
        """Silent upgrades begin at noon, when nobody needs the light."""
        await trio.sleep((NOON_S - time.time()) % DAY_S)

    async def verify(self) -> None:
        """The MD5 has been checked already. What else must be true of an image?"""
        with self.part.open("rb") as image:
            if image.read(4) != b"LAMP":
                raise UpdateFailed("this is no image for a lamp", "verification_failed")
        await super().verify()

    async def reboot(self) -> NoReturn:
        """Start anew; the version to report then stands beside the image."""
        os.execv(sys.executable, [sys.executable, *sys.argv])  # noqa: S606


def tell(note: Note) -> None:
    """One line per fact."""
    print(note.event, *(f"{name}={value}" for name, value in note.facts.items()), file=sys.stderr)


def main() -> None:
    """Runs until it is killed."""
    url, product, identifier, secret_file, image = sys.argv[1:]
    secret = Path(secret_file).read_text().strip()
    device = Lamp(image, FACTORY_VERSION)
    agent = Agent(product, identifier, secret, device.version)
    trio.run(Client(url, agent, device, mutual=True, observe=tell).run)


if __name__ == "__main__":
    main()
