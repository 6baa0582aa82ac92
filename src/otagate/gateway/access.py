"""Who may do what: tokens, console sessions, and the slowing of those who guess.

Theory. A token is 256 random bits, so its SHA-256 may be kept, and be looked up in a dict: whoever tries
tokens cannot steer the digests, and the time of a look-up tells nothing of the tokens there are. All tokens
stand in memory, loaded at the start and changed when their commits settle; a request reads no store. When a
token was last used is noted here and written once a minute.

A console session is what a browser has instead of the token: a cookie that scripts cannot read, and a second
secret (`csrf`) that other sites cannot know. Sessions live in memory alone: a restart logs everybody out.

Whoever sends wrong tokens is slowed by address: the first few are free, then each doubles the wait before
another is looked at. Good tokens are never slowed, whatever else comes from their address (a proxy is one
address for all). IPv6 counts by /64, which is what one customer has.

Nothing here does I/O or yields; time is a function handed in.
"""

import hashlib
import hmac
import ipaddress
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from enum import IntEnum

from msgspec import Struct
from msgspec.structs import replace

from otagate import limits, logs
from otagate.errors import TooManyAttempts, Unauthorized
from otagate.store.operators import Token

log = logs.get("access")


class Role(IntEnum):
    """What a token is for; each may do what those before it may."""

    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def label(self) -> str:
        """ "viewer", "operator", "admin"."""
        return self.name.lower()


ROLES = {role.label: role for role in Role}


class Session(Struct, eq=False):
    """A browser that is logged in. `csrf` is the secret that its requests repeat."""

    token: Token
    csrf: str
    seal_key: bytes
    opened_at_ms: int
    seen_at_ms: int

    @property
    def expires_at_ms(self) -> int:
        """When it ends if nothing more is asked of it."""
        end_ms = min(
            self.opened_at_ms + limits.console_session_ms_max,
            self.seen_at_ms + limits.console_session_idle_ms,
        )
        return end_ms if self.token.expires_at_ms is None else min(end_ms, self.token.expires_at_ms)


class Identity(Struct, frozen=True):
    """Whoever makes a request. `seal_key` follows from the token's clear text, which nothing keeps."""

    token: int
    name: str
    role: Role
    seal_key: bytes
    session: Session | None = None


class Access:
    """All tokens and sessions of a gateway. `now_ms` is its clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._tokens: dict[bytes, Token] = {}
        self._used: dict[int, int] = {}  # token number → ms, to be written
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()  # the longest idle first
        self._guesses = Guesses(now_ms)

    # -- tokens ----------------------------------------------------------------------------------

    def load(self, tokens: Iterable[Token]) -> None:
        """At a start."""
        for token in tokens:
            self.keep(token)

    def keep(self, token: Token) -> None:
        """A token is in the store, new or changed; with a revoked one end its sessions."""
        if token.revoked_at_ms is None:
            self._tokens[token.sha256] = token
            return
        self._tokens.pop(token.sha256, None)
        for cookie, session in list(self._sessions.items()):
            if session.token.number == token.number:
                del self._sessions[cookie]

    def has_admin(self) -> bool:
        """Whether anybody could make another token."""
        now_ms = self._now_ms()
        return any(t.role == Role.ADMIN.label and t.is_good(now_ms) for t in self._tokens.values())

    def has_name(self, name: str) -> bool:
        """Whether a good token has it."""
        now_ms = self._now_ms()
        return any(t.name == name and t.is_good(now_ms) for t in self._tokens.values())

    def last_used_ms(self, token: Token) -> int | None:
        """When the token was last used."""
        return self._used.get(token.number) or token.last_used_at_ms

    def take_used(self) -> list[tuple[int, int]]:
        """(number, ms) of what was used since the last call."""
        used, self._used = self._used, {}
        for digest, token in list(self._tokens.items()):
            if token.number in used:
                self._tokens[digest] = replace(token, last_used_at_ms=used[token.number])
        return list(used.items())

    def authenticate(self, text: str, address: str) -> Identity:
        """Who bears this token. Unauthorized; TooManyAttempts for a wrong one where too many came before."""
        token, seal_key = self._look_up(text, address)
        return Identity(token.number, token.name, ROLES[token.role], seal_key)

    def _look_up(self, text: str, address: str) -> tuple[Token, bytes]:
        clear = text.encode("utf-8", "surrogatepass")
        token = self._tokens.get(hash_of(text))
        now_ms = self._now_ms()
        if token is None or not token.is_good(now_ms):
            self._guesses.wrong(address)
            log.limited("token_refused", address=address, known=None if token is None else token.id)
            raise Unauthorized("This token is not valid.")
        self._used[token.number] = now_ms
        return token, hmac.digest(clear, b"otagate: answers to requests sent again", "sha256")

    # -- sessions --------------------------------------------------------------------------------

    def open_session(self, text: str, address: str) -> tuple[str, Session]:
        """A new session for who bears this token, and its cookie. Raises as `authenticate`."""
        token, seal_key = self._look_up(text, address)
        now_ms = self._now_ms()
        self._forget_expired(now_ms)
        own = [key for key, other in self._sessions.items() if other.token.number == token.number]
        if len(own) >= limits.console_sessions_per_token_max:
            del self._sessions[own[0]]
        if len(self._sessions) >= limits.console_sessions_max:
            self._sessions.popitem(last=False)
        cookie = secrets.token_urlsafe(32)
        session = Session(token, secrets.token_urlsafe(32), seal_key, now_ms, now_ms)
        self._sessions[hashlib.sha256(cookie.encode()).digest()] = session
        log.info("console_opened", token=token.name, address=address)
        return cookie, session

    def session(self, cookie: str) -> Identity:
        """Who is logged in with this cookie. Unauthorized."""
        key = hash_of(cookie)
        session = self._sessions.get(key)
        now_ms = self._now_ms()
        if session is None or now_ms >= session.expires_at_ms:
            self._sessions.pop(key, None)
            raise Unauthorized("This session is over; log in again.")
        session.seen_at_ms = now_ms
        self._sessions.move_to_end(key)
        token = session.token
        self._used[token.number] = now_ms
        return Identity(token.number, token.name, ROLES[token.role], session.seal_key, session)

    def close_session(self, session: Session) -> None:
        """Log out."""
        for key, other in self._sessions.items():
            if other is session:
                del self._sessions[key]
                return

    def _forget_expired(self, now_ms: int) -> None:
        for key, session in list(self._sessions.items()):
            if now_ms >= session.expires_at_ms:
                del self._sessions[key]


def hash_of(text: str) -> bytes:
    """The digest that stands for a token or cookie."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class Guesses:
    """Wrong tokens by address, in a bounded table that forgets.

    `[count, since when the count stands, until when nothing more is looked at]`; one of the count is
    forgotten for each `wrong_token_forget_ms` without a wrong token.
    """

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._by_network: OrderedDict[str, tuple[int, int, int]] = OrderedDict()  # the longest quiet first

    def wrong(self, address: str) -> None:
        """A wrong token came from there. TooManyAttempts while it has to wait."""
        network = _network(address)
        now_ms = self._now_ms()
        count, since_ms, until_ms = self._by_network.get(network, (0, now_ms, 0))
        if now_ms < until_ms:
            wait_s = -(-(until_ms - now_ms) // 1000)
            raise TooManyAttempts("Too many wrong tokens came from this address; wait.", wait_s)
        count = max(count - (now_ms - since_ms) // limits.wrong_token_forget_ms, 0) + 1
        beyond = count - limits.wrong_tokens_free
        wait_ms = min(1000 * 2 ** min(beyond, 20), limits.wrong_token_wait_ms_max) if beyond >= 0 else 0
        self._by_network[network] = (count, now_ms, now_ms + wait_ms)
        self._by_network.move_to_end(network)
        if len(self._by_network) > limits.wrong_token_addresses_max:
            self._by_network.popitem(last=False)

    def __len__(self) -> int:
        return len(self._by_network)


def _network(address: str) -> str:
    """What of an address counts as one place."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6 and ip.ipv4_mapped is None:
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
