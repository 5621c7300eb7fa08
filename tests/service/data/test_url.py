"""The URL of a database: read as SQLAlchemy reads it."""

import pytest
from sqlalchemy.engine import make_url

from sampan.service.data.url import Url

WRITTEN = [
    "mysql://user:pw@users-db:3306/users",
    "mysql+asyncmy://user:p%40ss%2Fw%2Bo+rd@db/users?charset=utf8mb4&ssl=true",
    "postgresql://user@[::1]:5432/users?sslmode=require",
    "postgresql://:pw@db/",
    "postgresql://db",
    "postgresql:///users?host=%2Frun%2Fpostgresql",
    "mysql://us%3Aer:a/b:c@db:1/na%20me",
    "sqlite:////data/users.db",
    "sqlite:///users.db?mode=ro",
    "sqlite://",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_it_is_read_and_written_as_sqlalchemy_does(written: str) -> None:
    ours, theirs = Url.parse(written), make_url(written)
    assert (ours.drivername, ours.username, ours.password) == (theirs.drivername, theirs.username, theirs.password)
    assert (ours.host, ours.port, ours.database) == (theirs.host, theirs.port, theirs.database)
    assert ours.query == dict(theirs.query)
    assert Url.parse(ours.with_password()) == ours
    assert make_url(ours.with_password()) == theirs
    assert not ours.password or ours.password not in repr(ours)


@pytest.mark.parametrize("written", ["", "users", "mysql:users", "mysql://u:secret@db:port/users", "://u:secret@db"])
def test_what_is_none(written: str) -> None:
    with pytest.raises(ValueError, match="not a database URL") as error:
        Url.parse(written)
    assert "secret" not in str(error.value)
