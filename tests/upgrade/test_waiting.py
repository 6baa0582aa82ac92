import pytest

from otagate.upgrade.model import Row, State
from otagate.upgrade.waiting import waiting_for

DUE_MS = 1_767_323_045_000  # 2026-01-02T03:04:05Z


@pytest.mark.parametrize(
    ("state", "online", "queued", "now_ms", "phrase"),
    [
        (State.TO_BE_PUSHED, False, False, 0, "offline"),
        (State.TO_BE_PUSHED, True, False, 0, "a push slot"),
        (State.PUSHED, False, False, 0, "offline"),
        (State.PUSHED, True, False, 0, "the device to start"),
        (State.PUSHED, True, True, 0, "a download slot"),
        (State.TO_BE_UPGRADED, False, False, 0, "offline"),
        (State.TO_BE_UPGRADED, True, False, 0, "the device to start"),
        (State.TO_BE_UPGRADED, True, True, 0, "a download slot"),
        (State.UPGRADING, False, False, 0, "offline"),
        (State.UPGRADING, True, False, 0, None),
        (State.UPGRADING, True, True, 0, "a download slot"),
        (State.TO_BE_RETRIED, True, False, DUE_MS - 1, "retry due at 2026-01-02T03:04:05Z"),
        (State.TO_BE_RETRIED, True, False, DUE_MS, "a push slot"),
        (State.TO_BE_RETRIED, False, False, DUE_MS - 1, "offline"),
        (State.TO_BE_RETRIED, False, False, DUE_MS, "offline"),
        (State.SUCCEEDED, True, True, 0, None),
        (State.SUCCEEDED, False, False, 0, None),
        (State.FAILED, True, False, 0, None),
        (State.FAILED, False, False, 0, None),
    ],
)
def test_phrase(state: State, online: bool, queued: bool, now_ms: int, phrase: str | None) -> None:
    row = Row(state=state, due_ms=DUE_MS)
    assert waiting_for(row, online, now_ms, download_queued=queued) == phrase


def test_a_time_is_never_too_early() -> None:
    row = Row(state=State.TO_BE_RETRIED, due_ms=DUE_MS + 1)
    assert waiting_for(row, True, DUE_MS) == "retry due at 2026-01-02T03:04:06Z"
