"""The device's half of an upgrade, without I/O, clock or randomness of its own.

Theory. Two small machines. The *connection* goes OFFLINE → GREETED (challenge awaited) → LOGGING_IN →
ONLINE and back to OFFLINE whenever the link is lost. The *job*, the one upgrade that the device works on,
goes through the phases below and does not care about the connection: losing it moves no job. After each
login the agent says again whatever its phase waits for (`_speak`), so a lost message is never missed for
longer than one connection; while a connection lasts, `deadline` says when to repeat it.

The shell calls one verb per event and then performs what `take()` gives out until it gives None. Verbs are:
connected, disconnected, receive, receive_chunk, wake (time), and the device's answers begin, opened,
verified, burned, rebooted, failed. An answer about a job that is no longer the current one is ignored.

Invariants. At most one job. A chunk counts only if it belongs to the job's running transfer, begins at
the job's offset and matches its xxh32; so `offset` bytes are on the device and in the MD5, in order. The
device burns only after its MD5 matched and the gateway acknowledged that it may; from BURNING on nothing
but the device's own failure stops it. Rules: docs/upgrades.md, messages: docs/protocol.md.
"""

import enum
import hashlib
import hmac
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from otagate import limits
from otagate.hashing import xxh32
from otagate.sdk.effects import (
    Burn,
    Choose,
    Discard,
    Effect,
    Hangup,
    Job,
    Note,
    Open,
    Phase,
    Reboot,
    Send,
    Verify,
    Write,
)
from otagate.wire import messages
from otagate.wire.constants import PROTOCOL_VERSION, TRANSFER_END, ErrorCode

if TYPE_CHECKING:
    from otagate.sdk.trust import Trust

NEVER = float("inf")
PERCENT_STEP = 10  # a progress report each 10 % …
PROGRESS_INTERVAL_S = 1.0  # … but not more often than this
STALL_S = 60.0  # a download that began and brings nothing for this long is asked for again, …
NETWORK_BYTES_PER_S_MIN = 256  # … and for as long as a chunk takes on the slowest network
ANSWER_S = 30.0  # a question or result without an answer is repeated
RETRY_S = 5.0  # an error that may pass, without retry_after_s
RETRY_AFTER_S_MAX = 3600.0  # whoever answers in the gateway's place must not send a device away for good
BROKEN_CHUNKS_MAX = 8  # in a row; then the attempt has failed

MOVES: dict[Phase, set[Phase]] = {
    Phase.RECEIVED: {Phase.DOWNLOADING, Phase.FINISHED},
    Phase.DOWNLOADING: {Phase.VERIFYING, Phase.FINISHED},
    Phase.VERIFYING: {Phase.ASKING, Phase.FINISHED},
    Phase.ASKING: {Phase.BURNING, Phase.FINISHED},
    Phase.BURNING: {Phase.REBOOTING, Phase.FINISHED},
    Phase.REBOOTING: {Phase.FINISHED},
    Phase.FINISHED: set(),
}
PASSING = {
    ErrorCode.OVERLOADED,
    ErrorCode.CONFLICT,
    ErrorCode.INTERNAL,
}  # errors that may be gone when asked again
CHECK_ID = "check"
COMMITTED = {Phase.BURNING, Phase.REBOOTING}  # past the point of no return


class Link(enum.Enum):
    """How far the connection is."""

    OFFLINE = "offline"
    GREETED = "greeted"
    LOGGING_IN = "logging_in"
    ONLINE = "online"


class Agent:
    """One device: its identity, its running version, its job.

    `secret` is None if the product logs in by certificate alone. With `trust` it takes signed firmware only
    (docs/signing.md): what it refuses it reports as failed, verification_failed, before a byte is fetched.
    `deaf` is for simulations: upgrade messages are not acknowledged (remark push_failed).
    """

    __slots__ = (
        "_effects",
        "_gateway_nonce",
        "_link",
        "_next",
        "_nonce",
        "_secret",
        "deaf",
        "device",
        "heartbeat_s",
        "job",
        "product",
        "trust",
        "version",
    )

    def __init__(
        self,
        product: str,
        device: str,
        secret: str | None,
        version: str,
        *,
        trust: "Trust | None" = None,
        deaf: bool = False,
    ) -> None:
        self.product = product
        self.device = device
        self.version = version
        self.trust = trust
        self.deaf = deaf
        self.heartbeat_s = limits.heartbeat_s
        self.job: Job | None = None
        self._secret = secret
        self._link = Link.OFFLINE
        self._nonce: str | None = None
        self._gateway_nonce = ""
        self._next = 0  # transfers and ids are numbers that do not repeat
        self._effects: deque[Effect] = deque()

    # -- what the shell calls ----------------------------------------------------------------------

    @property
    def online(self) -> bool:
        """Logged in on a live connection."""
        return self._link is Link.ONLINE

    @property
    def deadline(self) -> float:
        """When to call `wake`, in the shell's seconds; infinity: no need."""
        return self.job.due if self.job is not None and self.online else NEVER

    def take(self) -> Effect | None:
        """The next thing to do, each given out once; None: nothing now. One at a time, so that those behind
        a message that cannot leave are not lost with it."""
        return self._effects.popleft() if self._effects else None

    def connected(self, nonce: str | None = None) -> None:
        """A link is up. With a nonce (32 lower-case hex digits) the gateway must prove itself, too."""
        self._link = Link.GREETED
        self._nonce = nonce

    def disconnected(self) -> None:
        """The link is lost: what was to be sent on it is void, the job stays as it is."""
        self._link = Link.OFFLINE
        kept = [effect for effect in self._effects if not isinstance(effect, Send | Hangup)]
        self._effects = deque(kept)
        if self.job is not None:
            self.job.transfer = None
            self.job.due = NEVER

    def receive(self, message: messages.GatewayMessage, now: float) -> None:
        """A message of the gateway. One that makes no sense in this state is ignored and noted."""
        handler, expected = _HANDLERS[type(message)]
        if expected and self._link not in expected:
            self._note("unexpected", message=type(message).__name__.lower())
            return
        handler(self, message, now)

    def receive_chunk(
        self, transfer: int, digest: int, offset: int, data: bytes | memoryview, now: float
    ) -> None:
        """A chunk: `digest` is the xxh32 that the gateway sent with it."""
        job = self.job
        if job is None or job.phase is not Phase.DOWNLOADING or transfer != job.transfer:
            return  # of an older transfer
        if offset != job.offset or offset + len(data) > job.firmware.size or xxh32(data) != digest:
            job.broken_chunks += 1
            self._note("chunk_broken", offset=offset)
            if job.broken_chunks > BROKEN_CHUNKS_MAX:
                self._finish(job, now, ("download_failed", f"{job.broken_chunks} broken chunks in a row"))
            else:
                self._fetch(job, now)
            return
        job.broken_chunks = 0
        job.offset += len(data)
        job.digest.update(data)
        if job.sha256 is not None:
            job.sha256.update(data)
        job.due = now + STALL_S + job.firmware.chunk_size / NETWORK_BYTES_PER_S_MIN
        self._effects.append(Write(job, offset, data))
        if job.offset == job.firmware.size:
            self._verify(job, now)
        else:
            self._report_download(job, now)

    def wake(self, now: float) -> None:
        """Time has passed: if the deadline did, say again what the job waits for."""
        if self.job is not None and now >= self.deadline:
            self._speak(self.job, now)

    def begin(self, job: Job, now: float) -> None:
        """The device wants to begin now."""
        if job is self.job and job.phase is Phase.RECEIVED:
            self._move(job, Phase.DOWNLOADING)
            self._note("downloading", size=job.firmware.size)
            self._effects.append(Open(job))

    def opened(self, job: Job, now: float) -> None:
        """There is room for the image."""
        if job is self.job and job.phase is Phase.DOWNLOADING:
            self._speak(job, now)

    def verified(self, job: Job, now: float) -> None:
        """The device is content with the image too."""
        if job is self.job and job.phase is Phase.VERIFYING:
            self._move(job, Phase.ASKING)
            self._speak(job, now)

    def burned(self, job: Job, now: float) -> None:
        """The image is in place."""
        if job is self.job and job.phase is Phase.BURNING:
            self._move(job, Phase.REBOOTING)
            self._note("rebooting")
            self._effects.append(Reboot(job))

    def rebooted(self, job: Job, version: str, now: float) -> None:
        """The device is up again and runs `version`; the next login reports it, then the result."""
        self.version = version
        if job is not self.job or job.phase is not Phase.REBOOTING:
            return
        wanted = job.firmware.version
        self._finish(
            job, now, None if version == wanted else ("other", f"runs {version} after burning {wanted}")
        )

    def failed(self, job: Job, reason: messages.Reason, detail: str, now: float) -> None:
        """The device could not go on. `reason`: download_failed, verification_failed, burn_failed, other."""
        if job is self.job and job.phase is not Phase.FINISHED:
            self._finish(job, now, (reason, detail))

    def check(self) -> None:
        """Ask whether there is anything for this device."""
        self._send(messages.Check(id=CHECK_ID))

    # -- login -------------------------------------------------------------------------------------

    def _handle_challenge(self, message: messages.Challenge, now: float) -> None:
        if PROTOCOL_VERSION not in message.protocol:
            self._hang_up(
                f"the gateway speaks protocol {message.protocol}, this device {PROTOCOL_VERSION}",
                refused=True,
            )
            return
        self._link = Link.LOGGING_IN
        self._gateway_nonce = message.nonce
        mac = None
        if self._secret is not None:
            mac = messages.login_mac(self._secret, message.nonce, self.product, self.device)
        self._effects.append(
            Send(
                messages.Hello(
                    self.product, self.device, self.version, mac=mac, nonce=self._nonce, id="hello"
                )
            )
        )

    def _handle_welcome(self, message: messages.Welcome, now: float) -> None:
        if self._nonce is not None and not self._proves_gateway(self._nonce, message.mac):
            self._hang_up("the gateway does not know this device's secret", refused=True)
            return
        self._link = Link.ONLINE
        self.heartbeat_s = min(max(message.heartbeat_s, limits.heartbeat_s_min), limits.heartbeat_s_max)
        self._note("logged_in", version=self.version)
        if self.job is not None:
            self._speak(self.job, now)

    def _proves_gateway(self, nonce: str, mac: str | None) -> bool:
        if self._secret is None or mac is None:
            return False
        return hmac.compare_digest(messages.gateway_mac(self._secret, nonce, self._gateway_nonce), mac)

    # -- the upgrade -------------------------------------------------------------------------------

    def _handle_upgrade(self, message: messages.Upgrade, now: float) -> None:
        """The same again: `received`, and go on. A new attempt at the same image keeps what is here."""
        if self.deaf:
            return
        job = self.job
        if job is not None and job.phase is Phase.FINISHED:
            if job.key == (message.batch, message.attempt):
                self._say_result(job, now)
                return
            job = None
        if job is None and message.firmware.version == self.version:
            self.job = Job(message.batch, message.attempt, message.firmware)
            self._finish(self.job, now)
            return
        self._send(messages.Received(batch=message.batch, attempt=message.attempt))
        if job is not None and job.phase in COMMITTED and job.firmware.id != message.firmware.id:
            job.followed = True  # the device finishes burning first, and then asks for this message again
        elif job is None or job.firmware.id != message.firmware.id or _ends_waiting(job, message):
            if job is not None:
                self._abandon(job, "another upgrade came")
            self._start(message, now)
        else:
            self._adopt(job, message, now)

    def _start(self, message: messages.Upgrade, now: float) -> None:
        job = self.job = Job(message.batch, message.attempt, message.firmware)
        self._note("received", batch=job.batch, attempt=job.attempt, version=job.firmware.version)
        if self.trust is not None:
            refusal = self.trust.refusal(self.product, self.version, message)
            if refusal is not None:
                self._finish(job, now, ("verification_failed", refusal))
                return
            job.sha256 = hashlib.sha256()
        if message.policy == "silent":
            self._effects.append(Choose(job))
        else:
            self.begin(job, now)

    def _adopt(self, job: Job, message: messages.Upgrade, now: float) -> None:
        """The upgrade message of the image that the device works on already."""
        if job.key != (message.batch, message.attempt):
            job.batch, job.attempt = message.batch, message.attempt
            job.transfer, job.refused = None, False  # the gateway has ended the old attempt's transfer
            self._note("received", batch=job.batch, attempt=job.attempt, version=job.firmware.version)
        elif job.phase is not Phase.DOWNLOADING or job.transfer is not None:
            return
        self._speak(job, now)

    def _handle_cancel(self, message: messages.Cancel, now: float) -> None:
        job = self.job
        if job is None or job.key != (message.batch, message.attempt) or job.phase in COMMITTED:
            return
        if job.phase is Phase.FINISHED:
            job.awaited, job.due = None, NEVER  # the gateway knows: it need not be told again
        else:
            self._abandon(job, message.reason)

    def _handle_ack(self, message: messages.Ack, now: float) -> None:
        job = self.job
        if job is None:
            return
        if message.id == CHECK_ID and job.refused and job.phase is Phase.DOWNLOADING and job.transfer is None:
            self._abandon(job, "there is nothing for this device")
        elif job.awaited is None or message.id != job.awaited:
            return
        elif job.phase is Phase.ASKING:
            self._move(job, Phase.BURNING)
            self._note("burning")
            self._effects.append(Burn(job))
        else:
            job.awaited, job.due = None, NEVER

    def _abandon(self, job: Job, reason: str) -> None:
        self.job = None
        self._note("cancelled", reason=reason)
        self._effects.append(Discard(job))

    def _verify(self, job: Job, now: float) -> None:
        job.transfer = None
        if job.digest.hexdigest() != job.firmware.md5:
            self._finish(job, now, ("verification_failed", f"MD5 is {job.digest.hexdigest()}"))
            return
        if job.sha256 is not None and job.sha256.hexdigest() != job.firmware.sha256:
            self._finish(job, now, ("verification_failed", f"SHA-256 is {job.sha256.hexdigest()}"))
            return
        self._move(job, Phase.VERIFYING)
        self._report(job, "verifying")
        self._note("verifying")
        self._effects.append(Verify(job))

    def _finish(self, job: Job, now: float, failure: tuple[messages.Reason, str] | None = None) -> None:
        """The end of the attempt: say how it went, now and until it is acknowledged."""
        burned = job.phase is Phase.REBOOTING
        self._move(job, Phase.FINISHED)
        job.transfer = None
        job.failure = failure
        job.awaited = self._next_id()
        if failure is None:
            self._note("succeeded", version=self.version)
        else:
            self._note("failed", reason=failure[0], detail=failure[1])
            if not burned:
                self._effects.append(Discard(job))
        self._speak(job, now)
        if job.followed:
            self.check()

    # -- saying what the phase waits for ------------------------------------------------------------

    def _speak(self, job: Job, now: float) -> None:
        """Say (again) what this phase waits for, and when to repeat it; silent while offline."""
        job.due = NEVER
        if not self.online:
            return
        if job.phase is Phase.DOWNLOADING:
            self._fetch(job, now)
        elif job.phase is Phase.ASKING:
            job.awaited = self._next_id()
            job.due = now + ANSWER_S
            self._report(job, "burning", id=job.awaited)
        elif job.phase is Phase.FINISHED and job.awaited is not None:
            self._say_result(job, now)

    def _say_result(self, job: Job, now: float) -> None:
        reason, detail = job.failure or (None, None)
        outcome: messages.Outcome = "succeeded" if job.failure is None else "failed"
        job.awaited = self._next_id()
        job.due = now + ANSWER_S
        self._send(
            messages.Result(
                batch=job.batch,
                attempt=job.attempt,
                outcome=outcome,
                reason=reason,
                detail=None if detail is None else detail[: limits.detail_chars_max],
                version=self.version,
                id=job.awaited,
            )
        )

    def _fetch(self, job: Job, now: float) -> None:
        """Ask for the rest of the image. No deadline before its first chunk: fetches wait their turn."""
        job.transfer = self._next_number()
        job.due = NEVER
        offer = job.firmware
        self._send(
            messages.Fetch(
                transfer=job.transfer, firmware=offer.id, offset=job.offset, chunk_size=offer.chunk_size
            )
        )

    def _report(self, job: Job, stage: messages.Stage, percent: int = 0, id: str | None = None) -> None:
        self._send(
            messages.Progress(batch=job.batch, attempt=job.attempt, stage=stage, percent=percent, id=id)
        )

    def _report_download(self, job: Job, now: float) -> None:
        percent = job.offset * 100 // job.firmware.size // PERCENT_STEP * PERCENT_STEP
        if percent > job.percent_said and now >= job.said_at + PROGRESS_INTERVAL_S:
            job.percent_said, job.said_at = percent, now
            self._report(job, "downloading", percent)

    # -- errors and farewells ------------------------------------------------------------------------

    def _handle_error(self, message: messages.Error, now: float) -> None:
        """It answers the login, a fetch (`transfer`), a question or result (`id`), or nothing of ours."""
        words = f"{message.code}: {message.message}"
        self._note("error", code=message.code, message=message.message)
        job = self.job
        if not self.online or message.code is ErrorCode.UNAUTHORIZED:
            self._hang_up(words, retry_after_s=message.retry_after_s, refused=message.code not in PASSING)
        elif job is None:
            return
        elif message.transfer is not None:
            if message.transfer == job.transfer:
                self._handle_fetch_error(job, message, words, now)
        elif message.id is not None and message.id == job.awaited:
            self._handle_answer_error(job, message, words, now)

    def _handle_fetch_error(self, job: Job, message: messages.Error, words: str, now: float) -> None:
        job.transfer = None
        if message.code in PASSING:
            job.due = now + _retry_s(message)
        elif message.code is ErrorCode.NOT_FOUND and not job.refused:
            # The gateway does not have us at this attempt: ask what it has. If it sends the same
            # upgrade again and refuses again, the attempt has failed.
            job.refused = True
            job.due = now + ANSWER_S
            self.check()
        else:
            self._finish(job, now, ("download_failed", words))

    def _handle_answer_error(self, job: Job, message: messages.Error, words: str, now: float) -> None:
        if message.code in PASSING:
            job.due = now + _retry_s(message)
        elif job.phase is Phase.FINISHED:
            job.awaited, job.due = None, NEVER  # refused for good: said again only if the gateway asks
        elif message.code is ErrorCode.BAD_MESSAGE:
            self._finish(job, now, ("other", words))
        else:
            self._abandon(job, words)

    def _handle_goodbye(self, message: messages.Goodbye, now: float) -> None:
        self._hang_up("goodbye", retry_after_s=message.retry_after_s)

    def _hang_up(self, reason: str, *, retry_after_s: float | None = None, refused: bool = False) -> None:
        if retry_after_s is not None:
            retry_after_s = min(retry_after_s, RETRY_AFTER_S_MAX)
        self._effects.append(Hangup(reason, retry_after_s, refused))

    # -- small things --------------------------------------------------------------------------------

    def _move(self, job: Job, phase: Phase) -> None:
        assert phase in MOVES[job.phase], (job.phase, phase)
        job.phase = phase
        job.due = NEVER

    def _send(self, message: messages.DeviceMessage) -> None:
        """Only while logged in: what matters of the rest, `_speak` says after the login."""
        if self.online:
            self._effects.append(Send(message))

    def _next_number(self) -> int:
        self._next = (self._next + 1) % TRANSFER_END
        return self._next

    def _next_id(self) -> str:
        return str(self._next_number())

    def _note(self, event: str, **facts: Any) -> None:
        self._effects.append(Note(event, facts))


def _ends_waiting(job: Job, message: messages.Upgrade) -> bool:
    """Whether a device that waits for its own moment (silent policy) is to begin at once after all: the same
    firmware came in another batch."""
    return job.phase is Phase.RECEIVED and job.batch != message.batch and message.policy == "standard"


def _retry_s(message: messages.Error) -> float:
    return RETRY_S if message.retry_after_s is None else min(message.retry_after_s, RETRY_AFTER_S_MAX)


_HANDLERS: dict[type, tuple[Callable[[Agent, Any, float], None], set[Link]]] = {
    messages.Challenge: (Agent._handle_challenge, {Link.GREETED}),
    messages.Welcome: (Agent._handle_welcome, {Link.LOGGING_IN}),
    messages.Upgrade: (Agent._handle_upgrade, {Link.ONLINE}),
    messages.Cancel: (Agent._handle_cancel, {Link.ONLINE}),
    messages.Ack: (Agent._handle_ack, {Link.ONLINE}),
    messages.Error: (Agent._handle_error, {Link.GREETED, Link.LOGGING_IN, Link.ONLINE}),
    messages.Goodbye: (Agent._handle_goodbye, {Link.GREETED, Link.LOGGING_IN, Link.ONLINE}),
}
