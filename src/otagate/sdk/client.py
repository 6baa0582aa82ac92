"""A device on Trio: the agent's decisions carried out over a link that is made again whenever it is lost.

One task (`run`) owns the link and alone speaks on it; the only other task is the device's slow step in
progress (waiting to begin, verifying, burning), which may outlive connections. When a slow step ends, its
answer goes to the agent and the owner is woken (`_pause`). The owner takes the agent's effects until there
are none and enters its pause without an await in between: so no effect waits for a frame to arrive.
"""

import math
import random
import ssl
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from otagate import limits
from otagate.errors import OtagateError
from otagate.sdk import effects
from otagate.sdk.agent import Agent
from otagate.sdk.devices import Device, UpdateFailed
from otagate.sdk.effects import Phase
from otagate.sdk.links import Dial, Link, LinkLost, dial_tcp, open_link
from otagate.wire import messages
from otagate.wire.constants import CloseCode

CHUNK_HEADER = struct.Struct(">IIQ")  # transfer, xxh32, offset
LOGIN_TIMEOUT_S = 20.0
HEARTBEATS_UNHEARD = 1.5  # a gateway that is silent for so many, two pings unanswered, is dead

assert CHUNK_HEADER.size == limits.chunk_header_bytes


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How long to stay away: a random part (full jitter) of a span that doubles with each failure."""

    base_s: float = 1.0
    cap_s: float = 60.0
    superseded_s: tuple[float, float] = (30.0, 60.0)  # another connection of this device won, or 4005


class Refused(OtagateError):  # noqa: N818 - the gateway's word
    """The gateway will not have this device until somebody changes something."""


class _Leave(OtagateError):  # noqa: N818 - no error of anybody's
    """This connection has served its purpose."""

    def __init__(self, hangup: effects.Hangup | None) -> None:
        super().__init__()
        self.hangup = hangup


class Client:
    """Runs one device: `await Client(url, agent, device).run()`.

    url: ws://, wss://, tcp:// or tls:// HOST:PORT. `mutual`: the gateway must prove that it knows the
    secret. `observe` is called with every fact (effects.Note). `dial` makes the byte stream. All delays
    are drawn from `source`, so that a seed makes a simulation repeatable. With `stop_when_refused` a
    refusal raises Refused, else it is tried again at the cap of the back-off.
    """

    def __init__(
        self,
        url: str,
        agent: Agent,
        device: Device,
        *,
        reconnect: Reconnect = Reconnect(),
        source: random.Random | None = None,
        mutual: bool = False,
        observe: Callable[[effects.Note], None] | None = None,
        dial: Dial = dial_tcp,
        context: ssl.SSLContext | None = None,
        stop_when_refused: bool = False,
    ) -> None:
        self.url = url
        self.agent = agent
        self._device = device
        self._reconnect = reconnect
        self._random = source or random.SystemRandom()
        self._mutual = mutual
        self._observe = observe
        self._dial = dial
        self._context = context
        self._stop_when_refused = stop_when_refused
        self._heartbeat_part = 0.4 + 0.2 * self._random.random()  # devices that began together drift apart
        self._failures = 0
        self._refusal: str | None = None
        self._reboot: effects.Reboot | None = None
        self._pause: trio.CancelScope | None = None
        self._step: tuple[trio.CancelScope, trio.Event] | None = None
        self._sent_at = -math.inf

    async def run(self) -> None:
        """Never returns. Refused: if asked to stop then. Cancelling it closes the connection."""
        async with trio.open_nursery() as nursery:
            while self._refusal is None or not self._stop_when_refused:
                self._refusal = None
                delay_s = await self._connection(nursery)
                await self._rest(nursery, delay_s)
            nursery.cancel_scope.cancel()
        raise Refused(self._refusal)

    def check(self) -> None:
        """Ask the gateway whether there is anything for this device (only while logged in)."""
        self.agent.check()
        self._wake()

    # -- connections ---------------------------------------------------------------------------------

    async def _connection(self, nursery: trio.Nursery) -> float:
        """One connection from end to end; seconds to stay away after it."""
        try:
            async with open_link(self.url, self._dial, self._context) as link:
                self.agent.connected(f"{self._random.getrandbits(128):032x}" if self._mutual else None)
                try:
                    await self._converse(nursery, link)
                finally:
                    if self.agent.online:
                        self._failures = 0
                    self.agent.disconnected()
        except LinkLost as lost:
            self._note("disconnected", code=lost.code, reason=lost.reason)
            if lost.code in (CloseCode.SUPERSEDED, CloseCode.OVERLOADED):
                return self._random.uniform(*self._reconnect.superseded_s)
            return self._refused(lost.reason) if lost.code == CloseCode.UNAUTHORIZED else self._back_off()
        except _Leave as leave:
            hangup = leave.hangup
            if hangup is None:
                return 0.0
            self._note("disconnected", reason=hangup.reason)
            if hangup.refused:
                return self._refused(hangup.reason)
            if hangup.retry_after_s is None:
                return self._back_off()
            return hangup.retry_after_s * (1 + self._random.random())
        raise AssertionError("a conversation ends with an exception")

    def _back_off(self) -> float:
        span_s = min(self._reconnect.cap_s, self._reconnect.base_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._random.random() * span_s

    def _refused(self, reason: str) -> float:
        self._refusal = reason
        return 0.0 if self._stop_when_refused else self._reconnect.cap_s * (1 + self._random.random()) / 2

    async def _converse(self, nursery: trio.Nursery, link: Link) -> None:
        """Read, decide, perform, until LinkLost or _Leave."""
        login_by = trio.current_time() + LOGIN_TIMEOUT_S
        while True:
            await self._perform_all(nursery, link)
            now = trio.current_time()
            if not self.agent.online:
                until = login_by
                if now >= login_by:
                    raise LinkLost(CloseCode.ABNORMAL, "the gateway did not answer the login")
            else:
                until = min(self.agent.deadline, await self._keep_alive(link, now))
            received = None
            with trio.CancelScope(deadline=until) as self._pause:
                received = await link.receive()
            if received is not None:
                self._receive(received)
            self.agent.wake(trio.current_time())

    async def _keep_alive(self, link: Link, now: float) -> float:
        """Ping if it is time; when to look again."""
        heartbeat_s = self.agent.heartbeat_s
        dead_at = link.heard_at + HEARTBEATS_UNHEARD * heartbeat_s
        if now >= dead_at:
            raise LinkLost(CloseCode.ABNORMAL, "the gateway is silent")
        interval_s = heartbeat_s * self._heartbeat_part
        if now >= self._sent_at + interval_s:
            await link.ping()
            self._sent_at = now
        return min(dead_at, self._sent_at + interval_s)

    def _receive(self, received: str | bytes) -> None:
        now = trio.current_time()
        if isinstance(received, bytes):
            if len(received) < CHUNK_HEADER.size:
                raise LinkLost(CloseCode.ABNORMAL, "the gateway sent a chunk without a header")
            transfer, digest, offset = CHUNK_HEADER.unpack_from(received)
            self.agent.receive_chunk(transfer, digest, offset, memoryview(received)[CHUNK_HEADER.size :], now)
            return
        try:
            message = messages.decode_gateway_message(received.encode())
        except messages.BrokenMessage as error:
            raise LinkLost(CloseCode.INVALID_DATA, "the gateway sent broken JSON") from error
        except messages.BadMessage as error:
            self._note("not_understood", message=error.message)  # of a newer gateway
            return
        self.agent.receive(message, now)

    # -- effects -------------------------------------------------------------------------------------

    async def _perform_all(self, nursery: trio.Nursery, link: Link | None) -> None:
        """Until there is nothing to do; _Leave if the connection is to end."""
        while (effect := self.agent.take()) is not None:
            await self._perform(effect, nursery, link)

    async def _perform(self, effect: effects.Effect, nursery: trio.Nursery, link: Link | None) -> None:
        match effect:
            case effects.Send(message):
                assert link is not None
                await link.send(messages.encode(message))
                self._sent_at = trio.current_time()
            case effects.Write(job, offset, data):
                if job.phase is not Phase.FINISHED:
                    await self._do(job, self._device.write(offset, data), "download_failed")
            case effects.Note():
                if self._observe is not None:
                    self._observe(effect)
            case effects.Open(job):
                if await self._do(job, self._device.open_image(job.firmware), "download_failed"):
                    self.agent.opened(job, trio.current_time())
            case effects.Choose(job):
                self._begin_step(nursery, job, self._device.wait_to_begin, self.agent.begin, "other")
            case effects.Verify(job):
                self._begin_step(nursery, job, self._verify, self.agent.verified, "verification_failed")
            case effects.Burn(job):
                self._begin_step(nursery, job, self._burn, self.agent.burned, "burn_failed")
            case effects.Discard(job):
                await self._end_step()
                await self._do(job, self._device.discard(), "other")
            case effects.Reboot():
                self._reboot = effect
                if link is not None:
                    raise _Leave(None)
            case effects.Hangup():
                raise _Leave(effect)

    async def _do(self, job: effects.Job, action: Awaitable[None], reason: messages.Reason) -> bool:
        """A step of the device; its failure is the attempt's."""
        try:
            await action
        except UpdateFailed as failure:
            self.agent.failed(job, failure.reason or reason, failure.detail, trio.current_time())
        except OSError as error:
            self.agent.failed(job, reason, str(error), trio.current_time())
        else:
            return True
        return False

    # -- slow steps, beside the connection -------------------------------------------------------------

    async def _verify(self, _: messages.FirmwareOffer) -> None:
        await self._device.verify()

    async def _burn(self, _: messages.FirmwareOffer) -> None:
        await self._device.burn()

    def _begin_step(
        self,
        nursery: trio.Nursery,
        job: effects.Job,
        step: Callable[[messages.FirmwareOffer], Awaitable[None]],
        done: Callable[[effects.Job, float], None],
        reason: messages.Reason,
    ) -> None:
        if job.phase is Phase.FINISHED:  # its last write failed
            return
        assert self._step is None, "one step at a time"
        scope, ended = trio.CancelScope(), trio.Event()
        self._step = scope, ended

        async def run_step() -> None:
            with scope:
                try:
                    if await self._do(job, step(job.firmware), reason):
                        done(job, trio.current_time())
                finally:
                    self._step = None
                    ended.set()
            self._wake()

        nursery.start_soon(run_step)

    async def _end_step(self) -> None:
        if self._step is not None:
            scope, ended = self._step
            scope.cancel()
            await ended.wait()

    async def _rest(self, nursery: trio.Nursery, delay_s: float) -> None:
        """Stay offline for so long; slow steps go on, and a reboot ends it."""
        until = trio.current_time() + delay_s
        while True:
            await self._perform_all(nursery, None)
            if self._reboot is not None:
                job, self._reboot = self._reboot.job, None
                self.agent.rebooted(job, await self._device.reboot(), trio.current_time())
                until = -math.inf
                continue
            if trio.current_time() >= until:
                return
            with trio.CancelScope(deadline=until) as self._pause:
                await trio.sleep_forever()

    def _wake(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    def _note(self, event: str, **facts: object) -> None:
        if self._observe is not None:
            self._observe(effects.Note(event, facts))
