"""The harness: ratios the right way round, turns taken in turn, and a table and a list of what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import PeerMissing, compare, program, row, turns  # noqa: E402


def test_a_ratio_above_one_means_better() -> None:
    assert row("a", "latency", 2.0, "ms", peer="p", peer_value=4.0).ratio == 2.0
    assert row("a", "rate", 2.0, "1/s", peer="p", peer_value=4.0, more_is_better=True).ratio == 0.5
    assert row("a", "alone", 2.0, "ms").ratio is None


def test_both_sides_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    values = iter([9.0, 1.0, 2.0, 3.0])

    def ours() -> float:
        order.append("ours")
        return next(values)

    def peer() -> float:
        order.append("peer")
        return 5.0

    assert compare(ours, peer, 3) == (2.0, 5.0)
    assert order == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]


def test_turns_the_host_stole_from_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds are stolen during the first two turns: what they gave counts for nothing."""
    clock, given = iter([0.0, 10.0, 10.0, 20.0]), iter(range(100))
    monkeypatch.setattr("benchmarks.stolen", lambda: next(clock, 20.0))
    assert turns(3, lambda: next(given)) == [[2, 3, 4]]


def test_a_host_that_always_steals_is_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calmest turns then; their number is bounded."""
    total, time, given = iter([0.0, 90, 90, 130, 130, 150, 150, 180]), iter(range(0, 800, 100)), iter(range(100))
    monkeypatch.setattr("benchmarks.stolen", lambda: next(total))
    monkeypatch.setattr("benchmarks.time.perf_counter", lambda: next(time))
    assert turns(2, lambda: next(given)) == [[2, 3]]


def test_a_missing_peer_is_named() -> None:
    with pytest.raises(PeerMissing, match="no-such-program is not on this machine"):
        program("no-such-program", "nowhere to be had")


AREA = """
from benchmarks import PeerMissing, row
def run():
    yield row("boats", "launch", 1.5, "ms", peer="raft", peer_value=3.0)
    raise PeerMissing("raft has sunk")
"""


def test_what_was_measured_is_kept_when_a_peer_is_missing(tmp_path: Path) -> None:
    package = tmp_path / "benchmarks"
    package.mkdir()
    for name in ("__init__.py", "__main__.py"):
        (package / name).write_text((ROOT / "benchmarks" / name).read_text())
    (package / "boats.py").write_text(textwrap.dedent(AREA))
    command = [sys.executable, "-m", "benchmarks", "boats", "--json", "rows.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "raft has sunk" in done.stderr
    assert "1.50 ms" in done.stdout
    assert "2.00" in done.stdout
    assert json.loads((tmp_path / "rows.json").read_text()) == [
        {"area": "boats", "name": "launch", "value": 1.5, "unit": "ms", "peer": "raft", "peer_value": 3.0, "ratio": 2.0}
    ]


def test_an_unknown_area_names_those_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "compile" in done.stderr
