"""What a device trusts instead of the gateway: pinned keys, its own clock, its own product and version.

Theory. The device builds the manifest itself, from what it knows (its product) and what it is offered, and
checks the signature over that. So there is nothing in the message that it could believe and the signer did
not say, and a manifest of another product fits no device of this one. What is checked here comes before the
first byte of a download; the digests that were signed are checked after the last one (`agent`). The gateway
can hold an upgrade back, it cannot make one up. docs/signing.md tells what that leaves open.
"""

import time
from collections.abc import Callable, Iterable

from otagate.signing.keys import PublicKey, check_signed
from otagate.signing.manifest import BadSignature, Manifest, SignedManifest
from otagate.wire import messages


class Trust:
    """Pinned keys. `wall_s`: Unix seconds, of a clock that the gateway does not set.

    `obey_rollback`: whether the gateway's word is enough to go back to a version that the signature does not
    let it replace.
    """

    def __init__(
        self,
        keys: Iterable[PublicKey],
        *,
        obey_rollback: bool = True,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.keys = tuple(keys)
        self.obey_rollback = obey_rollback
        self._wall_s = wall_s

    def refusal(self, product: str, version: str, message: messages.Upgrade) -> str | None:
        """Why a device of this product that runs this version does not take the upgrade; None: it does."""
        offer = message.firmware
        signature = offer.signature
        if signature is None:
            return "the firmware is not signed"
        manifest = Manifest(
            product=product,
            name=signature.name,
            version=offer.version,
            size=offer.size,
            sha256=offer.sha256,
            md5=offer.md5,
            expires=signature.expires,
            not_before=tuple(signature.not_before.split(" ")) if signature.not_before else (),
        )
        try:
            check_signed(SignedManifest(manifest, signature.key, signature.value), self.keys, self._wall_s())
        except BadSignature as refused:
            return refused.message
        if manifest.is_rollback_on(version) and not (message.allow_rollback and self.obey_rollback):
            return f"rollback: the signature does not say that {offer.version} may replace {version}"
        return None
