"""GET /metrics: what the gateway counts, and the requests that operators make."""

from collections import Counter

from otagate.admin.auth import identify
from otagate.admin.operations import OPENMETRICS, Call, Operation, Reply
from otagate.admin.queries import NoQuery
from otagate.openmetrics import CONTENT_TYPE, Family, Sample, render

REQUESTS = Family(
    "otagate_http_requests",
    "counter",
    "Requests of operators, by the path as the API document has it; those of no such path are left out.",
    ("method", "route", "status"),
)
FAMILIES = (REQUESTS,)


class Requests:
    """How many requests there were; routes, methods and statuses are few, so the table is small."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()

    def count(self, method: str, route: str, status: int) -> None:
        """One more is over. Status 0: the client left before it was answered."""
        self._counts[method, route, status] += 1

    def samples(self) -> list[Sample]:
        """All of them."""
        return [
            Sample(REQUESTS, count, (method, route, str(status) if status else "left"))
            for (method, route, status), count in sorted(self._counts.items())
        ]


def make_operation(requests: Requests) -> Operation:
    """The operation that shows them, together with all that the gateway counts."""

    async def metrics(call: Call[NoQuery, None]) -> None:
        """As OpenMetrics whatever Accept says: every Prometheus reads it."""
        if call.service.metrics_need_token:
            identify(call.service, call.exchange)
        samples = await call.service.metrics() + requests.samples()
        await call.exchange.answer(200, render(samples), [("content-type", CONTENT_TYPE)])

    return Operation(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Show metrics",
        replies=(Reply(200, "OpenMetrics 1.0.", str, OPENMETRICS),),
        errors=(401, 403, 429),
        public=True,
    )
