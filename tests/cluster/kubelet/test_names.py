"""Without a mount namespace: where volumes are, and how names of services are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sampan.cluster.kubelet.containers import _uncovered
from sampan.cluster.kubelet.images import Image
from sampan.cluster.kubelet.mounts import Mount
from sampan.cluster.kubelet.names import Hosts
from sampan.cluster.kubelet.plain import Moved
from sampan.service import bindings


@pytest.fixture
def moved(tmp_path: Path) -> Moved:
    (tmp_path / "root").mkdir()
    mounts = [
        Mount("/volumes/tmp", "/tmp"),
        Mount("/volumes/db", "/bindings/db"),
        Mount("/tmp/project", "/tmp/project"),
    ]
    return Moved(mounts, tmp_path / "root")


@pytest.mark.parametrize(
    ("word", "is_moved"),
    [
        ("/bindings/db", True),
        ("/bindings/db/uri", True),
        ("/bindings", True),
        ("/bindings/dbs", False),
        ("/tmp/x", True),
        ("/tmp/project/x.py", False),
        ("/usr", False),
        ("/", False),
        ("bindings/db", False),
        ("sqlite:////bindings/db", False),
    ],
)
def test_paths_at_below_and_above_mount_paths_move(moved: Moved, tmp_path: Path, word: str, is_moved: bool) -> None:
    assert moved.path(word) == (f"{tmp_path}/root{word}" if is_moved else word)
    option = f"--option={word}"
    assert moved.path(option) == (f"--option={tmp_path}/root{word}" if is_moved else option)


def test_volumes_are_linked_below_the_root(moved: Moved, tmp_path: Path) -> None:
    assert (tmp_path / "root/bindings/db").readlink() == Path("/volumes/db")
    values = moved.environment({"HOME": "/tmp", "TMPDIR": "/tmp"}, tmp_path / "etc-hosts")
    assert values["HOME"] == "/tmp"
    assert values["TMPDIR"] == f"{tmp_path}/root/tmp"
    assert values["SAMPAN_HOSTS"] == str(tmp_path / "etc-hosts")


def test_a_hosts_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = Hosts(path)
    assert hosts.address("db") is None
    path.write_text("# kept\n127.1.2.3\tdb db.shop\n::1 six\n127.9.9.9 db\n")
    assert (hosts.address("db"), hosts.address("DB.shop."), hosts.address("six")) == ("127.1.2.3", "127.1.2.3", None)
    path.write_text("127.1.2.40\tdb\n")
    assert hosts.address("db") == "127.1.2.40"


def test_asyncio_resolves_by_the_file_and_the_rest_as_before(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.1.2.3\tdb\n")
    program = f"""
import asyncio, socket
from sampan.cluster.kubelet import names
names.install({str(tmp_path / "hosts")!r})
async def find():
    return await asyncio.get_running_loop().getaddrinfo("db", 80)
found = asyncio.run(find())
print(found[0][4], socket.gethostbyname("db"), socket.getaddrinfo("127.0.0.1", 1)[0][4])
try:
    import uvloop
except ImportError:
    print("hidden")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split("\n")[:2] == ["('127.1.2.3', 80) 127.1.2.3 ('127.0.0.1', 1)", "hidden"]


def test_files_named_by_bindings_are_found_on_moved_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SAMPAN_DATABASE_X_URI", "sqlite:////data/x.db")
    assert bindings.find("database-x", "SAMPAN_DATABASE_X_URI").uri == "sqlite:////data/x.db"
    monkeypatch.setenv("SAMPAN_VOLUME_ROOT", str(tmp_path))
    assert bindings.find("database-x", "SAMPAN_DATABASE_X_URI").uri == f"sqlite:///{tmp_path}/data/x.db"
    monkeypatch.setenv("SAMPAN_DATABASE_X_URI", "sqlite:////elsewhere/x.db")
    assert bindings.find("database-x", "SAMPAN_DATABASE_X_URI").uri == "sqlite:////elsewhere/x.db"


def test_a_volume_does_not_cover_what_the_program_is_imported_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("project", "library", "packages"):
        (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    image = Image("x", directory=str(tmp_path / "project"), env={"PYTHONPATH": str(tmp_path / "library")})
    kept = {mount.target for mount in _uncovered(image, [Mount("/empty", str(tmp_path))])}
    assert kept >= {str(tmp_path / name) for name in ("project", "library", "packages")}
