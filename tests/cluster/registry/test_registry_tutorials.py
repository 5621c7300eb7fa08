"""The manifests that tutorials teach with pass as they are, and come out with upstream's defaults."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: users, labels: {app: users}}
spec:
  replicas: 3
  selector: {matchLabels: {app: users}}
  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  template:
    metadata:
      labels: {app: users}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}
    spec:
      containers:
      - name: users
        image: example.com/users:v1.0.0
        ports: [{containerPort: 8080}]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: users, key: password}}}
        envFrom: [{configMapRef: {name: users}}]
        resources:
          requests: {cpu: 100m, memory: 128Mi}
          limits: {cpu: 500m, memory: 512Mi}
        livenessProbe: {httpGet: {path: /health, port: 8080}, initialDelaySeconds: 30}
        readinessProbe: {httpGet: {path: /ready, port: http}}
        volumeMounts: [{name: config, mountPath: /etc/config}]
      volumes:
      - {name: config, configMap: {name: users}}
---
apiVersion: v1
kind: Service
metadata: {name: users}
spec:
  selector: {app: users}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: users}
data: {LOG_LEVEL: info, app.properties: "a=b\\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: users}
stringData: {password: hunter2}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: shop
  annotations: {nginx.ingress.kubernetes.io/rewrite-target: /$2}
spec:
  ingressClassName: nginx
  tls: [{hosts: [shop.example.com], secretName: shop-tls}]
  rules:
  - host: shop.example.com
    http:
      paths:
      - {path: /api/users, pathType: Prefix, backend: {service: {name: users, port: {number: 80}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: users}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: users}
  minReplicas: 3
  maxReplicas: 10
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}
  - {type: Pods, pods: {metric: {name: rps}, target: {type: AverageValue, averageValue: 1k}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: users}
spec:
  podSelector: {matchLabels: {app: users}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {project: shop}}
    - podSelector: {matchLabels: {app: gateway}}
    ports: [{protocol: TCP, port: 8080}]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{port: 5978, endPort: 6000}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: db, image: "mysql:8.0", volumeMounts: [{name: data, mountPath: /var/lib/mysql}]}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
      containers: [{name: agent, image: fluentd}]
      volumes: [{name: varlog, hostPath: {path: /var/log}}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: hello}
spec:
  schedule: "*/5 * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{name: hello, image: "busybox:1.28", command: [date]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec:
  backoffLimit: 4
  template:
    spec:
      restartPolicy: Never
      containers: [{name: pi, image: "perl:5.34.0", command: [perl]}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: users}
spec: {minAvailable: 2, selector: {matchLabels: {app: users}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: pod-reader}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, watch, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read-pods}
subjects: [{kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}]
roleRef: {kind: Role, name: pod-reader, apiGroup: rbac.authorization.k8s.io}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: databases.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: databases, kind: Database}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object}}}}
    additionalPrinterColumns: [{name: Replicas, type: integer, jsonPath: .spec.replicas}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
"""


@pytest.mark.parametrize(
    "manifest", list(yaml.safe_load_all(MANIFESTS)), ids=lambda m: f"{m['kind']}-{m['metadata']['name']}"
)
def test_tutorial_manifest_is_accepted(registry: Any, manifest: dict[str, Any]) -> None:
    registry.create(manifest)


def find(kind: str) -> dict[str, Any]:
    return next(m for m in yaml.safe_load_all(MANIFESTS) if m["kind"] == kind)


def test_deployment_defaults(registry: Any) -> None:
    spec = registry.create(find("Deployment"))["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert (spec["revisionHistoryLimit"], spec["progressDeadlineSeconds"]) == (10, 600)
    pod = spec["template"]["spec"]
    assert {k: pod[k] for k in pod if k not in ("containers", "volumes")} == {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "securityContext": {},
        "schedulerName": "default-scheduler",
    }
    assert pod["volumes"] == [{"name": "config", "configMap": {"name": "users", "defaultMode": 420}}]
    container = pod["containers"][0]
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["ports"] == [{"containerPort": 8080, "protocol": "TCP"}]
    assert container["env"][0]["valueFrom"]["fieldRef"] == {"apiVersion": "v1", "fieldPath": "metadata.name"}
    assert container["livenessProbe"] == {
        "httpGet": {"path": "/health", "port": 8080, "scheme": "HTTP"},
        "initialDelaySeconds": 30,
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert container["terminationMessagePath"] == "/dev/termination-log"


def test_service_gets_an_address_in_the_range(registry: Any) -> None:
    spec = registry.create(find("Service"))["spec"]
    address = spec.pop("clusterIP")
    assert address.startswith("127.70.")
    assert spec == {
        "type": "ClusterIP",
        "clusterIPs": [address],
        "selector": {"app": "users"},
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
    }


def test_secret_string_data_becomes_data(registry: Any) -> None:
    secret = registry.create(find("Secret"))
    assert secret["data"] == {"password": "aHVudGVyMg=="}
    assert secret["type"] == "Opaque"
    assert "stringData" not in secret


def test_job_selects_its_own_pods(registry: Any) -> None:
    job = registry.create(find("Job"))
    uid = job["metadata"]["uid"]
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    assert job["spec"]["template"]["metadata"]["labels"] == {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "pi",
        "controller-uid": uid,
        "job-name": "pi",
    }
    spec = job["spec"]
    assert (spec["completions"], spec["parallelism"], spec["backoffLimit"], spec["suspend"]) == (1, 1, 4, False)
    again, causes = registry.try_update(job, lambda new: new["spec"].update(suspend=True))
    assert causes == []
    assert again["spec"]["template"] == spec["template"]


def test_pod_is_pending_with_its_quality_of_service(registry: Any) -> None:
    container = {"name": "a", "image": "nginx", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}
    pod = registry.create(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
    )
    assert pod["status"] == {"phase": "Pending", "qosClass": "Guaranteed"}
    assert pod["spec"]["containers"][0]["imagePullPolicy"] == "Always"
    assert pod["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert pod["spec"]["enableServiceLinks"] is True


def test_network_policy_types_follow_from_the_rules(registry: Any) -> None:
    manifest = find("NetworkPolicy")
    del manifest["spec"]["policyTypes"]
    assert registry.create(manifest)["spec"]["policyTypes"] == ["Ingress", "Egress"]
