"""An unmodified kubectl changes the cluster: create, apply, diff, edit, patch, label, rollout, delete."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import System, until

MANIFESTS = Path(__file__).parent / "manifests"
SMALL = """
apiVersion: v1
kind: ConfigMap
metadata: {name: NAME, labels: {set: small}}
data: {colour: red, size: large}
"""

# what is typed -> what is said (`{}` stands for a name of the row's own)
CREATES: dict[str, str] = {
    "deployment {} --image=busybox --replicas=0 --port=80 -- sleep 9": "deployment.apps/{} created",
    "configmap {} --from-literal=a=b": "configmap/{} created",
    "secret generic {} --from-literal=a=b": "secret/{} created",
    "secret docker-registry {} --docker-server=x --docker-username=u --docker-password=p": "secret/{} created",
    "namespace {}": "namespace/{} created",
    "job {} --image=busybox -- true": "job.batch/{} created",
    "cronjob {} --image=busybox --schedule=@hourly -- true": "cronjob.batch/{} created",
    "role {} --verb=get --resource=pods,deployments.apps": "role.rbac.authorization.k8s.io/{} created",
    "clusterrole {} --verb=get --resource=nodes": "clusterrole.rbac.authorization.k8s.io/{} created",
    "rolebinding {} --clusterrole=view --user=ann --group=crew": "rolebinding.rbac.authorization.k8s.io/{} created",
    "clusterrolebinding {} --clusterrole=view --user=ann": "clusterrolebinding.rbac.authorization.k8s.io/{} created",
    "serviceaccount {}": "serviceaccount/{} created",
    "ingress {} --rule=a.example.com/x*=web:80,tls=cert --class=nginx": "ingress.networking.k8s.io/{} created",
    "service clusterip {} --tcp=80:8080": "service/{} created",
    "service clusterip {} --clusterip=None": "service/{} created",
    "service nodeport {} --tcp=80:8080": "service/{} created",
    "service loadbalancer {} --tcp=80:8080": "service/{} created",
    "service externalname {} --external-name=example.com": "service/{} created",
    "quota {} --hard=pods=100,services=50": "resourcequota/{} created",
    "poddisruptionbudget {} --selector=app=none --max-unavailable=1": "poddisruptionbudget.policy/{} created",
    "priorityclass {} --value=10": "priorityclass.scheduling.k8s.io/{} created",
}


@pytest.mark.parametrize("number,command", list(enumerate(CREATES)))
def test_creates(cluster: System, number: int, command: str) -> None:
    name, said = f"made-{number}", CREATES[command]
    words = ["create", *command.replace("{}", name).split(" ")]
    assert cluster.kubectl(*words) == said.replace("{}", name) + "\n"
    kind = said.partition("/")[0]
    assert cluster.kubectl("delete", kind, name, "--wait=false").startswith(f'{kind} "{name}" deleted')


def test_a_dry_run_leaves_nothing_and_a_second_create_is_refused(cluster: System) -> None:
    words = ("create", "configmap", "twice", "--from-literal=a=b")
    assert cluster.kubectl(*words, "--dry-run=server") == "configmap/twice created (server dry run)\n"
    assert cluster.kubectl(*words) == "configmap/twice created\n"
    again = cluster.run_kubectl(*words)
    assert (again.returncode, again.stderr) == (
        1,
        'error: failed to create configmap: configmaps "twice" already exists\n',
    )


def test_a_token_is_made_for_a_service_account_and_opens_the_door(cluster: System) -> None:
    cluster.kubectl("create", "serviceaccount", "robot")
    token = cluster.kubectl("create", "token", "robot", "--duration=1h").strip()
    said = cluster.kubectl(
        "--kubeconfig=/dev/null", f"--server={cluster.info['server']}", "--insecure-skip-tls-verify",
        f"--token={token}", "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}",
    )  # fmt: skip
    assert said == "system:serviceaccount:default:robot"


def _live(cluster: System, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cluster.kubectl("get", "configmap", name, "-o", "json", "--show-managed-fields"))
    return found


@pytest.fixture
def small(cluster: System, request: pytest.FixtureRequest) -> tuple[str, str]:
    """A ConfigMap applied from the client; its name and manifest."""
    name = re.sub(r"\W+|_", "-", request.node.name.removeprefix("test_"))[:60].strip("-")
    manifest = SMALL.replace("NAME", name)
    assert cluster.kubectl("apply", "-f", "-", stdin=manifest) == f"configmap/{name} created\n"
    return name, manifest


def test_apply_merges_three_ways(cluster: System, small: tuple[str, str]) -> None:
    name, manifest = small
    assert cluster.kubectl("apply", "-f", "-", stdin=manifest) == f"configmap/{name} unchanged\n"
    cluster.kubectl("patch", "configmap", name, "--type=merge", "-p", '{"data":{"mine":"kept","size":"odd"}}')
    changed = manifest.replace("colour: red, size: large", "size: small")
    assert cluster.kubectl("apply", "-f", "-", stdin=changed) == f"configmap/{name} configured\n"
    assert _live(cluster, name)["data"] == {"mine": "kept", "size": "small"}
    assert "size: small" in cluster.kubectl("apply", "view-last-applied", f"configmap/{name}")


def test_diff_tells_by_its_exit_code(cluster: System, small: tuple[str, str]) -> None:
    name, manifest = small
    # Its own manager, `kubectl`, would write the note of `kubectl apply` anew.
    for form in ((), ("--server-side", "--force-conflicts", "--field-manager=another")):
        same = cluster.run_kubectl("diff", *form, "-f", "-", stdin=manifest)
        assert (same.returncode, same.stdout) == (0, ""), same
    changed = cluster.run_kubectl("diff", "-f", "-", stdin=manifest.replace("red", "blue"))
    assert changed.returncode == 1
    assert re.search(r"^-  colour: red\n\+  colour: blue$", changed.stdout, re.MULTILINE)
    new = cluster.run_kubectl("diff", "-f", "-", stdin=manifest.replace(name, "brand-new"))
    assert (new.returncode, "+kind: ConfigMap" in new.stdout) == (1, True)
    bad = cluster.run_kubectl("diff", "-f", "-", stdin=manifest.replace("red", "[1]"))
    assert bad.returncode > 1
    assert _live(cluster, name)["data"]["colour"] == "red"
    assert "NotFound" in cluster.kubectl("get", "configmap", "brand-new", check=False)


def test_server_side_apply_guards_the_fields_of_others(cluster: System) -> None:
    manifest = SMALL.replace("NAME", "owned")
    assert (
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifest) == "configmap/owned serverside-applied\n"
    )
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    refused = cluster.run_kubectl(*other, stdin=manifest.replace("red", "blue"))
    assert refused.returncode == 1
    assert 'error: Apply failed with 1 conflict: conflict with "kubectl": .data.colour' in refused.stderr
    assert "--force-conflicts" in refused.stderr
    assert _live(cluster, "owned")["data"]["colour"] == "red"
    cluster.kubectl(*other, "--force-conflicts", stdin=manifest.replace("red", "blue"))
    owners = {
        entry["manager"]: entry["fieldsV1"]["f:data"] for entry in _live(cluster, "owned")["metadata"]["managedFields"]
    }
    assert owners == {"kubectl": {"f:size": {}}, "other": {"f:colour": {}, "f:size": {}}}
    # what the only owner drops is gone; what another owns too stays
    cluster.kubectl(*other, stdin=manifest.replace("colour: red, size: large", "{}").replace("{{}}", "{}"))
    assert _live(cluster, "owned")["data"] == {"size": "large"}


def test_client_side_apply_moves_to_server_side(cluster: System, small: tuple[str, str]) -> None:
    name, manifest = small
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifest.replace("colour: red, ", ""))
    assert _live(cluster, name)["data"] == {"size": "large"}


def test_apply_prunes_what_is_no_longer_named(cluster: System) -> None:
    both = "---".join(SMALL.replace("NAME", name).replace("small", "prune") for name in ("keep", "drop"))
    cluster.kubectl("apply", "-f", "-", stdin=both)
    said = cluster.kubectl("apply", "--prune", "-l", "set=prune", "-f", "-", stdin=both.split("---")[0])
    assert said == "configmap/keep unchanged\nconfigmap/drop pruned\n"


def test_edit(cluster: System, small: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = small
    for editor, code, words in (
        ("sed -i s/red/green/", 0, f"configmap/{name} edited\n"),
        ("true", 0, "Edit cancelled, no changes made."),
        ("sed -i s/^data:/dada:/", 1, 'error: configmaps "edit" is invalid'),
    ):
        monkeypatch.setenv("KUBE_EDITOR", editor)
        done = cluster.run_kubectl("edit", "configmap", name)
        assert (done.returncode, words in done.stdout + done.stderr) == (code, True), done
    assert _live(cluster, name)["data"]["colour"] == "green"


def test_patches(cluster: System, small: tuple[str, str]) -> None:
    name, _ = small
    for form, patch, said in (
        ("strategic", '{"data":{"colour":"blue"}}', "patched"),
        ("strategic", '{"data":{"colour":"blue"}}', "patched (no change)"),
        ("merge", '{"data":{"size":null}}', "patched"),
        (
            "json",
            '[{"op":"test","path":"/data/colour","value":"blue"},{"op":"add","path":"/data/a","value":"b"}]',
            "patched",
        ),
    ):
        assert (
            cluster.kubectl("patch", "configmap", name, f"--type={form}", "-p", patch) == f"configmap/{name} {said}\n"
        )
    assert _live(cluster, name)["data"] == {"colour": "blue", "a": "b"}
    for form, patch, words in (
        ("json", '[{"op":"test","path":"/data/colour","value":"red"}]', "test"),
        ("json", '[{"op":"remove","path":"/data/none"}]', "nonexistent|none"),
        ("strategic", '{"data":{"colour":[1]}}', r'request is invalid: patch: Invalid value: "map\[data:map\[colour'),
        ("merge", '{"data":{"colour":{"a":1}}}', "is invalid"),
        ("merge", '{"metadata":{"resourceVersion":"1"}}', "the object has been modified"),
    ):  # fmt: skip
        done = cluster.run_kubectl("patch", "configmap", name, f"--type={form}", "-p", patch)
        assert done.returncode == 1
        assert re.search(words, done.stderr), done.stderr
    done = cluster.run_kubectl("patch", "configmap", name, "-p", '{"dada":{}}')
    assert (done.returncode, done.stderr) == (0, 'Warning: unknown field "dada"\n')
    unknown = SMALL.replace("NAME", name) + "dada: {}\n"
    assert 'strict decoding error: unknown field "dada"' in cluster.kubectl(
        "apply", "-f", "-", stdin=unknown, check=False
    )


def test_replace_needs_the_present_version(cluster: System, small: tuple[str, str]) -> None:
    name, _ = small
    present = cluster.kubectl("get", "configmap", name, "-o", "yaml").replace("red", "grey")
    assert cluster.kubectl("replace", "-f", "-", stdin=present) == f"configmap/{name} replaced\n"
    assert "Error from server (Conflict)" in cluster.kubectl("replace", "-f", "-", stdin=present, check=False)
    uid = _live(cluster, name)["metadata"]["uid"]
    bare = SMALL.replace("NAME", name)
    assert "replaced" in cluster.kubectl("replace", "--force", "-f", "-", stdin=bare)
    assert _live(cluster, name)["metadata"]["uid"] != uid


def test_labels_and_annotations(cluster: System, small: tuple[str, str]) -> None:
    name, _ = small
    for words, code, said in (
        (("label", "configmap", name, "tier=front"), 0, f"configmap/{name} labeled"),
        (("label", "configmap", name, "tier=back"), 1, "already has a value (front), and --overwrite is false"),
        (("label", "configmap", name, "tier=back", "--overwrite"), 0, "labeled"),
        (("label", "configmap", name, "tier=back", "--overwrite"), 0, "not labeled"),
        (("label", "configmaps", "-l", "tier=back", "by=selector"), 0, "labeled"),
        (("label", "configmap", name, "tier-"), 0, "unlabeled"),
        (("label", "configmap", name, "bad=a/b"), 1, "a valid label must be"),
        (("annotate", "configmap", name, "note=any thing/at: all"), 0, "annotated"),
        (("annotate", "configmap", name, "note-"), 0, "annotated"),
    ):
        done = cluster.run_kubectl(*words)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
    assert _live(cluster, name)["metadata"]["labels"] == {"set": "small", "by": "selector"}


@pytest.fixture(scope="module")
def web(cluster: System) -> System:
    cluster.kubectl("apply", "-f", str(MANIFESTS / "web.yaml"))
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    return cluster


def _settled(cluster: System) -> None:
    said = cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    assert said.endswith('deployment "web" successfully rolled out\n')


def _template(cluster: System, path: str) -> str:
    return cluster.kubectl("get", "deployment", "web", "-o", f"jsonpath={{.spec.template.spec.containers[0].{path}}}")


def test_scale_and_autoscale(web: System) -> None:
    assert web.kubectl("scale", "deployment/web", "--replicas=3") == "deployment.apps/web scaled\n"
    web.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=3", "deployment/web", "--timeout=20s")
    said = web.kubectl("scale", "deployment/web", "--replicas=1", "--current-replicas=9", check=False)
    assert "Expected replicas to be 9, was 3" in said
    web.kubectl("scale", "-f", str(MANIFESTS / "web.yaml"), "--replicas=2")
    said = web.kubectl("autoscale", "deployment", "web", "--max=4", "--cpu-percent=90")
    assert said == "horizontalpodautoscaler.autoscaling/web autoscaled\n"
    web.kubectl("delete", "hpa", "web")


def test_set_and_rollout(web: System) -> None:
    assert web.kubectl("rollout", "pause", "deployment/web") == "deployment.apps/web paused\n"
    web.kubectl("set", "image", "deployment/web", "web=python:3.12-slim")
    web.kubectl("set", "env", "deployment/web", "COLOUR=red", "SIZE=9")
    assert web.kubectl("set", "env", "deployment/web", "--list").endswith("COLOUR=red\nSIZE=9\n")
    web.kubectl("set", "resources", "deployment/web", "--limits=cpu=500m,memory=64Mi")
    assert web.kubectl("rollout", "history", "deployment/web").count("<none>") == 1
    assert "can't restart paused deployment" in web.kubectl("rollout", "restart", "deployment/web", check=False)
    assert web.kubectl("rollout", "resume", "deployment/web") == "deployment.apps/web resumed\n"
    _settled(web)
    assert (_template(web, "image"), _template(web, "resources.limits.memory")) == ("python:3.12-slim", "64Mi")
    web.kubectl("annotate", "deployment/web", "kubernetes.io/change-cause=new image")
    until(
        lambda: re.search(r"2 +new image", web.kubectl("rollout", "history", "deployment/web")), 5, "the cause is told"
    )
    assert "Image:\tpython:3.12-slim" in web.kubectl("rollout", "history", "deployment/web", "--revision=2")
    assert web.kubectl("rollout", "undo", "deployment/web") == "deployment.apps/web rolled back\n"
    _settled(web)
    assert _template(web, "image") == "python:3.11-slim"
    assert re.findall(r"^(\d+)", web.kubectl("rollout", "history", "deployment/web"), re.MULTILINE) == ["2", "3"]
    assert web.kubectl("rollout", "restart", "deployment/web") == "deployment.apps/web restarted\n"
    _settled(web)
    web.kubectl("rollout", "undo", "deployment/web", "--to-revision=2")
    _settled(web)
    assert _template(web, "image") == "python:3.12-slim"
    web.kubectl("set", "serviceaccount", "deployment/web", "default")
    web.kubectl("set", "image", "deployment/web", "*=example.com/none:1")
    late = web.run_kubectl("rollout", "status", "deployment/web", "--timeout=1s")
    assert (late.returncode, "timed out waiting" in late.stderr) == (1, True)
    web.kubectl("rollout", "undo", "deployment/web")
    _settled(web)


def test_expose_reaches_the_pods(web: System) -> None:
    assert web.kubectl("expose", "deployment/web", "--port=80", "--target-port=8080") == "service/web exposed\n"
    until(lambda: ":8080" in web.kubectl("get", "endpoints", "web"), 10, "the service has endpoints")
    web.kubectl("delete", "service", "web")


def test_orphans_live_and_foreground_waits(web: System) -> None:
    web.kubectl("delete", "deployment", "web", "--cascade=orphan")
    sets = web.kubectl("get", "replicasets", "-l", "app=web", "-o", "name").split()
    assert sets
    until(
        lambda: "ownerReferences" not in web.kubectl("get", "replicasets", "-l", "app=web", "-o", "json"), 5, "orphaned"
    )
    web.kubectl("apply", "-f", str(MANIFESTS / "web.yaml"))
    _settled(web)
    assert set(sets) <= set(web.kubectl("get", "replicasets", "-l", "app=web", "-o", "name").split())
    web.kubectl("delete", "deployment", "web", "--cascade=foreground", "--timeout=30s")
    assert web.kubectl("get", "replicasets,pods", "-l", "app=web", "-o", "name") == ""


def test_delete_by_label_file_and_all(cluster: System) -> None:
    cluster.kubectl("create", "namespace", "heap")
    many = "---".join(SMALL.replace("NAME", f"heap-{n}") for n in range(4))
    cluster.kubectl("apply", "-n", "heap", "-f", "-", stdin=many)
    said = cluster.kubectl("delete", "-n", "heap", "-f", "-", stdin=many.split("---")[0])
    assert said.startswith('configmap "heap-0" deleted')
    cluster.kubectl("label", "configmap", "heap-1", "-n", "heap", "set=other", "--overwrite")
    assert cluster.kubectl("delete", "configmaps", "-n", "heap", "-l", "set=small").count("deleted") == 2
    assert '"heap-1" deleted' in cluster.kubectl("delete", "configmaps", "--all", "-n", "heap")
    assert "No resources found" in cluster.kubectl("delete", "configmaps", "-n", "heap", "-l", "set=small")
    assert cluster.kubectl("delete", "configmap", "none", "-n", "heap", "--ignore-not-found") == ""
    cluster.kubectl("delete", "namespace", "heap", "--timeout=30s")
    assert "NotFound" in cluster.kubectl("get", "namespace", "heap", check=False)


def test_custom_kinds(cluster: System) -> None:
    cluster.kubectl("apply", "-f", str(MANIFESTS / "crontab.yaml"))
    cluster.kubectl("wait", "--for=condition=established", "crd", "--all", "--timeout=10s")
    mine = "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: mine}\nspec: {cronSpec: '* * * * *'}\n"
    assert cluster.kubectl("apply", "-f", "-", stdin=mine) == "crontab.stable.example.com/mine created\n"
    assert cluster.kubectl("apply", "-f", "-", stdin=mine) == "crontab.stable.example.com/mine unchanged\n"
    assert cluster.kubectl("scale", "crontab/mine", "--replicas=4") == "crontab.stable.example.com/mine scaled\n"
    assert cluster.kubectl("get", "ct/mine", "-o", "jsonpath={.spec.replicas}") == "4"
    said = cluster.kubectl("apply", "-f", "-", stdin=mine.replace("'* * * * *'", "often"), check=False)
    assert "spec.cronSpec: Invalid value" in said
    assert 'unknown field "spec.cron"' in cluster.kubectl(
        "apply", "-f", "-", stdin=mine.replace("cronSpec", "cron"), check=False
    )
    cluster.kubectl("patch", "ct", "mine", "--type=merge", "-p", '{"spec":{"replicas":2}}')
    cluster.kubectl("delete", "crd", "crontabs.stable.example.com", "--timeout=20s")
    assert "the server could not find the requested resource" in cluster.kubectl("get", "ct", check=False)


def test_stateful_sets_and_daemon_sets_roll(cluster: System) -> None:
    cluster.kubectl("apply", "-f", str(MANIFESTS / "sets.yaml"))
    assert "2 new pods have been updated" in cluster.kubectl("rollout", "status", "sts/st", "--timeout=30s")
    assert 'daemon set "ds" successfully rolled out' in cluster.kubectl("rollout", "status", "ds/ds", "--timeout=30s")
    for target in ("daemonset.apps/ds", "statefulset.apps/st"):
        assert "env updated" in cluster.kubectl("set", "env", target, "COLOUR=red")
        cluster.kubectl("rollout", "status", target, "--timeout=30s")
        history = cluster.kubectl("rollout", "history", target)
        assert re.findall(r"^(\d+)", history, re.MULTILINE) == ["1", "2"]
        assert cluster.kubectl("rollout", "undo", target, "--to-revision=1") == f"{target} rolled back\n"
        cluster.kubectl("rollout", "status", target, "--timeout=30s")
        found = cluster.kubectl("get", target, "-o", "jsonpath={.spec.template.spec.containers[0].env}")
        assert found == ""
    assert cluster.kubectl("get", "pods", "-l", "app=st", "-o", "name") == "pod/st-0\npod/st-1\n"
    assert "create Pod st-1 in StatefulSet st successful" in cluster.kubectl("describe", "statefulset", "st")
    assert "Number of Nodes Scheduled with Available Pods: 1" in cluster.kubectl("describe", "daemonset", "ds")
    cluster.kubectl("delete", "-f", str(MANIFESTS / "sets.yaml"), "--timeout=30s")
    # the sets are gone, their pods follow
    left = ("get", "pods", "-l", "app in (st,ds)", "-o", "name")
    until(lambda: cluster.kubectl(*left) == "", 60, "the pods of the sets are gone")
    # the claims of a StatefulSet outlive it
    assert cluster.kubectl("delete", "pvc", "d-st-0", "d-st-1", "--timeout=20s").count("deleted") == 2


def test_kustomize_reconcile_and_server_dry_run(cluster: System, tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text(SMALL.replace("NAME", "based"))
    (tmp_path / "kustomization.yaml").write_text("resources: [map.yaml]\nnamePrefix: x-\n")
    assert cluster.kubectl("apply", "-k", str(tmp_path), "--dry-run=server").endswith("created (server dry run)\n")
    assert cluster.kubectl("apply", "-k", str(tmp_path)) == "configmap/x-based created\n"
    role = (
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: made, namespace: default}\n"
        "rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]\n"
    )
    said = cluster.kubectl("auth", "reconcile", "-f", "-", stdin=role)
    assert said.startswith("role.rbac.authorization.k8s.io/made reconciled\n")
