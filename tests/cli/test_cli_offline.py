"""Commands that need no cluster: usage, init, compile, and clear words for bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.cli import images, project
from sampan.cli.deploy import is_rolled_out
from sampan.cli.down import delete
from sampan.cli.failure import Failure
from sampan.cli.main import main
from sampan.cli.view import reason_of

SYSTEM = """
from sampan import Application, Service
web = Service("web", asgi="site_one.web:app", public="/")
api = Service("api", asgi="site_one.api:app", public="/api")
site = Application("site", services=[web, api])
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two services that share one module."""
    package = tmp_path / "site_one"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "system.py").write_text(SYSTEM)
    (package / "shared.py").write_text("X = 1\n")
    (package / "web.py").write_text("from site_one.shared import X\nasync def app(s, r, w): ...\n")
    (package / "api.py").write_text("async def app(s, r, w): ...\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SAMPAN_APP", raising=False)
    for name in [name for name in sys.modules if name.startswith("site_one")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def sampan(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sampan", *arguments], cwd=cwd, capture_output=True, text=True, timeout=30, check=False
    )


def test_an_initialized_project_compiles(tmp_path: Path) -> None:
    done = sampan("init", "my-notes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cd my-notes && sampan up" in done.stdout
    again = sampan("init", "my-notes", cwd=tmp_path)
    assert again.returncode == 2
    assert "already has" in again.stderr
    made = sampan("compile", "my-notes", "--env", "prod", "-o", "deploy", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert sampan("compile", "my-notes", "-o", "deploy", "--check", cwd=tmp_path).returncode == 0
    for path in (tmp_path / "deploy").glob("*.yaml"):
        path.write_text(path.read_text().replace("replicas", "replicants"))
        break
    (tmp_path / "my-notes/my_notes/system.py").write_text(
        (tmp_path / "my-notes/my_notes/system.py").read_text().replace('public="/api/notes"', 'public="/api/memos"')
    )
    drifted = sampan("compile", "my-notes", "-o", "deploy", "--check", cwd=tmp_path)
    assert drifted.returncode == 1
    assert "/api/memos" in drifted.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "no application in"),
        ({"pyproject.toml": '[tool.sampan]\napp = "nowhere:app"\n'}, "No module named 'nowhere'"),
        ({"pyproject.toml": "[tool.sampan\n"}, "pyproject.toml"),
        ({"system.py": "x = 1\n"}, "exactly one Application, found none"),
        ({"system.py": "def broken(:\n"}, "SyntaxError"),
        (
            {"system.py": 'from sampan import *\na = Application("a", services=[Service("Bad Name", asgi="x:y")])\n'},
            "'Bad Name' is not a DNS label",
        ),
        ({"system.py": 'from sampan import *\na = Service("a", agsi="x:y")\n'}, "= Service: did you mean 'asgi'?"),
        ({"system.py": "import sampan\nl = [sampan.Scale(minimun=3)]\n"}, "= Scale: did you mean 'minimum'?"),
        ({"system.py": "from sampan import *\na = Route(zzz=3)\n"}, "= Route: there are: path, host, rewrite"),
        ({"system.py": "def made(): ...\nmade(x=1)\n"}, "unexpected keyword argument 'x'"),
    ],
)
def test_bad_projects_are_explained(tmp_path: Path, content: dict[str, str], said: str) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    done = sampan("compile", ".", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_manifests_and_usage_leave_no_cluster(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("apiVersion: v1\nkind: [unclosed\n")
    (tmp_path / "none.yaml").write_text("# nothing\n")
    (tmp_path / "nameless.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n")
    for arguments in (
        ["up", "bad.yaml"],
        ["up", "none.yaml"],
        ["up", "nameless.yaml"],
        ["up", "missing"],
        ["nonsense"],
    ):
        done = sampan(*arguments, cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert done.stderr
    assert not (tmp_path / ".sampan").exists()
    assert sampan("status", "--json", cwd=tmp_path).returncode == 1
    assert sampan("logs", "x", cwd=tmp_path).returncode == 1
    assert sampan("down", cwd=tmp_path).returncode == 0


def test_an_edit_changes_only_the_images_made_of_it(site: Path) -> None:
    loaded = project.load(str(site))
    before = {name: loaded.fingerprint(name) for name in ("web", "api")}
    (site / "site_one/shared.py").write_text("X = 2\n")
    after = {name: loaded.fingerprint(name) for name in ("web", "api")}
    assert before["web"] != after["web"]
    assert before["api"] == after["api"]


def test_image_files_say_how_to_run(site: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    loaded = project.load(str(site))
    names = images.register(loaded, state)
    assert names["web"] == f"site/web:{loaded.fingerprint('web')}"
    content = json.loads((state / "images" / (names["web"].replace("/", "_").replace(":", "_") + ".json")).read_text())
    assert content["image"] == names["web"]
    assert content["env"]["PYTHONPATH"].split(os.pathsep)[0] == str(site)
    for number in range(images.KEEP + 3):
        (site / "site_one/web.py").write_text(f"N = {number}\n")
        images.register(loaded, state)
    assert len(list((state / "images").glob("site_web_*.json"))) == images.KEEP


def test_delete_refuses_what_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(Failure, match="does not look like"):
        delete(tmp_path)
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({"phase": "Pending"}, "Pending"),
        ({"phase": "Running"}, "Starting"),
        ({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}, "Ready"),
        ({"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull"}}}]}, "ErrImagePull"),
        ({"initContainerStatuses": [{"state": {"running": {}}}]}, "Init:0/1"),
        ({"initContainerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 1}}}]}, "Init:Error"),
    ],
)
def test_the_word_for_a_pod(status: dict[str, object], expected: str) -> None:
    spec: dict[str, list[dict[str, str]]] = {"containers": [{}], "initContainers": [{}]}
    assert reason_of({"metadata": {"name": "a"}, "spec": spec, "status": status}) == expected


def test_rolled_out_means_observed_updated_and_available() -> None:
    status = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
    deployment = {"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}
    assert is_rolled_out(deployment)
    for field, value in (("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)):
        assert not is_rolled_out({**deployment, "status": {**status, field: value}})


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "compile" in capsys.readouterr().out


def test_here_the_application_is_that_of_the_environment(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for `sampan serve`: who is in a pod, or has set it, means that one."""
    (site / "site_one/other.py").write_text(SYSTEM.replace('Application("site"', 'Application("other"'))
    monkeypatch.chdir(site)
    assert project.load(".").application.name == "site"
    monkeypatch.setenv("SAMPAN_APP", "site_one.other:site")
    assert project.load(".").application.name == "other"
    assert project.load(str(site)).application.name == "site"
    monkeypatch.setenv("SAMPAN_APP", "site_one.other:web")
    with pytest.raises(Failure, match=r"SAMPAN_APP=site_one\.other:web"):
        project.load(".")
