"""What a database may be told when it is declared, and the errors its users may catch. Plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from sampan.model.handles.bucket import Bucket


class Pool(Struct, frozen=True):
    """Connections of one process to one database.

    `size` is the most there are at once (None: ten for a core of the pod, four at least); `waiting` is how many
    seconds a caller waits for one, or until its deadline; `recycle` is the age in seconds at which one is replaced.
    """

    size: int | None = None
    waiting: float = 10.0
    recycle: float = 1800.0


class Backup(Struct, frozen=True):
    """Backups into the bucket `to` at the times of `schedule` (cron), of which the newest `keep` stay (0: all)."""

    to: Bucket
    schedule: str = "0 3 * * *"
    keep: int = 7


class DatabaseError(Exception):
    """Anything a database handle raises. `code` is the server's own code, where there is one."""

    http_status = 500

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class NoRow(DatabaseError):
    """One row was asked for, and there is none."""


class ManyRows(DatabaseError):
    """One row was asked for, and there are more."""


class ParameterError(DatabaseError):
    """Parameters and statement do not go together, or a value is of a type the database does not take."""


class RowError(DatabaseError):
    """A row does not fit the type it was asked for."""


class StatementError(DatabaseError):
    """The server refused a statement."""


class ConstraintViolation(StatementError):
    """A foreign key, a check, a column that must not be null."""


class UniqueViolation(ConstraintViolation):
    """There is such a row already."""


class Conflict(DatabaseError):
    """A deadlock, a serialization failure or a lock not had in time; the transaction may be tried again."""

    http_status = 503


class Unavailable(DatabaseError, ConnectionError):
    """The database cannot be reached, or the connection broke. A write may or may not have been done."""

    http_status = 503


class PoolTimeout(Unavailable):
    """No connection became free in time."""


class DeadlineExceeded(DatabaseError):
    """The caller's deadline passed; the server was told to stop."""

    http_status = 504
