"""The operators' reads of `interface.Store`, over the transactions that an engine opens; see engine."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TypeVar

from otagate.store import reads_operators as reads
from otagate.store.operators import AuditCheck, AuditPage, Delivery, KeptAnswer, Token, Webhook
from otagate.store.reads import Budget
from otagate.store.snapshot import Snapshot
from otagate.store.tables import View

T = TypeVar("T")


class OperatorsReads:
    """The reads of `operators.OperatorsStore`; their contracts stand there."""

    def view(self) -> AbstractContextManager[View]:
        """One read transaction, to be left on the thread that entered it, without an await in between."""
        raise NotImplementedError

    async def _scan(self, read: Callable[[Snapshot, Budget], T]) -> T:
        """Run a read that may take a while."""
        raise NotImplementedError

    async def tokens(self) -> list[Token]:
        """All tokens, the oldest first."""
        with self.view() as view:
            return reads.tokens(Snapshot(view))

    async def kept_answer(self, key: bytes) -> KeptAnswer | None:
        """The answer kept under a key, however old."""
        with self.view() as view:
            return reads.kept_answer(Snapshot(view), key)

    async def list_audit(
        self, *, before: int = 0, limit: int, actor: str | None = None, action: str | None = None
    ) -> AuditPage:
        """Entries newest first."""
        return await self._scan(
            partial(reads.list_audit, before=before, limit=limit, actor=actor, action=action)
        )

    async def scan_audit(self, *, after: int = 0, limit: int) -> AuditPage:
        """Entries oldest first."""
        return await self._scan(partial(reads.scan_audit, after=after, limit=limit))

    async def check_audit(self, *, after: int = 0, hash: str = "") -> AuditCheck:
        """Follow the chain."""
        return await self._scan(partial(reads.check_audit, after=after, hash=hash))

    async def webhooks(self) -> list[Webhook]:
        """All subscriptions."""
        with self.view() as view:
            return reads.webhooks(Snapshot(view))

    async def deliveries(self, webhook: int, *, after: int = 0, limit: int) -> list[Delivery]:
        """What waits for a webhook."""
        with self.view() as view:
            return reads.deliveries(Snapshot(view), webhook, after, limit)
