"""The short cut for progress reports, held against the protocol itself (`messages`)."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otagate.upgrade.model import Stage
from otagate.wire import messages
from otagate.wire.progress import acknowledgement, read_progress

IDS = st.text(messages.ID_ALPHABET, min_size=1, max_size=64)
STAGES = ("downloading", "verifying", "burning")
REPORTS = st.fixed_dictionaries(
    {
        "type": st.just("progress"),
        "batch": st.integers(1, 10**15 - 1).map(lambda number: f"b{number}"),
        "attempt": st.integers(0, 10**15 - 1),
        "stage": st.sampled_from(STAGES),
        "percent": st.integers(0, 100),
    },
    optional={"id": IDS},
)
SPACE = st.text(" \t\r\n", max_size=2)


@st.composite
def plain(draw: st.DrawFn) -> bytes:
    """A report as some JSON library writes it: fields in any order, white space anywhere."""
    fields = draw(REPORTS.flatmap(lambda report: st.permutations(list(report.items()))))
    space = [draw(SPACE) for _ in range(6)]
    items = ",".join(
        f"{space[0]}{json.dumps(name)}{space[1]}:{space[2]}{json.dumps(value)}{space[3]}"
        for name, value in fields
    )
    return f"{space[4]}{{{items}}}{space[5]}".encode()


def expected(payload: bytes) -> tuple[Any, ...] | None:
    """What `messages` reads; None: no progress report."""
    try:
        message = messages.decode_device_message(payload)
    except (messages.BrokenMessage, messages.BadMessage):
        return None
    if not isinstance(message, messages.Progress):
        return None
    batch = int(message.batch[1:]) if message.batch[1:].isdigit() else message.batch
    stage = int(Stage.from_label(message.stage))
    return batch, message.attempt, stage, message.percent, message.id


@given(plain())
def test_what_is_plain_is_read(payload: bytes) -> None:
    assert read_progress(payload) is not None
    assert read_progress(payload) == expected(payload)


@settings(max_examples=1000)
@given(plain(), st.data())
def test_what_is_read_is_what_the_protocol_reads(payload: bytes, data: st.DataObject) -> None:
    bent = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bent)))
        stop = at + data.draw(st.integers(0, 3))
        bent[at:stop] = data.draw(
            st.sampled_from([b"", b'"', b",", b"}", b"{", b"0", b"1", b"b", b"-", b".", b"e0", b" ", b"\\"])
            | st.binary(max_size=2)
        )
    found = read_progress(bytes(bent))
    assert found is None or found == expected(bytes(bent))


def report(**changes: Any) -> str:
    fields = {"type": "progress", "id": "m", "batch": "b1", "attempt": 1, "stage": "burning", "percent": 7}
    return json.dumps(fields | changes)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        report()[:-1],
        report() + "}",
        report() + "\0",
        report().replace('"m"', '"m "'),
        report().replace('"m"', 'm"'),
        report().replace('"percent": 7', '"percent": 7.0'),
        report().replace('"percent": 7', '"percent": 7e0'),
        report().replace('"percent": 7', '"percent": 07'),
        report().replace('"percent": 7', '"percent": -7'),
        report().replace('"percent": 7', '"percent": '),
        report().replace('"percent": 7', '"percent": 7,'),
        report().replace("{", "{,"),
        report(id=None),
        report(id=""),
        report(id="m" * 65),
        report(id="\u00e9"),
        report(type="received"),
        report(batch="b01"),
        report(batch="b0"),
        report(batch="b"),
        report(batch="c1"),
        report(batch="b1x"),
        report(batch="b1 "),
        report(batch="b" + "1" * 16),
        report(batch=1),
        report(attempt=10**15),
        report(attempt="1"),
        report(stage="resting"),
        report(stage=""),
        report(percent=101),
        report(percent="7"),
        report(further=1),
        report()[:-1] + ', "percent": 8}',
        json.dumps({"type": "progress", "batch": "b1", "attempt": 1, "stage": "burning"}),
    ],
)
def test_the_rest_is_left_to_the_protocol(text: str) -> None:
    assert read_progress(text.encode()) is None


@given(IDS)
def test_acknowledgements_are_the_protocols(identity: str) -> None:
    assert acknowledgement(identity) == messages.encode(messages.Ack(id=identity))
