"""What a device with pinned keys takes, and that it looks before it fetches and after."""

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace

from otagate import limits
from otagate.sdk import effects
from otagate.sdk.effects import Phase
from otagate.sdk.trust import Trust
from otagate.signing.keys import PrivateKey
from otagate.signing.manifest import Manifest
from otagate.wire import messages
from tests.sdk.test_agent import IMAGE, Play, upgrade, words

KEY = PrivateKey.generate()


def manifest(**changes: Any) -> Manifest:
    made = Manifest(
        product="lamp",
        name="灯-2.0",
        version="2.0",
        size=len(IMAGE),
        sha256=hashlib.sha256(IMAGE).hexdigest(),
        md5=hashlib.md5(IMAGE).hexdigest(),
        expires=1000,
        not_before=("1.0",),
    )
    return replace(made, **changes)


def offered(key: PrivateKey = KEY, **changes: Any) -> messages.Upgrade:
    """The upgrade message that a gateway makes of a manifest."""
    signed = key.sign(manifest(**changes))
    told = signed.manifest
    signature = messages.SignatureOffer(
        key=signed.key,
        value=signed.signature,
        name=told.name,
        expires=told.expires,
        not_before=" ".join(told.not_before),
    )
    return upgrade(
        version=told.version, size=told.size, md5=told.md5, sha256=told.sha256, signature=signature
    )


def trusting(now_s: float = 999, **options: Any) -> Play:
    return Play(trust=Trust([KEY.public], wall_s=lambda: now_s, **options))


def with_signature(**changes: Any) -> messages.Upgrade:
    message = offered()
    assert message.firmware.signature is not None
    signature = replace(message.firmware.signature, **changes)
    return replace(message, firmware=replace(message.firmware, signature=signature))


def with_offer(**changes: Any) -> messages.Upgrade:
    message = offered()
    return replace(message, firmware=replace(message.firmware, **changes))


def test_what_is_signed_is_taken_and_checked_to_the_end() -> None:
    play = trusting()
    play.login()
    assert words(play.say(offered())) == ["received", "open"]
    play.agent.opened(play.job, play.now)
    play.look()
    assert words(play.download())[-2:] == ["progress", "verify"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (upgrade(), "the firmware is not signed"),
        (offered(PrivateKey.generate()), "none of those that are trusted"),
        (offered(product="cup"), "not one of key"),
        (with_offer(version="2.1"), "not one of key"),
        (with_offer(size=len(IMAGE) + 1), "not one of key"),
        (with_offer(md5="0" * 32), "not one of key"),
        (with_offer(sha256="0" * 64), "not one of key"),
        (with_signature(name="灯-3.0"), "not one of key"),
        (with_signature(name="a\nb"), "is not as a manifest has it"),
        (with_signature(expires=9999), "not one of key"),
        (with_signature(not_before=""), "not one of key"),
        (with_signature(not_before="1.0 "), "is not as a manifest has it"),
        (with_signature(value="A" * 86 + "=="), "not one of key"),
        (with_signature(value="A" * 85 + "B=="), "in base64"),
        (offered(expires=999), "has expired"),
        (offered(not_before=("0.9",)), "rollback"),
    ],
)
@pytest.mark.parametrize("policy", ["standard", "silent"])
def test_what_is_refused_before_a_byte_is_fetched(message: messages.Upgrade, said: str, policy: Any) -> None:
    play = trusting()
    play.login()
    todo = play.say(replace(message, policy=policy))
    assert words(todo) == ["received", "discard", "result"]
    result = todo[-1]
    assert isinstance(result, effects.Send)
    assert isinstance(result.message, messages.Result)
    assert (result.message.outcome, result.message.reason) == ("failed", "verification_failed")
    assert said in (result.message.detail or "")
    assert play.job.phase is Phase.FINISHED


def test_a_rollback_that_the_batch_allows() -> None:
    message = replace(offered(not_before=("0.9",)), allow_rollback=True)
    play = trusting()
    play.login()
    assert words(play.say(message)) == ["received", "open"]
    play = trusting(obey_rollback=False)
    play.login()
    assert words(play.say(message)) == ["received", "discard", "result"]


def test_an_md5_that_fits_is_not_enough() -> None:
    """As if somebody had found another image with the same MD5."""
    play = trusting()
    play.login()
    play.say(offered(sha256=hashlib.sha256(b"the true image").hexdigest()))
    play.agent.opened(play.job, play.now)
    play.look()
    play.download()
    assert play.job.failure is not None
    assert play.job.failure[0] == "verification_failed"
    assert play.job.failure[1].startswith("SHA-256 is ")


def test_a_device_without_pinned_keys_takes_both() -> None:
    for message in (upgrade(), offered(PrivateKey.generate())):
        play = Play()
        play.login()
        assert words(play.say(message)) == ["received", "open"]


@pytest.mark.parametrize(("name", "version"), [("𠀀" * 50, "v" * 100), ("a", "v" * 100), ("a", "1")])
def test_the_longest_manifest_fits_the_upgrade_message(name: str, version: str) -> None:
    """In the product with the shortest key: there the rest of the manifest has the most room."""
    made = manifest(product="p", name=name, version=version, size=limits.image_bytes_max, not_before=())
    made = replace(made, expires=10**11 - 1)
    room = limits.manifest_bytes_max - len(made.encode())
    made = replace(made, not_before=tuple(f"{number:03}" for number in range(room // 4)))
    signed = KEY.sign(made)
    message = messages.Upgrade(
        id="i" * 64,
        batch=f"b{2**63 - 1}",
        attempt=6,
        policy="standard",
        firmware=messages.FirmwareOffer(
            id=f"f{2**63 - 1}",
            version=version,
            size=made.size,
            md5=made.md5,
            sha256=made.sha256,
            chunk_size=limits.chunk_bytes_max,
            signature=messages.SignatureOffer(
                key=signed.key,
                value=signed.signature,
                name=name,
                expires=made.expires,
                not_before=" ".join(made.not_before),
            ),
        ),
        timeout_s=limits.timeout_minutes_max * 60,
        expires_at=10**11 - 1,
        allow_rollback=True,
    )
    payload = messages.encode(message)
    assert len(payload) <= limits.gateway_message_bytes_max
    assert messages.decode_gateway_message(payload) == message
