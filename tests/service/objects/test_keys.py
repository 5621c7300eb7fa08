"""Keys, as every store must take them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.service.bindings import Binding
from sampan.service.objects.cloud import options
from sampan.service.objects.files import Files
from sampan.service.objects.port import checked


@given(st.text(min_size=1, max_size=60))
def test_a_key_that_is_accepted_stays_within_the_directory(key: str) -> None:
    try:
        checked("photos", key)
    except ValueError:
        return
    root = Path("/srv/photos")
    assert (root / key).resolve().is_relative_to(root)
    assert (root / key).as_posix() == f"/srv/photos/{key}"


@pytest.mark.parametrize("key", ["", "/", "/etc/passwd", "a/../b", "a//b", "a/", ".", ".sampan/lock", "a\\b", "a\rb"])
def test_others_are_refused_and_shown(key: str) -> None:
    with pytest.raises(ValueError, match="not a key of bucket 'photos'"):
        checked("photos", key)


def test_credentials_of_the_binding_are_given_on_and_others_left_to_the_environment() -> None:
    values = {"access-key": "a", "secret-key": "s", "region": "r", "provider": "sampan", "timeout": "3", "ca": "PEM"}
    made = options(Binding("bucket-photos", "s3", "s3://b", values))
    assert {key: made[key] for key in ("access_key_id", "secret_access_key", "region", "checksum_algorithm")} == {
        "access_key_id": "a",
        "secret_access_key": "s",
        "region": "r",
        "checksum_algorithm": "SHA256",
    }
    assert made["client_options"]["timeout"] == "3.0s"
    assert not made["client_options"]["allow_http"]
    assert made["client_options"]["root_certificate"] == "PEM"
    assert made["retry_config"]["max_retries"] == 3
    plain = options(Binding("bucket-photos", "s3", "s3://b", {"endpoint": "http://127.0.0.1:1"}))
    assert not {"access_key_id", "secret_access_key", "session_token"} & plain.keys()
    assert plain["client_options"]["allow_http"]


async def test_what_a_killed_process_left_is_removed_after_a_day(tmp_path: Path) -> None:
    root = tmp_path
    Files("photos", root)
    old, young = root / ".sampan/new-old", root / ".sampan/new-young"
    for left in (old, young):
        left.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    store = Files("photos", root)
    assert [path.name for path in (root / ".sampan").glob("new-*")] == ["new-young"]
    assert [info.key async for info in store.scan("")] == []
