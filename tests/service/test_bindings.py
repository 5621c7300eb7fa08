"""Where resources are: bindings, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.service import bindings
from sampan.service.bindings import Binding, BindingError
from sampan.service.data.database import SqlDatabase


def mount(directory: Path, entries: dict[str, str]) -> None:
    directory.mkdir()
    for name, text in entries.items():
        (directory / name).write_text(text)


def test_bindings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    mount(tmp_path / "database-users", {"type": "mysql", "uri": "mysql://u:p%40ss@db/users\n", "token": "t0ken"})
    found = bindings.find("database-users", "SAMPAN_DATABASE_USERS_URI")
    assert (found.type, found.uri) == ("mysql", "mysql://u:p%40ss@db/users")
    assert {"p%40ss", "p@ss", "t0ken"} == set(found.secrets())
    monkeypatch.setenv("SAMPAN_DATABASE_USERS_URI", "sqlite:///x.db")
    assert bindings.find("database-users", "SAMPAN_DATABASE_USERS_URI").type == "sqlite"
    with pytest.raises(BindingError, match="SAMPAN_CACHE_A_URI"):
        bindings.find("cache-a", "SAMPAN_CACHE_A_URI")
    assert bindings.service_url("big-users") == "http://big-users:8080"
    monkeypatch.setenv("SAMPAN_SERVICE_BIG_USERS_URL", "http://127.0.0.1:9/")
    assert bindings.service_url("big-users") == "http://127.0.0.1:9"


@pytest.mark.parametrize(
    "uri", ["mysql://u:s3cret@host:port/x", "mysql://u:s3cret@host:3306", "sqlite://", "redis://:s3cret@x"]
)
def test_a_wrong_database_uri_is_refused_without_its_password(uri: str) -> None:
    with pytest.raises(BindingError) as caught:
        SqlDatabase("d", Binding("database-d", uri.partition(":")[0], uri))
    assert "database-d" in str(caught.value) and "s3cret" not in str(caught.value)
