"""The agent on its own: what it says and does for every message, in every phase."""

import hashlib
from typing import Any

import pytest
import xxhash
from msgspec.structs import replace

from otagate.sdk import effects
from otagate.sdk.agent import (
    ANSWER_S,
    BROKEN_CHUNKS_MAX,
    MOVES,
    NETWORK_BYTES_PER_S_MIN,
    NEVER,
    PROGRESS_INTERVAL_S,
    RETRY_S,
    STALL_S,
    Agent,
)
from otagate.sdk.effects import Phase
from otagate.wire import messages

SECRET = "s000000000000000000000000000001"
NONCE = "00112233445566778899aabbccddeeff"
IMAGE = bytes(range(250)) * 40  # 10,000 bytes
CHUNK = 1024


def offer(image: bytes = IMAGE, **changes: Any) -> messages.FirmwareOffer:
    fields: dict[str, Any] = {
        "id": "f1",
        "version": "2.0",
        "size": len(image),
        "md5": hashlib.md5(image).hexdigest(),
        "sha256": hashlib.sha256(image).hexdigest(),
        "chunk_size": CHUNK,
    }
    return messages.FirmwareOffer(**(fields | changes))


def upgrade(
    batch: str = "b1", attempt: int = 1, policy: Any = "standard", **changes: Any
) -> messages.Upgrade:
    return messages.Upgrade(
        batch=batch, attempt=attempt, policy=policy, firmware=offer(**changes), timeout_s=60, expires_at=2**31
    )


def cancel(batch: str = "b1", attempt: int = 1) -> messages.Cancel:
    return messages.Cancel(batch=batch, attempt=attempt, reason="aborted")


def error(code: str, **fields: Any) -> messages.Error:
    return messages.Error(code=messages.ErrorCode(code), message="words", **fields)


class Play:
    """An agent, its clock, and what came out since the last look."""

    def __init__(self, **options: Any) -> None:
        self.agent = Agent("lamp", "d0", SECRET, "1.0", **options)
        self.now = 100.0
        self.notes: list[effects.Note] = []

    def look(self) -> list[effects.Effect]:
        """What is to be done, notes aside."""
        taken = []
        while (effect := self.agent.take()) is not None:
            taken.append(effect)
        self.notes += [effect for effect in taken if isinstance(effect, effects.Note)]
        return [effect for effect in taken if not isinstance(effect, effects.Note)]

    def say(self, message: messages.GatewayMessage) -> list[effects.Effect]:
        self.agent.receive(message, self.now)
        return self.look()

    def login(self) -> list[effects.Effect]:
        self.agent.connected()
        self.say(messages.Challenge(nonce=NONCE, protocol=[1]))
        return self.say(messages.Welcome(server_time=1, heartbeat_s=60))

    def chunk(self, offset: int, **changes: Any) -> list[effects.Effect]:
        assert self.agent.job is not None
        data = changes.get("data", IMAGE[offset : min((offset // CHUNK + 1) * CHUNK, len(IMAGE))])
        transfer = changes.get("transfer", self.agent.job.transfer)
        digest = changes.get("digest", xxhash.xxh32_intdigest(data))
        self.agent.receive_chunk(transfer, digest, offset, data, self.now)
        return self.look()

    def download(self) -> list[effects.Effect]:
        """All chunks from the job's offset; what came of the last one."""
        job = self.job
        done: list[effects.Effect] = []
        while job.phase is Phase.DOWNLOADING:
            done = self.chunk(job.offset)
        return done

    @property
    def job(self) -> effects.Job:
        assert self.agent.job is not None
        return self.agent.job

    def reach(self, phase: Phase) -> None:
        """Go the straight way to a phase of attempt 1 of batch b1."""
        self.login()
        todo = self.say(upgrade(policy="silent"))
        assert todo == [sent(received()), effects.Choose(self.job)]
        if phase is Phase.RECEIVED:
            return
        self.agent.begin(self.job, self.now)
        assert self.look() == [effects.Open(self.job)]
        self.agent.opened(self.job, self.now)
        self.look()
        if phase is Phase.DOWNLOADING:
            return
        self.download()
        if phase is Phase.VERIFYING:
            return
        self.agent.verified(self.job, self.now)
        self.look()
        if phase is Phase.ASKING:
            return
        self.say(messages.Ack(id=self.job.awaited))
        if phase is Phase.BURNING:
            return
        self.agent.burned(self.job, self.now)
        self.look()
        if phase is Phase.REBOOTING:
            return
        self.agent.rebooted(self.job, "2.0", self.now)
        self.look()


def sent(message: messages.DeviceMessage) -> effects.Send:
    return effects.Send(message)


def received(batch: str = "b1", attempt: int = 1) -> messages.Received:
    return messages.Received(batch=batch, attempt=attempt)


def words(todo: list[effects.Effect]) -> list[str]:
    """Effects in short: the type of a message, or of an effect."""
    return [
        str(effect.message.__struct_config__.tag)
        if isinstance(effect, effects.Send)
        else type(effect).__name__.lower()
        for effect in todo
    ]


def message(todo: list[effects.Effect], index: int = 0) -> Any:
    effect = todo[index]
    assert isinstance(effect, effects.Send)
    return effect.message


# -- login -----------------------------------------------------------------------------------------


def test_hello_proves_the_secret() -> None:
    play = Play()
    play.agent.connected()
    hello = message(play.say(messages.Challenge(nonce=NONCE, protocol=[1])))
    assert hello.mac == "40e3367dcc350b32242f2a0003e8f9b0328bafb295e7d37f9b528f15c6f28e33"
    assert (hello.product, hello.device, hello.version, hello.nonce) == ("lamp", "d0", "1.0", None)
    assert not play.agent.online
    assert play.say(messages.Welcome(server_time=1, heartbeat_s=17)) == []
    assert play.agent.online
    assert play.agent.heartbeat_s == 17
    assert play.agent.deadline == NEVER


@pytest.mark.parametrize(("right", "online"), [(True, True), (False, False), (None, False)])
def test_the_gateway_proves_itself_when_asked(right: bool | None, online: bool) -> None:
    play, nonce = Play(), "f" * 32
    play.agent.connected(nonce)
    assert message(play.say(messages.Challenge(nonce=NONCE, protocol=[1]))).nonce == nonce
    mac = None if right is None else messages.gateway_mac(SECRET if right else "x" * 16, nonce, NONCE)
    todo = play.say(messages.Welcome(server_time=1, heartbeat_s=60, mac=mac))
    assert play.agent.online is online
    if not online:
        assert todo == [effects.Hangup("the gateway does not know this device's secret", refused=True)]


def test_without_a_secret_nothing_is_proved() -> None:
    """Neither by the device nor to it, whatever the gateway says."""
    play, nonce = Play(), "f" * 32
    play.agent = Agent("lamp", "d0", None, "1.0")
    play.agent.connected(nonce)
    assert message(play.say(messages.Challenge(nonce=NONCE, protocol=[1]))).mac is None
    mac = messages.gateway_mac("", nonce, NONCE)
    assert play.say(messages.Welcome(server_time=1, heartbeat_s=60, mac=mac)) == [
        effects.Hangup("the gateway does not know this device's secret", refused=True)
    ]


@pytest.mark.parametrize(("said", "kept"), [(0, 10), (10, 10), (600, 600), (2**53 - 1, 600)])
def test_a_heartbeat_is_one_of_the_protocol(said: int, kept: int) -> None:
    """Neither a loop of pings nor a device that never notices that its gateway is dead."""
    play = Play()
    play.agent.connected()
    play.say(messages.Challenge(nonce=NONCE, protocol=[1]))
    play.say(messages.Welcome(server_time=1, heartbeat_s=said))
    assert play.agent.heartbeat_s == kept


def test_another_protocol_is_refused() -> None:
    play = Play()
    play.agent.connected()
    assert play.say(messages.Challenge(nonce=NONCE, protocol=[2])) == [
        effects.Hangup("the gateway speaks protocol [2], this device 1", refused=True)
    ]


@pytest.mark.parametrize(
    ("answer", "hangup"),
    [
        (error("unauthorized"), effects.Hangup("unauthorized: words", None, refused=True)),
        (error("bad_message"), effects.Hangup("bad_message: words", None, refused=True)),
        (error("overloaded", retry_after_s=9), effects.Hangup("overloaded: words", 9, refused=False)),
        (error("internal"), effects.Hangup("internal: words", None, refused=False)),
        (messages.Goodbye(retry_after_s=5), effects.Hangup("goodbye", 5)),
    ],
)
def test_login_refused(answer: Any, hangup: effects.Hangup) -> None:
    play = Play()
    play.agent.connected()
    play.say(messages.Challenge(nonce=NONCE, protocol=[1]))
    assert play.say(answer) == [hangup]


@pytest.mark.parametrize(
    "early", [messages.Welcome(server_time=1, heartbeat_s=60), upgrade(), cancel(), messages.Ack(id="1")]
)
def test_messages_before_their_time_are_noted_and_ignored(early: Any) -> None:
    play = Play()
    play.agent.connected()
    assert play.say(early) == []
    assert play.agent.job is None
    assert [note.event for note in play.notes] == ["unexpected"]


# -- the straight way ------------------------------------------------------------------------------


def test_a_whole_upgrade() -> None:
    play = Play()
    play.login()
    todo = play.say(upgrade())
    assert todo == [sent(received()), effects.Open(play.job)]
    play.agent.opened(play.job, play.now)
    fetch = message(play.look())
    assert (fetch.firmware, fetch.offset, fetch.length, fetch.chunk_size) == ("f1", 0, None, CHUNK)

    written = b""
    while play.job.phase is Phase.DOWNLOADING:
        todo = play.chunk(play.job.offset)
        write = todo[0]
        assert isinstance(write, effects.Write)
        assert write.offset == len(written)
        written += write.data
    assert written == IMAGE
    assert words(todo) == ["write", "progress", "verify"]
    assert message(todo, 1).stage == "verifying"

    play.agent.verified(play.job, play.now)
    question = message(play.look())
    assert (question.stage, question.batch, question.attempt) == ("burning", "b1", 1)
    assert play.say(messages.Ack(id=question.id)) == [effects.Burn(play.job)]
    play.agent.burned(play.job, play.now)
    assert play.look() == [effects.Reboot(play.job)]

    play.agent.disconnected()
    play.agent.rebooted(play.job, "2.0", play.now)
    assert play.look() == []  # nothing can be said while offline
    play.agent.connected()
    assert message(play.say(messages.Challenge(nonce=NONCE, protocol=[1]))).version == "2.0"
    result = message(play.say(messages.Welcome(server_time=1, heartbeat_s=60)))
    assert (result.outcome, result.version, result.reason) == ("succeeded", "2.0", None)
    assert play.say(messages.Ack(id=result.id)) == []
    assert play.agent.deadline == NEVER
    play.agent.disconnected()
    assert play.login() == []  # what is acknowledged is not said again


def test_silent_policy_says_nothing_until_it_begins() -> None:
    play = Play()
    play.reach(Phase.RECEIVED)
    play.now += 1e6
    play.agent.wake(play.now)
    assert play.look() == []
    play.agent.begin(play.job, play.now)
    assert play.look() == [effects.Open(play.job)]
    play.agent.opened(play.job, play.now)
    assert words(play.look()) == ["fetch"]


def test_progress_each_ten_percent_and_not_too_often() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    said = []
    for seconds in (0, 0.1, 0.1, 0.1, PROGRESS_INTERVAL_S, 0.1, PROGRESS_INTERVAL_S):
        play.now += seconds
        said += [m.message for m in play.chunk(play.job.offset) if isinstance(m, effects.Send)]
    assert [(report.stage, report.percent) for report in said] == [
        ("downloading", 10),
        ("downloading", 50),
        ("downloading", 70),
    ]
    assert all(report.id is None for report in said)


def test_already_running_what_is_offered() -> None:
    play = Play()
    play.login()
    result = message(play.say(upgrade(version="1.0")))
    assert (result.outcome, result.version, result.batch) == ("succeeded", "1.0", "b1")


def test_a_deaf_device_answers_no_upgrade() -> None:
    play = Play(deaf=True)
    play.login()
    assert play.say(upgrade()) == []
    assert play.agent.job is None


def test_check() -> None:
    play = Play()
    play.agent.check()
    assert play.look() == []
    play.login()
    play.agent.check()
    assert words(play.look()) == ["check"]


# -- each message in each phase ----------------------------------------------------------------------

R, D, V, A, B, X, F = Phase  # X: rebooting
SAME = upgrade()
NEXT = upgrade(attempt=2)
AGAIN = upgrade(batch="b2")  # the same firmware, in another batch
AGAIN_SILENT = upgrade(batch="b2", policy="silent")
OTHER = upgrade(batch="b2", id="f2", version="3.0")


@pytest.mark.parametrize(
    ("phase", "given", "done", "then"),
    [
        (R, SAME, ["received"], R),
        (D, SAME, ["received"], D),
        (V, SAME, ["received"], V),
        (A, SAME, ["received"], A),
        (B, SAME, ["received"], B),
        (X, SAME, ["received"], X),
        (F, SAME, ["result"], F),
        (R, NEXT, ["received"], R),
        (D, NEXT, ["received", "fetch"], D),
        (V, NEXT, ["received"], V),
        (A, NEXT, ["received", "progress"], A),
        (B, NEXT, ["received"], B),
        (X, NEXT, ["received"], X),
        (F, NEXT, ["result"], F),
        (R, AGAIN, ["received", "discard", "open"], D),
        (R, AGAIN_SILENT, ["received"], R),
        (D, AGAIN, ["received", "fetch"], D),
        (A, AGAIN, ["received", "progress"], A),
        (B, AGAIN, ["received"], B),
        (R, OTHER, ["received", "discard", "open"], D),
        (D, OTHER, ["received", "discard", "open"], D),
        (V, OTHER, ["received", "discard", "open"], D),
        (A, OTHER, ["received", "discard", "open"], D),
        (B, OTHER, ["received"], B),
        (X, OTHER, ["received"], X),
        (F, OTHER, ["received", "open"], D),
        (R, cancel(), ["discard"], None),
        (D, cancel(), ["discard"], None),
        (V, cancel(), ["discard"], None),
        (A, cancel(), ["discard"], None),
        (B, cancel(), [], B),
        (X, cancel(), [], X),
        (F, cancel(), [], F),
        (R, cancel(attempt=7), [], R),
        (D, cancel(attempt=7), [], D),
        (D, cancel(batch="b7"), [], D),
        (A, cancel(attempt=7), [], A),
        (R, messages.Ack(id="other"), [], R),
        (D, messages.Ack(id="other"), [], D),
        (D, messages.Ack(id="check"), [], D),
        (A, messages.Ack(id="other"), [], A),
        (A, messages.Ack(), [], A),
        (B, messages.Ack(id="other"), [], B),
        (F, messages.Ack(id="other"), [], F),
        (D, messages.Goodbye(retry_after_s=3), ["hangup"], D),
        (B, messages.Goodbye(retry_after_s=3), ["hangup"], B),
        (A, error("unauthorized"), ["hangup"], A),
        (B, error("internal"), [], B),
        (D, error("overloaded", transfer=12345), [], D),
        (A, error("not_found", id="other"), [], A),
    ],
)
def test_a_message_in_a_phase(phase: Phase, given: Any, done: list[str], then: Phase | None) -> None:
    play = Play()
    play.reach(phase)
    assert play.job.phase is phase
    assert words(play.say(given)) == done
    assert (play.agent.job and play.agent.job.phase) is then
    if isinstance(given, messages.Upgrade) and then is not None:
        committed = phase in (B, X) and given is OTHER
        assert play.job.key == (("b1", 1) if committed else (given.batch, given.attempt))


@pytest.mark.parametrize("phase", Phase)
def test_losing_the_connection_moves_no_job(phase: Phase) -> None:
    play = Play()
    play.reach(phase)
    offset = play.job.offset
    play.agent.disconnected()
    assert (play.job.phase, play.job.offset) == (phase, offset)
    assert play.agent.deadline == NEVER
    spoken = {D: ["fetch"], A: ["progress"], F: ["result"]}
    assert words(play.login()) == spoken.get(phase, [])


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not F])
def test_the_device_fails(phase: Phase) -> None:
    play = Play()
    play.reach(phase)
    play.agent.failed(play.job, "other", "x" * 300, play.now)
    todo = play.look()
    burned = phase is X
    assert words(todo) == (["result"] if burned else ["discard", "result"])
    result = message(todo, -1)
    assert (result.outcome, result.reason, result.detail, result.version) == (
        "failed",
        "other",
        "x" * 256,
        "1.0",
    )
    assert play.job.phase is F


def test_an_upgrade_that_came_while_it_burned_is_asked_for_when_burning_fails() -> None:
    """It was acknowledged, and nothing but a new login would bring it again."""
    play = Play()
    play.reach(Phase.BURNING)
    play.say(OTHER)
    play.agent.failed(play.job, "burn_failed", "worn out", play.now)
    todo = play.look()
    assert words(todo) == ["discard", "result", "check"]
    assert message(todo, 1).batch == "b1"
    play.say(messages.Ack(id=play.job.awaited))
    assert words(play.say(replace(OTHER, id="check"))) == ["received", "open"]
    assert play.job.key == ("b2", 1)


def test_answers_about_another_job_are_ignored() -> None:
    play = Play()
    play.reach(Phase.VERIFYING)
    old = play.job
    play.say(OTHER)
    new = play.job
    for answer in (play.agent.begin, play.agent.opened, play.agent.verified, play.agent.burned):
        answer(old, play.now)
    play.agent.failed(old, "other", "", play.now)
    play.agent.rebooted(old, "1.0", play.now)
    assert play.look() == []
    assert play.job is new
    assert new.phase is D


def test_every_phase_has_its_moves() -> None:
    assert set(MOVES) == set(Phase)
    assert all(F in MOVES[phase] for phase in Phase if phase is not F)


# -- the download ------------------------------------------------------------------------------------


def test_resumes_at_its_offset_and_keeps_the_md5() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    for _ in range(3):
        play.chunk(play.job.offset)
    old_transfer = play.job.transfer
    play.agent.disconnected()
    fetch = message(play.login())
    assert fetch.offset == 3 * CHUNK
    assert fetch.transfer != old_transfer
    play.say(upgrade())
    assert words(play.download()) == ["write", "progress", "verify"]


def test_a_new_attempt_goes_on_with_what_is_here() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    play.chunk(0)
    todo = play.say(NEXT)
    assert message(todo, 1).offset == CHUNK
    play.download()
    play.agent.verified(play.job, play.now)
    assert message(play.look()).attempt == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": 1},
        {"data": b"y" * 10},
        {"offset": CHUNK, "data": IMAGE[CHUNK : 2 * CHUNK]},
        {"data": IMAGE + b"z"},
    ],
)
def test_a_broken_chunk_is_fetched_again(changes: dict[str, Any]) -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    old = play.job.transfer
    changes = {"digest": 5} | changes if "data" in changes and "offset" not in changes else changes
    todo = play.chunk(changes.pop("offset", 0), **changes)
    assert words(todo) == ["fetch"]
    assert message(todo).offset == 0
    assert play.chunk(0, transfer=old) == []  # what still comes of the old transfer is ignored
    play.download()
    assert play.job.phase is V


def test_more_than_the_image_is_broken() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    while play.job.offset < len(IMAGE) - CHUNK:
        play.chunk(play.job.offset)
    todo = play.chunk(play.job.offset, data=IMAGE[play.job.offset :] + b"more")
    assert words(todo) == ["fetch"]


def test_broken_chunks_in_a_row_end_the_attempt() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    for _ in range(BROKEN_CHUNKS_MAX):
        assert words(play.chunk(0, digest=1)) == ["fetch"]
    todo = play.chunk(0, digest=1)
    assert words(todo) == ["discard", "result"]
    assert message(todo, 1).reason == "download_failed"


def test_broken_chunks_apart_do_not() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    for round_ in range(BROKEN_CHUNKS_MAX):
        for _ in range(BROKEN_CHUNKS_MAX):
            assert words(play.chunk(play.job.offset, digest=1)) == ["fetch"]
        play.chunk(round_ * CHUNK)
    assert play.job.phase is D


def test_md5_decides() -> None:
    play = Play()
    play.login()
    play.say(upgrade(md5="0" * 32))
    play.agent.opened(play.job, play.now)
    play.look()
    todo = play.download()
    assert words(todo) == ["write", "discard", "result"]
    result = message(todo, -1)
    assert result.reason == "verification_failed"
    assert hashlib.md5(IMAGE).hexdigest() in result.detail


def test_a_stalled_download_is_asked_for_again_but_a_waiting_one_is_not() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    assert play.agent.deadline == NEVER  # no chunk yet: fetches wait their turn
    play.chunk(0)
    stall_s = STALL_S + CHUNK / NETWORK_BYTES_PER_S_MIN
    assert play.agent.deadline == play.now + stall_s
    play.now += stall_s - 1
    play.agent.wake(play.now)
    assert play.look() == []
    play.now += 1
    play.agent.wake(play.now)
    assert message(play.look()).offset == CHUNK


# -- errors about a fetch, a question, a result --------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "wait_s"),
    [
        (error("overloaded", retry_after_s=7), 7),
        (error("overloaded", retry_after_s=2**53 - 1), 3600),
        (error("conflict"), RETRY_S),
        (error("internal"), RETRY_S),
    ],
)
@pytest.mark.parametrize("phase", [D, A, F])
def test_errors_that_pass(phase: Phase, answer: messages.Error, wait_s: float) -> None:
    play = Play()
    play.reach(phase)
    about = {"transfer": play.job.transfer} if phase is D else {"id": play.job.awaited}
    assert play.say(error(answer.code, retry_after_s=answer.retry_after_s, **about)) == []
    assert play.agent.deadline == play.now + wait_s
    play.now += wait_s
    play.agent.wake(play.now)
    assert words(play.look()) == [{D: "fetch", A: "progress", F: "result"}[phase]]


def test_a_fetch_refused_asks_what_there_is() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    assert words(play.say(error("not_found", transfer=play.job.transfer))) == ["check"]
    assert words(play.say(messages.Ack(id="check"))) == ["discard"]  # nothing
    assert play.agent.job is None


def test_a_fetch_refused_twice_is_the_end() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    play.say(error("not_found", transfer=play.job.transfer))
    assert words(play.say(SAME)) == ["received", "fetch"]
    todo = play.say(error("not_found", transfer=play.job.transfer))
    assert words(todo) == ["discard", "result"]
    assert message(todo, 1).reason == "download_failed"


def test_a_fetch_that_breaks_rules_is_the_end() -> None:
    play = Play()
    play.reach(Phase.DOWNLOADING)
    todo = play.say(error("bad_message", transfer=play.job.transfer, field="offset"))
    assert words(todo) == ["discard", "result"]


@pytest.mark.parametrize(
    ("phase", "code", "done", "then"),
    [
        (A, "not_found", ["discard"], None),
        (A, "bad_message", ["discard", "result"], F),
        (F, "not_found", [], F),
        (F, "bad_message", [], F),
    ],
)
def test_errors_for_good(phase: Phase, code: str, done: list[str], then: Phase | None) -> None:
    play = Play()
    play.reach(phase)
    assert words(play.say(error(code, id=play.job.awaited))) == done
    assert (play.agent.job and play.agent.job.phase) is then
    if phase is F:
        assert play.agent.deadline == NEVER
        play.agent.disconnected()
        assert play.login() == []


@pytest.mark.parametrize("phase", [A, F])
def test_an_unanswered_question_is_repeated(phase: Phase) -> None:
    play = Play()
    play.reach(phase)
    first = play.job.awaited
    play.now = play.agent.deadline
    play.agent.wake(play.now)
    again = message(play.look())
    assert again.id != first
    assert play.agent.deadline == play.now + ANSWER_S
    play.say(messages.Ack(id=again.id))
    assert play.job.phase is {A: B, F: F}[phase]


def test_a_cancel_after_the_result_ends_the_asking() -> None:
    play = Play()
    play.reach(Phase.FINISHED)
    play.say(cancel())
    assert play.agent.deadline == NEVER


def test_the_wrong_version_after_the_reboot_is_a_failure() -> None:
    play = Play()
    play.reach(Phase.REBOOTING)
    play.agent.rebooted(play.job, "1.0", play.now)
    result = message(play.look())
    assert (result.outcome, result.reason, result.version) == ("failed", "other", "1.0")
    assert result.detail == "runs 1.0 after burning 2.0"


def test_what_could_not_be_sent_is_void_after_the_connection() -> None:
    play = Play()
    play.reach(Phase.VERIFYING)
    play.agent.verified(play.job, play.now)
    play.agent.disconnected()
    assert not any(isinstance(effect, effects.Send) for effect in play.look())
    assert words(play.login()) == ["progress"]
