"""Devices: the SDK's agents behind bad links, with habits, and with mischief that the protocol must bear.

A habit is how a device deals with an upgrade; mischief is what a link or a confused program adds to it:
messages that arrive twice, much later, or about attempts that never were.
"""

import random
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from otagate.sdk import effects
from otagate.sdk.agent import NEVER, Agent
from otagate.wire import messages
from tests.simulation.plan import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from tests.simulation.plane import chunk

if TYPE_CHECKING:
    from tests.simulation.plane import Link
    from tests.simulation.world import World

HABITS = {"honest": 10, "deaf": 2, "fails": 4, "liar": 2, "hangs": 2, "stays": 1, "slow": 2}
SESSIONS_MAX = 7  # then it behaves: a seed must end
SUPERSEDED = 4002
UNAUTHORIZED = 4001
FAILURES: dict[str, messages.Reason] = {
    "open": "download_failed",
    "verify": "verification_failed",
    "burn": "burn_failed",
}


class SimulatedDevice:
    """One device: an agent, at most one link that it uses, and perhaps older ones that it has forgotten."""

    def __init__(self, world: "World", product: str, identifier: str, secret: str) -> None:
        self._world = world
        self._chance = chance = random.Random(f"{world.plan.seed} {identifier}")
        self.product = product
        self.identifier = identifier
        self.habit = chance.choices(list(HABITS), HABITS.values())[0]
        self.agent = Agent(product, identifier, secret, "1.0", deaf=self.habit == "deaf")
        self.number = 0
        self.deleted = False
        self.secret_ms: int | None = 0  # known since; None: a change is on its way
        self.sessions = 0
        self._link: Link | None = None
        self._said: deque[messages.DeviceMessage] = deque(maxlen=12)
        self._wake_ms = NEVER
        self._connecting = False
        self._ids = 0

    # -- connecting ------------------------------------------------------------------------------

    def connect_in(self, ms: int) -> None:
        """Connect after a while, unless it is connected by then."""
        if not self._connecting:
            self._connecting = True
            self._world.at(self._world.now_ms + ms, self._connect)

    def _connect(self) -> None:
        self._connecting = False
        world, chance = self._world, self._chance
        if self._link is not None or self.deleted or world.closing:
            return
        if world.away:
            world.waiting.append(self)  # it goes on trying, and gets through soon after the start
            return
        self.sessions += 1
        if chance.random() < 0.05:
            self.agent.version = chance.choice(("1.0", "1.5", "2.0"))  # somebody flashed it by hand
        self._link = link = world.gateway.plane.connect(self)
        self.agent.connected("ffeeddccbbaa99887766554433221100" if chance.random() < 0.1 else None)
        if self.sessions < SESSIONS_MAX:
            world.at(world.now_ms + self._life_ms(), self._break, link)

    def _life_ms(self) -> int:
        chance = self._chance
        if self.habit == "deaf" and chance.random() < 0.5:
            return chance.randint(500, 9_000)  # three deliveries, and no 10 s for any of them
        if chance.random() < self._world.plan.drops:
            return chance.choice(
                (chance.randint(0, 1_000), chance.randint(0, 30_000), chance.randint(0, MINUTE_MS))
            )
        return chance.choice((10 * MINUTE_MS, HOUR_MS, 6 * HOUR_MS, 2 * DAY_MS))

    def _break(self, link: "Link") -> None:
        """The link breaks: noticed by both ends, or by its device alone."""
        if link is not self._link:
            return
        chance = self._chance
        # silently: the old link lives on for the gateway, and what it carries still arrives
        silently = chance.random() < 0.3
        if silently and self._world.plan.mischief:
            self._haunt(link)
        self._forget(link)
        self._world.gateway.plane.lose(link, silently=silently)
        self.connect_in(self._away_ms())

    def _haunt(self, link: "Link") -> None:
        """A forgotten program of the device goes on speaking on its old link."""
        job, chance = self.agent.job, self._chance
        if job is not None and self.agent.online:
            self._ids += 1
            message = messages.Result(
                batch=job.batch, attempt=job.attempt, outcome="failed", reason="other", id=f"g{self._ids}"
            )
            self._world.gateway.plane.up(link, message, later_ms=chance.randint(0, 20_000))

    def _away_ms(self) -> int:
        chance = self._chance
        if self.sessions >= SESSIONS_MAX:
            return chance.randint(0, 10 * SECOND_MS)
        most_ms = chance.choices((1, SECOND_MS, 10 * SECOND_MS, 30 * MINUTE_MS, DAY_MS), (2, 4, 8, 3, 1))[0]
        return chance.randint(0, most_ms)

    def _forget(self, link: "Link") -> None:
        self._link = None
        self.agent.disconnected()

    def closed(self, link: "Link", code: int) -> None:
        """The link was closed by the gateway, or is lost."""
        link.alive = False
        if link is not self._link:
            return
        self._forget(link)
        wait_ms = self._away_ms()
        if code == SUPERSEDED:
            wait_ms = self._chance.randint(30, 60) * SECOND_MS
        self._pump()
        self.connect_in(wait_ms)

    def leave(self) -> None:
        """The simulation ends: it goes away for good."""
        if self._link is not None:
            self._world.gateway.plane.lose(self._link)
            self._forget(self._link)

    # -- the link's messages ---------------------------------------------------------------------

    def receive(self, link: "Link", message: Any) -> None:
        """A message of the gateway arrived."""
        if link is self._link:
            self.agent.receive(message, self._world.now_ms / 1000)
            self._pump()

    def receive_chunk(self, link: "Link", transfer: int, offset: int, size: int) -> None:
        """A chunk arrived, now and then a broken one."""
        if link is self._link:
            digest, data = chunk(offset, size)
            if self._chance.random() < 0.01:
                digest ^= 1
            self.agent.receive_chunk(transfer, digest, offset, data, self._world.now_ms / 1000)
            self._pump()

    def chunk_pause_ms(self) -> int:
        """How long its link takes for a chunk."""
        if self.habit == "slow":
            return self._chance.choice((SECOND_MS, MINUTE_MS, 10 * MINUTE_MS))
        return self._chance.randint(0, 200)

    def _send(self, message: messages.DeviceMessage) -> None:
        link = self._link
        if link is None:
            return
        plane, chance, mischief = self._world.gateway.plane, self._chance, self._world.plan.mischief
        plane.up(link, message)
        if type(message) is messages.Hello or not mischief:
            return
        self._said.append(message)
        if chance.random() < mischief:
            plane.up(link, message, later_ms=chance.choice((0, 1, chance.randint(0, 30_000))))
        if chance.random() < mischief:
            self._world.at(self._world.now_ms + chance.choice((0, 5_000, MINUTE_MS, HOUR_MS)), self._misspeak)

    def _misspeak(self) -> None:
        """Say something old again, or something about what never was, or chat."""
        link, chance = self._link, self._chance
        if link is None or not self.agent.online:
            return
        self._ids += 1
        id = f"m{self._ids}"
        kind = chance.random()
        if kind < 0.6 and self._said:
            message: Any = replace(chance.choice(self._said), id=id)
        elif kind < 0.75:
            attempt = chance.randint(1, 6)
            message = messages.Received(batch=f"b{chance.randint(1, 4)}", attempt=attempt, id=id)
        elif kind < 0.9:
            message = messages.Check(id=id)
        else:
            message = messages.Version(version=self.agent.version, id=id)
        self._world.gateway.plane.up(link, message)

    # -- the agent's wishes ----------------------------------------------------------------------

    def _pump(self) -> None:
        world, agent = self._world, self.agent
        while (effect := agent.take()) is not None:
            kind = type(effect)
            if kind is effects.Send:
                self._send(effect.message)
            elif kind is effects.Hangup:
                if self._link is not None:
                    world.gateway.plane.lose(self._link)
                    self.closed(self._link, 0)
            elif kind is effects.Choose:
                self._soon(self._choose_ms(), agent.begin, effect.job)
            elif kind is effects.Open:
                self._step("open", effect.job, agent.opened)
            elif kind is effects.Verify:
                self._step("verify", effect.job, agent.verified)
            elif kind is effects.Burn:
                self._step("burn", effect.job, agent.burned)
            elif kind is effects.Reboot:
                self._reboot(effect.job)
        if agent.deadline < self._wake_ms / 1000:
            self._wake_ms = int(agent.deadline * 1000) + 1
            world.at(self._wake_ms, self._wake)

    def _wake(self) -> None:
        self._wake_ms = NEVER
        self.agent.wake(self._world.now_ms / 1000)
        self._pump()

    def _soon(self, ms: int, call: Any, *arguments: Any) -> None:
        self._world.at(self._world.now_ms + ms, self._do, call, arguments)

    def _do(self, call: Any, arguments: tuple[Any, ...]) -> None:
        call(*arguments, self._world.now_ms / 1000)
        self._pump()

    def _choose_ms(self) -> int:
        return self._chance.choice((0, MINUTE_MS, HOUR_MS, 20 * HOUR_MS, 30 * DAY_MS))

    def _step(self, name: str, job: effects.Job, go_on: Any) -> None:
        chance = self._chance
        if name == "open" and chance.random() < 0.3:
            self._report(job)
        here = chance.random() < 0.4
        if self.habit == "fails" and here:
            self._soon(chance.randint(0, 2_000), self.agent.failed, job, FAILURES[name], "as it does")
        elif self.habit == "hangs" and here:
            pass
        else:
            if self.habit == "liar" and here and name == "verify":
                self._lie(job)
            most_ms = 10 * MINUTE_MS if self.habit == "slow" else 3_000
            self._soon(chance.randint(0, most_ms), go_on, job)

    def _report(self, job: effects.Job) -> None:
        """Tell that it begins, before the first chunk."""
        self._ids += 1
        if self.agent.online:
            begun = messages.Progress(
                batch=job.batch, attempt=job.attempt, stage="downloading", percent=0, id=f"p{self._ids}"
            )
            self._send(begun)

    def _lie(self, job: effects.Job) -> None:
        """Claim a success, with the version that runs, or none."""
        if self.agent.online:
            self._ids += 1
            version = self._chance.choice((None, self.agent.version))
            lie = messages.Result(
                batch=job.batch, attempt=job.attempt, outcome="succeeded", version=version, id=f"l{self._ids}"
            )
            self._send(lie)

    def _reboot(self, job: effects.Job) -> None:
        if self._link is not None:
            self._world.gateway.plane.lose(self._link, silently=self._chance.random() < 0.3)
            self._forget(self._link)
        version = self.agent.version if self.habit == "stays" else job.firmware.version
        wait_ms = self._chance.choice((0, 500, 5_000, MINUTE_MS))
        self._soon(wait_ms, self.agent.rebooted, job, version)
        self.connect_in(wait_ms + 1)
