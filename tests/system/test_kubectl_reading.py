"""An unmodified kubectl reads the cluster: get, describe, explain, discovery, access, events, usage."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.harness import System, until

MANIFESTS = Path(__file__).parent / "manifests"
PVC = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: disk}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 10Mi}}}
"""
CREATED: tuple[tuple[str, ...], ...] = (
    ("apply", "-f", str(MANIFESTS / "web.yaml"), "-f", str(MANIFESTS / "crontab.yaml")),
    ("expose", "deployment", "web", "--port=80", "--target-port=http"),
    ("create", "ingress", "web", "--rule=web.example.com/*=web:80"),
    ("autoscale", "deployment", "web", "--min=2", "--max=4", "--cpu-percent=80"),
    ("create", "configmap", "settings", "--from-literal=colour=red"),
    ("create", "secret", "generic", "token", "--from-literal=key=hidden"),
    ("create", "job", "once", "--image=busybox", "--", "sh", "-c", "echo done"),
    ("create", "cronjob", "tick", "--image=busybox", "--schedule=0 3 * * *", "--", "date"),
    ("create", "serviceaccount", "robot"),
    ("create", "role", "reader", "--verb=get,list", "--resource=pods"),
    ("create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:robot"),
    ("create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=1"),
    ("create", "service", "externalname", "far", "--external-name=example.com"),
)


@pytest.fixture(scope="module")
def world(cluster: System) -> System:
    for command in CREATED:
        cluster.kubectl(*command)
    cluster.kubectl("apply", "-f", "-", stdin=PVC)
    cluster.kubectl("rollout", "status", "deployment/web", "--timeout=30s")
    cluster.kubectl("wait", "--for=condition=complete", "job/once", "--timeout=20s")
    cluster.kubectl("wait", "--for=condition=established", "crd/crontabs.stable.example.com", "--timeout=10s")
    cron = {"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": "mine"}}
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(cron | {"spec": {"cronSpec": "* * * * */5"}}))
    until(lambda: "<unknown>" not in cluster.kubectl("get", "hpa"), 30, "the autoscaler has a figure")
    return cluster


# what is asked -> patterns that what is printed matches, in this order
READS: dict[str, tuple[str, ...]] = {
    "get deployments": (
        r"NAME +READY +UP-TO-DATE +AVAILABLE +AGE\n",
        r"web +2/2 +2 +2 +\d+s",
    ),
    "get deployment web -o wide": (
        r"AGE +CONTAINERS +IMAGES +SELECTOR\n",
        r"web +python:3.11-slim +app=web\n",
    ),
    "get pods -l app=web": (r"NAME +READY +STATUS +RESTARTS +AGE\n", r"web-\w+-\w{5} +1/1 +Running +0 +\d+s"),
    "get pods -o wide -l app=web": (
        r"AGE +IP +NODE +NOMINATED NODE +READINESS GATES",
        r"127\.\d+\.\d+\.\d+ +sampan +<none> +<none>",
    ),
    "get pods -l job-name=once": (r"once-\w{5} +0/1 +Completed +0 ",),
    "get pods -A": (r"NAMESPACE +NAME ", r"default +once-"),
    "get pods --show-labels -l app=web": (r"LABELS\n", r"app=web,pod-template-hash=\w+"),
    "get pods -L app -l app=web": (r"AGE +APP\n", r" web\n"),
    "get pods -l app!=web,job-name": (r"once-",),
    "get pods -l app=none": (r"No resources found in default namespace\.",),
    "get pods --field-selector=status.phase=Succeeded -o name": (r"^pod/once-\w{5}\n$",),
    "get pods --field-selector=spec.nodeName=sampan,metadata.namespace=default -o name": (r"pod/web-",),
    "get pods --sort-by=.metadata.name -o name": (r"pod/once-.*\n", r"pod/web-"),
    "get pods --sort-by=.status.startTime": (r"NAME ", r"web-"),
    "get pods -o jsonpath={.items[*].spec.containers[0].image} -l app=web": (r"^python:3.11-slim python:3.11-slim$",),
    "get pods -l app=web -o custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image": (
        r"^NAME +IMAGE\nweb-\S+ +python:3.11-slim\nweb-",
    ),
    "get deployment/web -o go-template={{.spec.replicas}}": (r"^2$",),
    "get deployment web --output=yaml": (
        r"^apiVersion: apps/v1\nkind: Deployment\nmetadata:\n",
        r"deployment.kubernetes.io/revision: \"1\"",
        r"progressDeadlineSeconds: 600\n",
        r"availableReplicas: 2\n",
    ),
    "get deployment web -o yaml --show-managed-fields": (
        r"managedFields:",
        r"manager: kubectl-client-side-apply\n +operation: Update",
    ),
    "get configmap settings -o json": (r"^\{\n    \"apiVersion\": \"v1\",\n    \"data\": \{\n",),
    "get deployments,services -o name": (r"deployment.apps/web\n", r"service/far\nservice/kubernetes\nservice/web\n"),
    "get all": (r"pod/web-", r"service/web", r"deployment.apps/web", r"replicaset.apps/web-", r"crontab.*/mine"),
    "get services": (
        r"NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +AGE\n",
        r"far +ExternalName +<none> +example.com +<none> ",
        r"web +ClusterIP +127\.\d+\.\d+\.\d+ +<none> +80/TCP ",
    ),
    "get ingress": (r"NAME +CLASS +HOSTS +ADDRESS +PORTS +AGE\n", r"web +<none> +web.example.com +127\.0\.0\.1 +80 "),
    "get hpa": (
        r"NAME +REFERENCE +TARGETS +MINPODS +MAXPODS +REPLICAS +AGE\n",
        r"web +Deployment/web +cpu: \d+%/80% +2 +4 +2 ",
    ),
    "get nodes": (r"NAME +STATUS +ROLES +AGE +VERSION\n", r"sampan +Ready +control-plane +\w+ +v1\.36"),
    "get pvc": (r"NAME +STATUS +VOLUME +CAPACITY +ACCESS MODES +STORAGECLASS", r"disk +Bound +pvc-\S+ +10Mi +RWO "),
    "get jobs": (r"NAME +STATUS +COMPLETIONS +DURATION +AGE\n", r"once +Complete +1/1 "),
    "get cronjobs": (
        r"NAME +SCHEDULE +TIMEZONE +SUSPEND +ACTIVE +LAST SCHEDULE +AGE\n",
        r"tick +0 3 \* \* \* +<none> +False +0 +<none> ",
    ),
    "get endpointslices -l kubernetes.io/service-name=web": (r"web-\w{5} +IPv4 +8080 +127\.\S+,127\.\S+ ",),
    "get pdb": (r"web +1 +N/A +1 ",),
    "get ct": (r"NAME +SPEC +REPLICAS +AGE\n", r"mine +\* \* \* \* \*/5 +1 "),
    "get crd": (r"NAME +CREATED AT\n", r"crontabs.stable.example.com +20\d\d-"),
    "get role,rolebinding,sa": (r"role\S+/reader +20", r"rolebinding\S+/reader +Role/reader ", r"account/robot +\d"),
    "get --raw /healthz": (r"^ok$",),
    "get --raw /apis/apps/v1/namespaces/default/deployments/web/scale": (r'"kind": ?"Scale"',),
    "describe deployment web": (
        r"Replicas: +2 desired \| 2 updated \| 2 total \| 2 available \| 0 unavailable\n",
        r"StrategyType: +RollingUpdate\n",
        r"Available +True +MinimumReplicasAvailable\n",
        r"NewReplicaSet: +web-\w+ \(2/2 replicas created\)",
        r"ScalingReplicaSet +\S+ +deployment-controller +Scaled up replica set web-\w+ from 0 to 2",
    ),
    "describe pods -l app=web": (
        r"Node: +sampan/127\.",
        r"Status: +Running\n",
        r"Controlled By: +ReplicaSet/web-",
        r"State: +Running\n +Started: ",
        r"Readiness: +http-get http://:http/ delay=0s timeout=1s period=1s #success=1 #failure=3",
        r"QoS Class: +Burstable",
        r"Events:\n",
        r"Scheduled .*\n(.*\n)*.*Pulled .*\n.*Created .*\n.*Started ",
    ),
    "describe replicaset": (r"Pods Status: +2 Running / 0 Waiting / 0 Succeeded / 0 Failed",),
    "describe service web": (r"IP Family Policy: +SingleStack", r"TargetPort: +http/TCP", r"Endpoints: +127\S+:8080,"),
    "describe ingress web": (r"Address: +127\.0\.0\.1", r"/ +web:80 \(127\.\S+:8080,127\.\S+:8080\)"),
    "describe node sampan": (
        r"Ready +True .* KubeletReady",
        r"Allocatable:\n +cpu: +\d+",
        r"Non-terminated Pods: +\(2 in total\)",
        r"cpu +20m \(",
    ),
    "describe hpa web": (
        r"Reference: +Deployment/web",
        r"resource cpu on pods +\(as a percentage of request\): +\d+% \(\d+m\) / 80%",
        r"ScalingActive +True +ValidMetricFound",
    ),
    "describe configmap settings": (r"Data\n====\ncolour:\n----\nred\n",),
    "describe secret token": (r"Type: +Opaque\n", r"key: +6 bytes"),
    "describe pvc disk": (r"Status: +Bound\n", r"Capacity: +10Mi\n", r"Access Modes: +RWO\n"),
    "describe crd crontabs.stable.example.com": (r"Kind: +CustomResourceDefinition\n", r"Type: +Established\n"),
    "describe ct mine": (r"API Version: +stable.example.com/v1\n", r"Cron Spec: +\* \* \* \* \*/5\n"),
    "describe job once": (r"Pods Statuses: +0 Active \(0 Ready\) / 1 Succeeded / 0 Failed\n", r"controller +Job comp"),
    "describe cronjob tick": (r"Schedule: +0 3 \* \* \*\n", r"Concurrency Policy: +Allow\n"),
    "describe role reader": (r"pods +\[\] +\[\] +\[get list\]",),
    "describe rolebinding reader": (r"ServiceAccount +robot +default",),
    "describe serviceaccount robot": (r"Name: +robot\n",),
    "describe namespace default": (r"Status: +Active\n", r"No resource quota\.", r"No LimitRange resource\."),
    "describe pdb web": (r"Min available: +1\n", r"Allowed disruptions: +1\n"),
    "describe endpointslice": (r"Conditions:\n +Ready: +true\n", r"TargetRef: +Pod/web-"),
    "events": (r"LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n", r"ScalingReplicaSet +Deployment/web "),
    "events --for=job/once": (r"SuccessfulCreate +Job/once +Created pod: once-", r"Completed +Job/once +Job completed"),
    "events --types=Normal --for=pod/nothere": (r"No events found",),
    "get events --field-selector=reason=Completed,involvedObject.name=once": (r"Normal +Completed +job/once ",),
    "top pods -l app=web": (r"NAME +CPU\(cores\) +MEMORY\(bytes\) *\n", r"web-\S+ +\d+m +\d+Mi"),
    "top pods --containers -l app=web": (r"POD +NAME +CPU", r"web-\S+ +web +\d+m +\d+Mi"),
    "top nodes": (r"NAME +CPU\(cores\) +CPU", r"sampan +\d+m +\d+% +\d+Mi +\d+%"),
    "explain pod.spec.containers.resources": (
        r"KIND: +Pod\nVERSION: +v1\n",
        r"FIELD: resources <ResourceRequirements>",
        r"FIELDS:\n",
        r"limits\t<map\[string\]Quantity>\n    Limits describes the maximum",
    ),
    "explain deployment --recursive": (r"GROUP: +apps\nKIND: +Deployment", r"\n  spec\t", r" template\t.*-required-"),
    "explain deployment.spec.strategy.type": (r"ENUM:|Can be \"Recreate\" or \"RollingUpdate\"",),
    "explain crontab": (r"GROUP: +stable.example.com\nKIND: +CronTab\nVERSION: +v1\n", r"A command run by the clock."),
    "explain crontab.spec": (r"cronSpec\t<string> -required-\n    When to run\.", r"replicas\t<integer>"),
    "explain hpa --api-version=autoscaling/v1": (r"VERSION: +v1\n",),
    "api-resources": (
        r"NAME +SHORTNAMES +APIVERSION +NAMESPACED +KIND\n",
        r"pods +po +v1 +true +Pod\n",
        r"deployments +deploy +apps/v1 +true +Deployment\n",
        r"crontabs +ct +stable.example.com/v1 +true +CronTab\n",
    ),
    "api-resources --namespaced=false --api-group=rbac.authorization.k8s.io -o name": (
        r"^clusterrolebindings.rbac.authorization.k8s.io\nclusterroles.rbac.authorization.k8s.io\n$",
    ),
    "api-resources --categories=all -o name": (r"crontabs.stable.example.com",),
    "api-resources --verbs=list,watch -o wide": (r"VERBS +CATEGORIES\n", r"create,delete,deletecollection,get,list"),
    "api-versions": (r"apps/v1\n", r"autoscaling/v2\n", r"stable.example.com/v1\n", r"\nv1\n$"),
    "auth can-i create deployments": (r"^yes\n$",),
    "auth can-i list pods --as=system:serviceaccount:default:robot": (r"^yes\n$",),
    "auth can-i --list --as=system:serviceaccount:default:robot": (r"pods +\[\] +\[\] +\[get list\]",),
    "auth whoami": (r"ATTRIBUTE +VALUE\n", r"Username +sampan-admin\n", r"Groups +\[system:masters system:authent"),
    "cluster-info": (r"Kubernetes control plane.* is running at .*https://127\.0\.0\.1:\d+",),
    "version": (r"Server Version: v1\.36",),
    "config view --minify": (r"current-context: sampan\n", r"DATA\+OMITTED"),
}  # fmt: skip


@pytest.mark.parametrize("command", READS)
def test_reads(world: System, command: str) -> None:
    done = world.run_kubectl(*_words(command))
    said = done.stdout if done.returncode or done.stdout else done.stderr
    assert done.returncode == 0, done.stderr
    position = 0
    for pattern in READS[command]:
        found = re.compile(pattern, re.MULTILINE if not pattern.startswith("^") else 0).search(said, position)
        assert found, f"{pattern!r} is not in\n{said}"
        position = found.end()


def _words(command: str) -> list[str]:
    """Split at spaces, except those inside a selector or template, which have none here."""
    return command.split(" ")


# what is asked -> exit code and the words of the refusal
REFUSALS: dict[str, tuple[int, str]] = {
    "get pod nothere": (1, 'Error from server (NotFound): pods "nothere" not found'),
    "get nothing": (1, 'error: the server doesn\'t have a resource type "nothing"'),
    "get pods -l a=b=c": (1, "found '=', expected: ',' or 'end of string'"),
    "get pods --field-selector=spec.colour=red": (1, "field label not supported: spec.colour"),
    "get deployments web nothere": (1, 'deployments.apps "nothere" not found'),
    "describe pod nothere": (1, 'Error from server (NotFound): pods "nothere" not found'),
    "explain pod.spec.nothing": (1, 'field "nothing" does not exist'),
    "logs nothere": (1, 'pods "nothere" not found'),
    "logs deploy/web -c nothere": (1, "container nothere is not valid for pod web-"),
    "exec nothere -- true": (1, 'pods "nothere" not found'),
    "auth can-i delete pods --as=system:serviceaccount:default:robot": (1, "no"),
    "get secrets --as=bob": (1, 'secrets is forbidden: User "bob" cannot list resource "secrets" in API group ""'),
    "get pods -n nothere --as=bob": (1, 'in the namespace "nothere"'),
    "delete configmap nothere": (1, 'configmaps "nothere" not found'),
    "label pod nothere a=b": (1, 'pods "nothere" not found'),
    "rollout undo deployment/web --to-revision=9": (1, "unable to find specified revision 9 in history"),
    "top pod nothere": (1, '.metrics.k8s.io "nothere" not found'),
}  # fmt: skip


@pytest.mark.parametrize("command", REFUSALS)
def test_refusals(world: System, command: str) -> None:
    code, words = REFUSALS[command]
    done = world.run_kubectl(*_words(command))
    assert words in done.stdout + done.stderr
    assert done.returncode == code


def test_an_empty_namespace_is_said_to_be_empty(world: System) -> None:
    done = world.run_kubectl("get", "pods", "-n", "kube-public")
    assert (done.returncode, done.stdout) == (0, "")
    assert "No resources found in kube-public namespace." in done.stderr


def _watching(world: System, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [world.program, *arguments], env=world.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("form", [(), ("-o", "name"), ("--output-watch-events",)])
def test_watch_follows_changes(world: System, form: tuple[str, ...]) -> None:
    name = f"watched{len(form)}"
    world.kubectl("create", "configmap", name)
    watch = _watching(world, "get", "configmap", name, "--watch", *form)
    try:
        assert watch.stdout is not None
        lines: list[str] = [watch.stdout.readline()]
        world.kubectl("patch", "configmap", name, "-p", '{"data":{"a":"b","c":"d"}}')
        world.kubectl("delete", "configmap", name)
        want = {
            0: r"NAME +DATA +AGE\n\S+ +0 .*\n\S+ +2 ",
            1: r"name\n",
            2: r"ADDED .*\n(.*\n)*MODIFIED .*\n(.*\n)*DELETED ",
        }
        pattern = rf"(configmap/{name}\n){{2}}" if len(form) == 2 else want[0 if not form else 2]
        while not re.search(pattern, "".join(lines)):
            line = watch.stdout.readline()
            assert line, f"the watch ended after {lines}"
            lines.append(line)
    finally:
        watch.kill()
        watch.communicate(timeout=10)


def test_large_lists_come_in_pages(world: System) -> None:
    maps: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"page-{n:02}", "labels": {"set": "page"}}}
        for n in range(12)
    ]
    world.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": maps}))
    said = world.kubectl("get", "configmaps", "-l", "set=page", "--chunk-size=5", "-o", "name")
    assert said.split() == [f"configmap/page-{n:02}" for n in range(12)]
    world.kubectl("delete", "configmaps", "-l", "set=page")
    assert world.kubectl("get", "configmaps", "-l", "set=page", "-o", "name") == ""
