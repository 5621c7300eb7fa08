"""Networks of pods: each pod a namespace and an address of its own, behind one router namespace of the cluster.

netlink.py   messages to the kernel: links, addresses, routes
nftables.py  rule sets, as batches of such messages
router.py    the process that holds the cluster's namespaces and makes those of pods
policy.py    NetworkPolicies -> who may reach whom; pure
rules.py     that -> a rule set; pure
gateway.py   what leaves the cluster: TCP and DNS through sockets of this machine
frontend.py  listeners of Envoy that lie on this machine, though Envoy runs beside the router
pods.py      what kubelet, proxy and API server use of all this

Nothing of it touches the machine's own network: it is gone with the last process of the cluster.
"""
