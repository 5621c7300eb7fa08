"""The URL of a database, read as SQLAlchemy reads it, without the 0.2 s that importing SQLAlchemy takes."""

from __future__ import annotations

import dataclasses
import re
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

_FORM: Final = re.compile(
    r"(?P<drivername>[\w+]+)://"
    r"((?P<username>[^:/]*)(:(?P<password>[^@]*))?@)?"
    r"(\[(?P<bracketed>[^/?]+)\]|(?P<host>[^/:?]+))?(:(?P<port>[0-9]+))?"
    r"(/(?P<database>[^?]*))?(\?(?P<query>.*))?",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Url:
    """User, password and database are percent-decoded. Of a key twice in the query the last counts. Its repr never
    holds the password."""

    drivername: str
    username: str | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    database: str | None = None
    query: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, written: str) -> Url:
        """ValueError, which does not quote it, when it is none."""
        found = _FORM.fullmatch(written)
        if found is None:
            raise ValueError("not a database URL")
        user, password, database = [
            None if part is None else unquote(part) for part in found.group("username", "password", "database")
        ]
        return cls(
            found["drivername"],
            user,
            password,
            found["bracketed"] or found["host"],
            int(found["port"]) if found["port"] else None,
            database,
            dict(parse_qsl(found["query"] or "", keep_blank_values=False)),
        )

    def changed(self, **changes: str | int | dict[str, str] | None) -> Url:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def with_password(self) -> str:
        """All of it, as it is written in a binding."""
        user = "" if self.username is None else quote(self.username, safe=" +")
        if self.password is not None:
            user += ":" + quote(self.password, safe=" +")
        host = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        port = "" if self.port is None else f":{self.port}"
        path = "" if self.database is None else "/" + quote(self.database, safe=" +/")
        query = "?" + urlencode(self.query) if self.query else ""
        return f"{self.drivername}://{user}{'@' if user else ''}{host}{port}{path}{query}"
