"""The closed list of changes, each with the one function that applies it; the same for every engine."""

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from otagate.store import changes_batches as batches
from otagate.store import changes_fleet as fleet
from otagate.store import interface
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
}


def apply(transaction: Transaction, changes: Sequence[Change]) -> list[Outcome]:
    """Apply a group in its order, one outcome each; the engine commits the transaction next.

    Refusals are outcomes. What it raises (a broken assert, a failure of the engine) is about the whole
    group, and the transaction must be thrown away.
    """
    draft = Draft(transaction)
    outcomes = [cast(Outcome, APPLY[type(change)](draft, change)) for change in changes]
    draft.flush()
    return outcomes
