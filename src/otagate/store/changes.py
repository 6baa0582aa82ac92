"""The closed list of changes, each with the one function that applies it; the same for every engine."""

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from otagate.store import changes_batches as batches
from otagate.store import changes_fleet as fleet
from otagate.store import changes_operators as operators
from otagate.store import changes_signed as signed
from otagate.store import interface
from otagate.store import operators as kinds
from otagate.store import signed as signing
from otagate.store.draft import Draft
from otagate.store.interface import Change, Outcome
from otagate.store.tables import Transaction

APPLY: Final[dict[type[Any], Callable[[Draft, Any], Any]]] = {
    interface.CreateProduct: fleet.create_product,
    interface.DeleteProduct: fleet.delete_product,
    interface.RegisterDevices: fleet.register_devices,
    interface.RenameDevice: fleet.rename_device,
    interface.RotateSecret: fleet.rotate_secret,
    interface.DeleteDevice: fleet.delete_device,
    interface.ReportVersion: fleet.report_version,
    interface.TouchDevices: fleet.touch_devices,
    interface.AddFirmware: fleet.add_firmware,
    interface.DeleteFirmware: fleet.delete_firmware,
    interface.BeginBatch: batches.begin_batch,
    interface.ClaimDevices: batches.claim_devices,
    interface.OpenBatch: batches.open_batch,
    interface.UndoBatch: batches.undo_batch,
    interface.EndBatch: batches.end_batch,
    interface.RewriteSlice: batches.rewrite_slice,
    interface.Transition: batches.transition,
    interface.PutSetting: fleet.put_setting,
    signing.AddSigningKey: signed.add_signing_key,
    signing.RevokeSigningKey: signed.revoke_signing_key,
    signing.RequireSignature: signed.require_signature,
    kinds.AddToken: operators.add_token,
    kinds.RevokeToken: operators.revoke_token,
    kinds.TouchTokens: operators.touch_tokens,
    kinds.Audited: lambda draft, change: operators.audited(draft, change, APPLY),
    kinds.SweepAnswers: operators.sweep_answers,
    kinds.AddWebhook: operators.add_webhook,
    kinds.DeleteWebhook: operators.delete_webhook,
    kinds.ClearOutbox: operators.clear_outbox,
    kinds.FinishDeliveries: operators.finish_deliveries,
    kinds.TellStalled: operators.tell_stalled,
}


class Application:
    """A group being applied, in one transaction, in as many stretches as the engine likes.

    Refusals are outcomes. What it raises (a broken assert, a failure of the engine) is about the whole
    group, and the transaction must be thrown away.
    """

    def __init__(self, transaction: Transaction, changes: Sequence[Change]) -> None:
        self._draft = Draft(transaction)
        self._changes = changes
        self.outcomes: list[Outcome] = []

    def go_on(self, number: int) -> bool:
        """Apply the next `number` changes; False after the last one: the engine commits next."""
        done = len(self.outcomes)
        for change in self._changes[done : done + number]:
            self.outcomes.append(cast(Outcome, APPLY[type(change)](self._draft, change)))
        if len(self.outcomes) < len(self._changes):
            return True
        self._draft.flush()
        return False


def apply(transaction: Transaction, changes: Sequence[Change]) -> list[Outcome]:
    """Apply a group in its order, one outcome each."""
    application = Application(transaction, changes)
    application.go_on(len(changes))
    return application.outcomes
