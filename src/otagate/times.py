"""Times as people and machines read them. Inside otagate a time is UTC milliseconds."""

from datetime import UTC, datetime


def rfc3339(ms: int | None) -> str | None:
    """A time in UTC milliseconds as RFC 3339 ("2026-01-31T12:00:00.000Z"), or None for none."""
    if not ms:
        return None
    text = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms % 1000:03d}Z"
