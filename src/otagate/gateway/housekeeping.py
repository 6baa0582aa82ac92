"""What has to be written or forgotten now and then on behalf of operators."""

from collections.abc import Callable

from otagate import limits
from otagate.gateway.access import Access
from otagate.gateway.journal import Entry, Journal
from otagate.store.operators import SweepAnswers, TouchTokens

ANSWERS_SWEEP_MS = 600_000


class Housekeeping:
    """`sweep` is called once a second. `start_soon` starts a task of the gateway."""

    def __init__(self, access: Access, journal: Journal, start_soon: Callable[..., object]) -> None:
        self._access = access
        self._journal = journal
        self._start_soon = start_soon
        self._next_used_ms = 0
        self._next_answers_ms = 0

    def sweep(self, now_ms: int) -> None:
        """Write when tokens were last used; forget the answers of yesterday."""
        if now_ms >= self._next_used_ms:
            self._next_used_ms = now_ms + limits.token_used_flush_ms
            self.flush_used()
        if now_ms >= self._next_answers_ms:
            self._next_answers_ms = now_ms + ANSWERS_SWEEP_MS
            self._start_soon(self._sweep_answers, now_ms - limits.kept_answer_ms)

    def flush_used(self) -> None:
        """Write when tokens were last used."""
        used = self._access.take_used()
        if used:
            self._journal.submit(Entry([TouchTokens(used)]))

    async def _sweep_answers(self, before_ms: int) -> None:
        while await self._journal.write(SweepAnswers(before_ms)):
            pass
