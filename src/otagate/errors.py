"""The error tree: whose fault it is, a stable code each.

    OtagateError
    ├── RequestError            theirs: what was asked for breaks a rule; nothing was changed
    │   ├── Malformed           400  cannot be read at all
    │   ├── Unauthorized        401  no token, or a wrong one
    │   ├── Forbidden           403
    │   ├── NotFound            404  nothing of that name
    │   ├── Conflict            409  already taken, in use, or already ended
    │   ├── TooLarge            413
    │   ├── Invalid             422  any other broken rule; names the field
    │   ├── TooManyAttempts     429  wrong tokens from one address
    │   ├── Busy                503  as many of these at a time as there may be
    │   └── NoRoom              507  the disk is too full for it
    ├── ConfigurationError      theirs: the configuration; the process does not start
    └── StoreError              the world's: the store cannot be opened or written; the process stops
        ├── SchemaTooNew        written by a newer otagate
        └── CommitFailed        EIO, ENOSPC … in a commit

Programmer errors are asserts. An error's message is one sentence for the person who can mend it.
"""

from typing import Any


class OtagateError(Exception):
    """Root of every error that otagate raises on purpose."""


class RequestError(OtagateError):
    """A request that breaks a rule; nothing was changed.

    `code` is stable (API and CLI show it), `field` names the field at fault, `details` is JSON-able.
    """

    status = 400
    code = "malformed"

    def __init__(self, message: str, *, field: str | None = None, details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.details = details


class Malformed(RequestError):
    """Cannot be read at all: not JSON, not CSV, a bad cursor."""


class Unauthorized(RequestError):
    """No token, or a wrong one."""

    status = 401
    code = "unauthorized"


class Forbidden(RequestError):
    """A good token that may not do this."""

    status = 403
    code = "forbidden"


class NotFound(RequestError):
    """Nothing of that name."""

    status = 404
    code = "not_found"


class Conflict(RequestError):
    """Already taken, in use, or already ended."""

    status = 409
    code = "conflict"


class TooLarge(RequestError):
    """More bytes or items than the bound in limits.py."""

    status = 413
    code = "too_large"


class Invalid(RequestError):
    """Any other broken rule; `field` names it."""

    status = 422
    code = "invalid"


class Busy(RequestError):
    """As many of these at a time as there may be (limits.py): later, or after ending another."""

    status = 503
    code = "busy"


class TooManyAttempts(RequestError):
    """Too many wrong tokens from one address; `details` says for how many seconds no other is looked at."""

    status = 429
    code = "too_many_attempts"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message, details={"retry_after_s": retry_after_s})
        self.retry_after_s = retry_after_s


class NoRoom(RequestError):
    """The disk is too full for it (`disk_free_min`), or became so while bytes arrived."""

    status = 507
    code = "no_room"


class ConfigurationError(OtagateError):
    """The configuration names an unknown key or a bad value; the message names the key."""


class StoreError(OtagateError):
    """The store cannot be opened, read or written; the message names the cause."""


class SchemaTooNew(StoreError):
    """The store was written by a newer otagate than this one."""


class CommitFailed(StoreError):
    """A commit failed (EIO, ENOSPC …). Fail-stop: the process ends, no pending row outlives it."""
