from collections.abc import Callable, Mapping, Sequence
from typing import Any

from otagate.gateway.outbox import Outbox
from otagate.gateway.tables import Presence
from otagate.store.interface import Upgrade

class ProgressReports:
    def __init__(
        self,
        presence: Presence,
        outbox: Outbox,
        decide: Callable[..., object],
        rows: Mapping[int, Upgrade],
        pending: Mapping[int, object],
        endings: Mapping[int, object],
        batches: Mapping[int, object],
    ) -> None: ...
    def take(self, events: Sequence[tuple[Any, ...]], at: int, later: Mapping[int, object]) -> int: ...
