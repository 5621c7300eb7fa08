"""Slices: one owner each, kept by the directory, free again when the owner is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sampan.cluster.address import SLICES, acquire, can_bind, keep_port


def test_a_slice_is_kept_and_has_one_owner(tmp_path: Path) -> None:
    first = acquire(tmp_path)
    assert first.number in SLICES
    other = tmp_path / "other"
    other.mkdir()
    (other / "slice").write_text(f"{first.number}\n")
    second = acquire(other)
    assert second.number != first.number
    assert (other / "slice").read_text() == f"{second.number}\n"
    first.close()
    again = acquire(tmp_path)
    assert again.number == first.number
    again.close()
    second.close()


def test_a_killed_owner_gives_it_back(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib; from sampan.cluster.address import acquire\n"
        "s = acquire(pathlib.Path(sys.argv[1])); print(s.number, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    number = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait(5)
    child.stdout.close()
    owned = acquire(tmp_path)
    assert owned.number == number
    owned.close()


def test_a_record_that_makes_no_sense_is_replaced(tmp_path: Path) -> None:
    for text in ("", "x", "1", "999"):
        (tmp_path / "slice").write_text(text)
        owned = acquire(tmp_path)
        assert owned.number in SLICES
        owned.close()


def test_a_port_is_kept_while_nobody_else_has_it(tmp_path: Path) -> None:
    record, other = tmp_path / "proxy/port", tmp_path / "other"
    port, holder = keep_port(record, 18000)
    assert record.read_text() == f"{port}\n"
    other.write_text(f"{port}\n")
    second, more = keep_port(other, 18000)  # nobody listens on the first yet; it is taken all the same
    assert second != port
    holder.close()
    again, holder = keep_port(record, 1)
    assert again == port
    holder.close()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen(1)
        assert can_bind("127.0.0.1", port) is not None
        third, last = keep_port(record, 1)
        assert third not in (port, second)
    more.close()
    last.close()
