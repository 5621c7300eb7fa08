"""The documentation is run: its commands on the shop, its Python as it stands, its links, its tables."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.cli.main import COMMANDS, parser
from sampan.cluster.kubelet.known_images import KNOWN
from tests.docs.pages import INSTEAD, PAGES, ROOT, blocks, commands
from tests.system.harness import System, until

USUAL_ADDRESS = "http://127.0.0.1:8080"
# Pages whose Python makes one program with files of its own, run by a test of their own.
RUN_ELSEWHERE = {
    "docs/what-every-request-gets.md": "tests/conformance/ports/test_promises.py",
    "docs/guides/configuration.md": "tests/service/configuration/test_guide.py",
    "docs/guides/lifecycle.md": "tests/service/configuration/test_guide.py",
    "docs/guides/grpc.md": "tests/conformance/ports/test_rpc_guide.py",
    "docs/guides/cache.md": "tests/conformance/ports/test_store_guides.py",
    "docs/guides/objects.md": "tests/conformance/ports/test_store_guides.py",
    "docs/guides/data.md": "tests/conformance/ports/test_data_guide.py",
    "docs/guides/model.md": "tests/model/test_guide.py",
    "docs/guides/security.md": "tests/service/security/test_guide.py",
    "docs/guides/service.md": "tests/conformance/ports/test_service_guide.py",
}
PRELUDE = """\
set -eo pipefail
curl() { command curl --fail-with-body --max-time 10 "$@"; }
trap 'echo "this failed: $COMMAND" >&2' ERR
"""


def bash(script: list[str], directory: Path, **environment: str) -> None:
    """Run commands in one shell; a failure says which."""
    text = PRELUDE + "".join(f"COMMAND={shlex.quote(command)}\n{command}\n" for command in script)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=directory,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"ended {done.returncode}:\n{done.stdout}\n{done.stderr}")


def runnable(page: str, address: str, text: str | None = None) -> list[str]:
    found = []
    for command in commands(page, text):
        instead = INSTEAD.get(command)
        command = command if instead is None else instead.run
        if command:
            found.append(command.replace(USUAL_ADDRESS, address))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_the_commands_of_a_page_run(page: str, shop: System) -> None:
    for needed in ("bash", "curl", "kubectl"):
        if not shutil.which(needed):
            pytest.skip(f"{needed} is not on this machine")
    for name in ("examples", "dev"):
        link = shop.directory / name
        if not link.exists():
            link.symlink_to(ROOT / name)
    script = runnable(page, shop.url)
    settled = "kubectl wait -n shop deployment --all --for=condition=Available --timeout=40s"
    bash([*script, settled], shop.directory, KUBECONFIG=str(shop.directory / ".sampan/kubeconfig"))


def test_commands_that_are_not_run_as_written_are_there() -> None:
    written = {command for page in PAGES for command in commands(page)}
    assert INSTEAD.keys() <= written
    assert all(instead.why for instead in INSTEAD.values())


@pytest.mark.parametrize("page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path) -> None:
    written = [block for block in blocks(page) if block.language == "python"]
    for block in written:
        compile("\n" * (block.line - 1) + block.text, ROOT / page, "exec", dont_inherit=True)
    if page in RUN_ELSEWHERE:
        assert page in (ROOT / RUN_ELSEWHERE[page]).read_text()
        return
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(block.text for block in written))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "examples/shop")}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_declaration_of_the_readme_compiles(tmp_path: Path) -> None:
    (block,) = (block for block in blocks("README.md") if block.language == "python")
    assert len([line for line in block.text.splitlines() if line and not line.startswith(("from", "import"))]) <= 10
    package = tmp_path / "shop"
    (package / "orders/migrations").mkdir(parents=True)
    for name in ("__init__", "users", "orders/__init__"):
        (package / f"{name}.py").write_text("app = object()\n")
    (package / "mailer.py").write_text("async def on_placed(event): ...\n")
    (package / "system.py").write_text(block.text)
    bash([f"{shlex.quote(sys.executable)} -m sampan compile . --env prod -o deploy"], tmp_path)
    kinds = set(re.findall(r"^kind: (\w+)", "".join(p.read_text() for p in (tmp_path / "deploy").iterdir()), re.M))
    assert {"Deployment", "Service", "NetworkPolicy", "HorizontalPodAutoscaler", "PodDisruptionBudget"} <= kinds
    assert "Ingress" in kinds


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"https?://", target):
            path = (ROOT / page).parent / target.partition("#")[0]
            assert path.exists(), f"{page}: {target}"


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", (ROOT / page).read_text()):
            linked = os.path.relpath((ROOT / page).parent / target, ROOT)
            if linked not in seen and not target.startswith("http"):
                waiting.append(linked)
    assert set(PAGES) - seen <= {"CHANGELOG.md"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_sentences_are_understood(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.S | re.M)
    for words in re.findall(r"`sampan ([a-z][^`]*)`", text):
        if not re.search(r"[|\[]|\.\.\.", words):
            try:
                parser().parse_args(shlex.split(words))
            except SystemExit as refused:
                assert not refused.code or len(words.split()) == 1, f"{page}: sampan {words}"


# -- the command line ----------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    parts = re.split(r"^##+ sampan ([\w-]+)\n", (ROOT / "docs/guides/cli.md").read_text(), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_options_of_a_command_are_described(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    usage = capsys.readouterr().out
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage.partition("options:")[2])) - {"-h", "--help"}
    section = sections()[command]
    prose = "\n".join(line for line in section.splitlines() if not line.startswith("    "))
    described = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(re.findall(r"`([^`]*)`", prose))))
    assert options <= described, f"not described: {options - described}"
    assert described <= options, f"no such option: {described - options}"


def test_every_command_has_a_section() -> None:
    assert sections().keys() == COMMANDS.keys()


def test_the_known_images_are_listed() -> None:
    page = (ROOT / "docs/guides/cluster.md").read_text()
    rows = {tuple(re.findall(r"`([^`]+)`", row.split("|")[1])): row for row in page.splitlines() if row[:3] == "| `"}
    for image in KNOWN:
        assert image.names in rows
        remedy = "comes with Sampan" if image.install.startswith("pip") else image.install
        assert remedy in rows[image.names].replace("`", ""), image.names


# -- the project that `sampan init` writes -------------------------------------------------------------------------


def test_the_readme_of_a_new_project_holds(tmp_path: Path) -> None:
    for needed in ("bash", "curl"):
        if not shutil.which(needed):
            pytest.skip(f"{needed} is not on this machine")
    project = System(tmp_path / "notes")
    project.directory.mkdir()
    project.sampan("init")
    try:
        project.sampan("up", "--detach")
        text = (project.directory / "README.md").read_text()
        script = runnable("README.md of a new project", project.url, text)
        assert script.pop(0) == "sampan up"
        bash(script, project.directory, PYTEST_ADDOPTS="-p no:cacheprovider")
    finally:
        project.sampan("down")
        until(lambda: not project.processes(), 15, "every process of the project has ended")


def test_tests_that_are_named_exist() -> None:
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", (ROOT / page).read_text())}
    assert len(named) > 40 and named <= there, named - there
