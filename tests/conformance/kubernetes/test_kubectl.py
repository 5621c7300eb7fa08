"""kubectl says the same of both targets: transcripts of sessions, recorded from the real control plane.

A transcript is lines `$ COMMAND`, each with what it printed below it. `sh:` begins a command of the shell. Files it
names lie in `transcripts/files`. To record anew what the real one says, after changing commands:

    SAMPAN_RECORD_TRANSCRIPTS=1 .venv/bin/python -m pytest tests/conformance/kubernetes/test_kubectl.py -k real
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.harness import kubectl_of

HERE = Path(__file__).parent / "transcripts"
TRANSCRIPTS = sorted(path.stem for path in HERE.glob("kubectl-*.txt"))
HIDDEN = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "UID"),
    (r"\b\d{4}-\d\d-\d\dT[\d:.]+Z\b", "TIME"),
    (r"\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} [\d:]+ [+-]\d{4}\b", "TIME"),
    (r"resourceVersion: \"\d+\"", 'resourceVersion: "N"'),
    (r"\b(10|127)(\.\d+){3}\b", "ADDRESS"),
    (r"\b(\d+m)?\d+(ms|s)\b(?!:)", "AGE"),
    (r"<unknown>", "AGE"),
    (r"(?<=kubectl-edit-)\d+", "HASH"),
    (r"(?<=-)[0-9a-f]{8,10}\b", "HASH"),
    (r"(?<=pod-template-hash=)\w+", "HASH"),
    (r"/tmp/(LIVE|MERGED)-\d+", r"/tmp/\1-N"),
    (r"(?m)^(---|\+\+\+|diff -u -N) .*$", r"\1 FILES"),
    (r"[ \t]{2,}", "  "),
    (r"(?m)[ \t]+$", ""),
    (r"-{6,}", "------"),
)


class Session:
    """One kubectl against one namespace. What differs from run to run is hidden in what it prints."""

    def __init__(self, kubectl: str, kubeconfig: Path, namespace: str, home: Path) -> None:
        self.namespace, self.home = namespace, home
        links = home / "bin"
        links.mkdir()
        (links / "kubectl").symlink_to(kubectl)
        shutil.copytree(HERE / "files", home / "files")
        config = home / "kubeconfig"
        shutil.copyfile(kubeconfig, config)
        config.chmod(0o600)
        self.environment = {
            "HOME": str(home),
            "KUBECONFIG": str(config),
            "PATH": f"{links}:{os.environ['PATH']}",
            "KUBECTL_APPLYSET": "true",
            "TZ": "UTC",
        }
        self.run(f"config set-context --current --namespace={namespace}")

    def run(self, command: str) -> str:
        line = command[3:].strip() if command.startswith("sh:") else f"kubectl {command}"
        done = subprocess.run(
            ["bash", "-c", line.replace("NAMESPACE", self.namespace)],
            cwd=self.home / "files",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        text = done.stdout + done.stderr
        if done.returncode and not command.startswith("sh:"):
            text += f"(exit {done.returncode})\n"
        text = text.replace(self.namespace, "NAMESPACE")
        for pattern, shown in HIDDEN:
            text = re.sub(pattern, shown, text)
        return "\n".join(line for line in text.splitlines() if line)


def steps(text: str) -> list[tuple[str, str]]:
    """(command, what it printed) of a transcript."""
    found = []
    for part in re.split(r"(?m)^\$ ", text)[1:]:
        command, _, printed = part.partition("\n")
        found.append((command, printed.rstrip("\n")))
    return found


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str, kubeconfig: Path, ns: str, tmp_path: Path) -> None:
    version = name.split("-")[1]
    kubectl = kubectl_of(version)
    if kubectl is None:
        pytest.skip(f"kubectl {version} is not on this machine")
    path = HERE / f"{name}.txt"
    session = Session(kubectl, kubeconfig, ns, tmp_path)
    script = steps(path.read_text())
    assert script
    printed = [(command, session.run(command)) for command, _ in script]
    if os.environ.get("SAMPAN_RECORD_TRANSCRIPTS"):
        path.write_text("".join(f"$ {command}\n{text}\n" if text else f"$ {command}\n" for command, text in printed))
        return
    wrong = [
        f"$ {command}\n--- upstream\n{wanted}\n--- here\n{text}"
        for (command, wanted), (_, text) in zip(script, printed, strict=True)
        if wanted != text
    ]
    assert not wrong, "\n\n".join(wrong)
