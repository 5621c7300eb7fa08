"""sampan proto: code beside each .proto, the same every time, and a check for CI."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sampan.cli.main import main

PROTO = """syntax = "proto3";
package demo.v1;
import "google/protobuf/empty.proto";
import "demo/words.proto";
service Speaker { rpc Say(Word) returns (google.protobuf.Empty); }
"""
USE = """
import grpc
from demo.speaker_pb2_grpc import SpeakerStub
from demo.words_pb2 import Word

async def use(channel: grpc.aio.Channel) -> None:
    await SpeakerStub(channel).Say(Word(text="a"))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/speaker.proto").write_text(PROTO)
    (tmp_path / "demo/words.proto").write_text(
        'syntax = "proto3";\npackage demo.v1;\nmessage Word { string text = 1; }\n'
    )
    (tmp_path / ".venv/lib").mkdir(parents=True)
    (tmp_path / ".venv/lib/not_ours.proto").write_text("nonsense")
    return tmp_path


def test_what_is_generated_is_typed_and_stays_the_same(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["proto", str(project), "--check"]) == 1
    assert "speaker_pb2.py is missing" in capsys.readouterr().out
    assert main(["proto", str(project)]) == 0
    made = {path.name: path.read_bytes() for path in (project / "demo").iterdir() if path.suffix in (".py", ".pyi")}
    assert made.keys() == {
        *("speaker_pb2.py", "speaker_pb2.pyi", "speaker_pb2_grpc.py", "speaker_pb2_grpc.pyi"),
        *("words_pb2.py", "words_pb2.pyi"),  # which has no services
    }
    assert main(["proto", str(project), "--check"]) == 0
    (project / "demo/words_pb2.py").write_text("# edited\n")
    capsys.readouterr()
    assert main(["proto", str(project), "--check"]) == 1
    assert "words_pb2.py is not up to date" in capsys.readouterr().out
    assert main(["proto", str(project)]) == 0
    assert {path.name: path.read_bytes() for path in (project / "demo").iterdir() if path.name in made} == made
    (project / "use.py").write_text(USE)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--explicit-package-bases", "use.py"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_mistake_is_shown_with_its_place(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "demo/words.proto").write_text('syntax = "proto3";\nmessage Word { strin text = 1; }\n')
    assert main(["proto", str(project)]) == 1
    assert 'words.proto:2:16: "strin" is not defined' in capsys.readouterr().err
    assert main(["proto", str(project / "nowhere")]) == 2
    (project / "empty").mkdir()
    assert main(["proto", str(project / "empty")]) == 2
    assert "no .proto file" in capsys.readouterr().err


def test_the_shop_is_up_to_date() -> None:
    assert main(["proto", str(Path(__file__).parents[2] / "examples/shop"), "--check"]) == 0
