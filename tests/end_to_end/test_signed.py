"""Signed firmware from the upload to the device: the gateway's checks, and those of a device that trusts none
of it. Real plane, store, images and SDK.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from otagate.errors import Conflict, Invalid, NotFound
from otagate.gateway.views import (
    AddSigningKeyRequest,
    FirmwareMetadata,
    FirmwareView,
    UpdateProductRequest,
    UpgradeDetails,
)
from otagate.sdk.agent import Agent
from otagate.sdk.client import Client
from otagate.sdk.devices import FileDevice
from otagate.sdk.effects import Note
from otagate.sdk.trust import Trust
from otagate.signing.keys import PrivateKey
from otagate.signing.manifest import BadSignature, Manifest
from otagate.store.interface import AddFirmware, DeleteFirmware, Firmware
from tests.end_to_end.device import SECRET
from tests.end_to_end.world import EPOCH_MS, World

IMAGE = os.urandom(200_000)
KEY, OTHER = PrivateKey.generate(), PrivateKey.generate()
NOW_S = EPOCH_MS // 1000
DAY_S = 86_400


def manifest(image: bytes = IMAGE, **changes: Any) -> Manifest:
    made = Manifest(
        product="lamp",
        name="fw-3.0",
        version="3.0",
        size=len(image),
        sha256=hashlib.sha256(image).hexdigest(),
        md5=hashlib.md5(image).hexdigest(),
        expires=NOW_S + DAY_S,
        not_before=("1.0",),
    )
    return replace(made, **changes)


async def upload(world: World, signature: bytes, image: bytes = IMAGE, **changes: Any) -> FirmwareView:
    fields = {"product": "lamp", "name": "fw-3.0", "version": "3.0", "file_name": "fw.bin"} | changes
    metadata = FirmwareMetadata(**fields, signature=signature.decode())
    async with world.service.upload_firmware(metadata) as taken:
        await taken.write(image)
        return await taken.finish()


async def require(world: World, key: PrivateKey = KEY) -> None:
    """The product has the key, and takes nothing else any more."""
    await world.service.add_signing_key("lamp", AddSigningKeyRequest(key.public.pem(), "release"))
    await world.service.update_product("lamp", UpdateProductRequest(True))


# -- the gateway -------------------------------------------------------------------------------------


async def test_keys_of_a_product(world: World) -> None:
    service = world.service
    with pytest.raises(Invalid) as refused:
        await service.update_product("lamp", UpdateProductRequest(True))
    assert refused.value.field == "require_signature"
    for pem in ("", KEY.pem().decode(), KEY.public.pem()[:-40]):
        with pytest.raises(Invalid) as refused:
            await service.add_signing_key("lamp", AddSigningKeyRequest(pem))
        assert refused.value.field == "public_key"
    with pytest.raises(NotFound):
        await service.add_signing_key("cup", AddSigningKeyRequest(KEY.public.pem()))
    with pytest.raises(Invalid) as refused:
        await service.add_signing_key("lamp", AddSigningKeyRequest(KEY.public.pem(), " x"))
    assert refused.value.field == "name"
    for key in (KEY, OTHER):
        view = await service.add_signing_key("lamp", AddSigningKeyRequest(key.public.pem(), "release"))
        assert (view.id, view.name, view.public_key) == (key.public.id, "release", key.public.pem())
    with pytest.raises(Conflict):
        await service.add_signing_key("lamp", AddSigningKeyRequest(KEY.public.pem()))
    await service.revoke_signing_key("lamp", KEY.public.id)
    first = await service.list_signing_keys("lamp", cursor=None, limit=1)
    second = await service.list_signing_keys("lamp", cursor=first.next, limit=1)
    assert [key.revoked_at is None for key in first.items + second.items] == [False, True]
    assert second.next is None
    log = await service.list_audit(cursor=None, limit=9, actor=None, action=None)
    assert [entry.action for entry in log.items][:3] == [
        "signing_key.revoke",
        "signing_key.add",
        "signing_key.add",
    ]


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        (b"", "requires signed firmware (require_signature)"),
        (b"nothing of the kind", "A signature file has"),
        (OTHER.sign(manifest()).encode(), "none of those that are trusted"),
        (replace(OTHER.sign(manifest()), key=KEY.public.id).encode(), "is not one of key"),
        (KEY.sign(manifest(expires=NOW_S - 1)).encode(), "has expired"),
        (KEY.sign(manifest(product="cup")).encode(), "has product 'cup'"),
        (KEY.sign(manifest(name="fw-4.0")).encode(), "has name 'fw-4.0'"),
        (KEY.sign(manifest(version="4.0")).encode(), "has version '4.0'"),
    ],
)
async def test_an_upload_is_refused_before_its_bytes(world: World, signature: bytes, words: str) -> None:
    await require(world)
    with pytest.raises(Invalid) as refused:
        await upload(world, signature, b"no byte of this is asked for")
    assert words in refused.value.message
    assert (refused.value.status, refused.value.field) == (422, "signature")


@pytest.mark.parametrize("changes", [{"size": 5}, {"md5": "0" * 32}, {"sha256": "0" * 64}])
async def test_an_upload_of_other_bytes_is_refused(world: World, changes: dict[str, Any]) -> None:
    await require(world)
    with pytest.raises(BadSignature, match="not those that were signed"):
        await upload(world, KEY.sign(manifest(**changes)).encode())
    with pytest.raises(NotFound):
        await world.service.get_firmware("f2")


async def test_a_signature_that_is_not_required_is_checked_all_the_same(world: World) -> None:
    with pytest.raises(Invalid):
        await upload(world, KEY.sign(manifest()).encode())
    await world.service.add_signing_key("lamp", AddSigningKeyRequest(KEY.public.pem()))
    view = await upload(world, KEY.sign(manifest()).encode())
    assert view.signature is not None
    assert (view.signature.key, view.signature.not_before) == (KEY.public.id, ["1.0"])
    assert (await world.service.get_firmware("f1")).signature is None


async def test_batches_need_a_good_signature(world: World) -> None:
    await require(world)
    with pytest.raises(Invalid, match="requires signed firmware") as refused:
        await world.create_batch("f1")
    assert refused.value.field == "firmware"
    firmware = (await upload(world, KEY.sign(manifest(expires=NOW_S + 60)).encode())).id
    assert await world.create_batch(firmware)
    await world.jump(61, alive=False)
    with pytest.raises(Invalid, match="has expired"):
        await world.create_batch(firmware)


async def test_a_rollback_needs_a_word(world: World) -> None:
    await require(world)
    firmware = (await upload(world, KEY.sign(manifest(not_before=("0.9",))).encode())).id
    with pytest.raises(Invalid, match="no device is eligible"):
        await world.create_batch(firmware)
    with pytest.raises(Invalid) as refused:
        await world.create_batch(firmware, range="directed", devices=["d1"])
    assert refused.value.details[0]["reason"] == "rollback"
    batch = await world.create_batch(firmware, range="directed", devices=["d1"], allow_rollback=True)
    assert (await world.service.get_batch(batch)).allow_rollback


# -- the device ----------------------------------------------------------------------------------------


@asynccontextmanager
async def a_device(world: World, link: str, folder: Path, trust: Trust) -> AsyncIterator[list[Note]]:
    """Device d1 with this trust, online; the notes that its SDK makes."""
    notes: list[Note] = []
    host, port = world.address
    scheme = "ws" if link == "websocket" else "tcp"
    path = "/device" if link == "websocket" else ""
    agent = Agent("lamp", "d1", SECRET, "1.0", trust=trust)
    client = Client(
        f"{scheme}://{host}:{port}{path}", agent, FileDevice(folder / "image", "1.0"), observe=notes.append
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await world.wait(lambda: agent.online)
        yield notes
        nursery.cancel_scope.cancel()


def trusting(*keys: PrivateKey, now_s: int = NOW_S, **options: Any) -> Trust:
    return Trust([key.public for key in keys], wall_s=lambda: float(now_s), **options)


async def refused_by_device(
    world: World, link: str, tmp_path: Path, trust: Trust, **parameters: Any
) -> UpgradeDetails:
    """Upgrade d1, which has to refuse before it asks for a byte."""
    async with a_device(world, link, tmp_path, trust) as notes:
        batch = await world.create_batch(**parameters)
        details = await world.wait_state(batch, "d1", "failed")
    assert details.remark == "verification_failed"
    assert not any(note.event == "downloading" for note in notes)
    assert not (tmp_path / "image.part").exists()
    return details


async def test_a_signed_upgrade(world: World, link: str, tmp_path: Path) -> None:
    await require(world)
    firmware = (await upload(world, KEY.sign(manifest()).encode())).id
    async with a_device(world, link, tmp_path, trusting(OTHER, KEY)):
        batch = await world.create_batch(firmware)
        await world.wait_state(batch, "d1", "succeeded")
    assert (tmp_path / "image").read_bytes() == IMAGE


async def test_unsigned_firmware_is_refused_by_the_device(world: World, link: str, tmp_path: Path) -> None:
    details = await refused_by_device(world, link, tmp_path, trusting(KEY), firmware="f1")
    assert details.detail == "the firmware is not signed"


@pytest.mark.parametrize("forger", ["other key", "digests"])
async def test_a_stolen_gateway_cannot_forge(world: World, link: str, tmp_path: Path, forger: str) -> None:
    """Whoever has the gateway gives it another key, or changes its store: image, size and digests at once."""
    forged = os.urandom(100_000)
    if forger == "other key":
        await require(world, OTHER)
        firmware = (await upload(world, OTHER.sign(manifest(forged)).encode(), forged)).id
        words = "none of those that are trusted"
    else:
        await require(world)
        firmware = (await upload(world, KEY.sign(manifest()).encode())).id
        firmware = await tamper(world, firmware, forged)
        words = "is not one of key"
    details = await refused_by_device(world, link, tmp_path, trusting(KEY), firmware=firmware)
    assert words in (details.detail or "")


async def tamper(world: World, firmware: str, forged: bytes) -> str:
    """Put another image in the place of the true one, with its size and digests, below the true signature."""
    found = await world.store.get_firmware(firmware)
    assert found is not None
    assert found.signature is not None
    sha256 = hashlib.sha256(forged).hexdigest()
    image = image_path(world, sha256)
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(forged)
    change = AddFirmware(
        product="lamp",
        name=found.name,
        version=found.version,
        file_name=found.file_name,
        description="",
        size=len(forged),
        md5=hashlib.md5(forged).hexdigest(),
        sha256=sha256,
        at_ms=world.now_ms,
        signature=found.signature,
    )
    _, added = await world.store.commit([DeleteFirmware(firmware), change])
    assert isinstance(added, Firmware)
    return added.id


def image_path(world: World, sha256: str) -> Path:
    return world.path / "images" / sha256[:2] / sha256


async def test_an_image_that_is_not_the_signed_one_is_not_burned(
    world: World, link: str, tmp_path: Path
) -> None:
    """The message is true and the bytes are not."""
    await require(world)
    firmware = await upload(world, KEY.sign(manifest()).encode())
    image_path(world, firmware.sha256).write_bytes(os.urandom(len(IMAGE)))
    async with a_device(world, link, tmp_path, trusting(KEY)):
        batch = await world.create_batch(firmware.id)
        details = await world.wait_state(batch, "d1", "failed")
    assert details.remark == "verification_failed"
    assert not (tmp_path / "image").exists()


async def test_the_device_has_a_clock_of_its_own(world: World, link: str, tmp_path: Path) -> None:
    await require(world)
    firmware = (await upload(world, KEY.sign(manifest()).encode())).id
    late = trusting(KEY, now_s=NOW_S + 2 * DAY_S)
    details = await refused_by_device(world, link, tmp_path, late, firmware=firmware)
    assert details.detail == "The signed manifest has expired."


@pytest.mark.parametrize("obeys", [True, False])
async def test_a_rollback_and_the_device(world: World, link: str, tmp_path: Path, obeys: bool) -> None:
    await require(world)
    firmware = (await upload(world, KEY.sign(manifest(not_before=("0.9",))).encode())).id
    trust = trusting(KEY, obey_rollback=obeys)
    if obeys:
        async with a_device(world, link, tmp_path, trust):
            batch = await world.create_batch(firmware, allow_rollback=True)
            await world.wait_state(batch, "d1", "succeeded")
    else:
        details = await refused_by_device(
            world, link, tmp_path, trust, firmware=firmware, allow_rollback=True
        )
        assert (details.detail or "").startswith("rollback:")
