"""Streams between clients and pods: `serve_upgrade` answers exec, attach and port-forward requests.

Speaks WebSocket (`v5.channel.k8s.io`, `v4.channel.k8s.io`, `SPDY/3.1+portforward.k8s.io`) and SPDY/3.1; knows nothing
of processes, which are behind `cluster.runtime.NodeRuntime`.
"""

from sampan.cluster.streaming.upgrade import serve_upgrade

__all__ = ["serve_upgrade"]
