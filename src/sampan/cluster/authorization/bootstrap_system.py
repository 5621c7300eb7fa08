"""Roles that others bind for parts of a cluster they bring: nodes, schedulers, provisioners, monitors of nodes.

Rules as in `bootstrap.py`; a fourth column names the objects. Upstream's roles for its own controllers are not here:
no such identities exist in this cluster.
"""

SYSTEM = {
    "system:node": """
create | authentication.k8s.io | tokenreviews
create | authorization.k8s.io | localsubjectaccessreviews subjectaccessreviews
get list watch | core | services
create get list watch | core | nodes
patch update | core | nodes/status
patch update | core | nodes
create patch update | core events.k8s.io | events
get list watch | core | pods
create delete | core | pods
patch update | core | pods/status
create | core | pods/eviction
get list watch | core | configmaps secrets
get | core | persistentvolumeclaims persistentvolumes
get | core | endpoints
create get list watch | certificates.k8s.io | certificatesigningrequests
create delete get patch update | coordination.k8s.io | leases
get | storage.k8s.io | volumeattachments
create | core | serviceaccounts/token
get patch update | core | persistentvolumeclaims/status
get list watch | storage.k8s.io | csidrivers
create delete get patch update | storage.k8s.io | csinodes
get list watch | node.k8s.io | runtimeclasses
get | resource.k8s.io | resourceclaims
deletecollection | resource.k8s.io | resourceslices
get | core | serviceaccounts
""",
    "system:node-proxier": """
list watch | core | endpoints services
get list watch | core | nodes
create patch update | core events.k8s.io | events
list watch | networking.k8s.io | servicecidrs
list watch | discovery.k8s.io | endpointslices
""",
    "system:kube-scheduler": """
create patch update | core events.k8s.io | events
create | coordination.k8s.io | leases
get list update watch | coordination.k8s.io | leases | kube-scheduler
create delete deletecollection get list patch update watch | coordination.k8s.io | leasecandidates
get list watch | core | nodes
delete get list watch | core | pods
create | core | bindings pods/binding
patch update | core | pods/status
get list watch | core | replicationcontrollers services
get list watch | apps extensions | replicasets
get list watch | apps | statefulsets
get list watch | policy | poddisruptionbudgets
get list watch | core | persistentvolumeclaims persistentvolumes
create | authentication.k8s.io | tokenreviews
create | authorization.k8s.io | subjectaccessreviews
get list watch | storage.k8s.io | csinodes
get list watch | storage.k8s.io | volumeattachments
get list watch | core | namespaces
get list watch | storage.k8s.io | csidrivers
get list watch | storage.k8s.io | csistoragecapacities
get list watch | resource.k8s.io | deviceclasses
get list patch update watch | resource.k8s.io | resourceclaims
get list patch update watch | resource.k8s.io | resourceclaims/status
update | core | pods/finalizers
get list watch | resource.k8s.io | resourceslices
create delete | resource.k8s.io | resourceclaims
patch update | resource.k8s.io | resourceclaims/binding
""",
    "system:volume-scheduler": """
get list patch update watch | core | persistentvolumes
get list watch | storage.k8s.io | storageclasses
get list patch update watch | core | persistentvolumeclaims
""",
    "system:persistent-volume-provisioner": """
create delete get list watch | core | persistentvolumes
get list update watch | core | persistentvolumeclaims
get list watch | storage.k8s.io | storageclasses
watch | core | events
create patch update | core events.k8s.io | events
""",
    "system:kubelet-api-admin": """
get list watch | core | nodes
proxy | core | nodes
* | core | nodes/log nodes/metrics nodes/proxy nodes/stats
* | core | nodes/configz nodes/healthz nodes/pods
""",
    "system:kube-dns": """
list watch | core | endpoints services
""",
    "system:node-problem-detector": """
get | core | nodes
patch | core | nodes/status
create patch update | core events.k8s.io | events
""",
}
