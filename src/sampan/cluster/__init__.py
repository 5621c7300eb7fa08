"""The embedded cluster: a Kubernetes API server, its controllers, a kubelet that runs pods as processes, and Envoy.

Runs plain manifests, anybody's; knows nothing of `sampan.model`.
"""
