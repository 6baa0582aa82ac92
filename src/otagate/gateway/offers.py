"""The upgrade message of a batch: what the protocol calls the firmware that a device is offered."""

from otagate.store.interface import Batch
from otagate.upgrade.model import Policy
from otagate.wire import messages


def upgrade_message(batch: Batch, attempt: int, chunk_bytes: int, answer: str | None) -> messages.Upgrade:
    """The upgrade message of one attempt of a batch. Times in it are Unix seconds."""
    return messages.Upgrade(
        batch=batch.id,
        attempt=attempt,
        policy="silent" if batch.policy == Policy.SILENT else "standard",
        firmware=messages.FirmwareOffer(
            id=batch.firmware_id,
            version=batch.firmware_version,
            size=batch.firmware_size,
            md5=batch.firmware_md5,
            sha256=batch.firmware_sha256,
            chunk_size=chunk_bytes,
            signature=_signature(batch),
        ),
        timeout_s=batch.timeout_minutes * 60,
        expires_at=batch.expires_at_ms // 1000,
        allow_rollback=batch.allow_rollback,
        id=answer,
    )


def _signature(batch: Batch) -> messages.SignatureOffer | None:
    signature = batch.signature
    if signature is None:
        return None
    return messages.SignatureOffer(
        key=signature.key,
        value=signature.value,
        name=batch.firmware_name,
        expires=signature.expires,
        not_before=" ".join(signature.not_before),
    )
