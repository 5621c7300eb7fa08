"""Builders of Envoy resources (xDS v3, JSON shape). Pure data: no file, no process, no Kubernetes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

Resource = dict[str, Any]

_TYPE = "type.googleapis.com/envoy"
CLUSTER = f"{_TYPE}.config.cluster.v3.Cluster"
LISTENER = f"{_TYPE}.config.listener.v3.Listener"
ROUTES = f"{_TYPE}.config.route.v3.RouteConfiguration"
ENDPOINTS = f"{_TYPE}.config.endpoint.v3.ClusterLoadAssignment"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

IDLE = "3600s"
# Below the keep-alive of the usual servers (uvicorn and Node 5 s, gunicorn 2 s), so that a connection the server is
# about to close is not the one the next request takes.
UPSTREAM_IDLE = "1.5s"
# Requests that may be sent twice (RFC 9110, 9.2.2); the rest are repeated only when the first never left the proxy.
IDEMPOTENT = "GET|HEAD|OPTIONS|TRACE|PUT|DELETE"
NEVER_SENT = "connect-failure,refused-stream,reset-before-request"


class Address(Struct, frozen=True, order=True):
    host: str
    port: int


_UPSTREAM_TLS = f"{_TYPE}.extensions.transport_sockets.tls.v3.UpstreamTlsContext"


def address(at: Address) -> Resource:
    return {"socket_address": {"address": at.host, "port_value": at.port}}


def file_source(path: str) -> Resource:
    """A configuration source: one file, read again when it is renamed into place."""
    directory = path.rpartition("/")[0]
    return {
        "resource_api_version": "V3",
        "path_config_source": {"path": path, "watched_directory": {"path": directory}},
    }


OVER_TLS = "+tls"
"""Behind the name of a cluster: the same endpoints, to which Envoy speaks TLS."""


def cluster(
    name: str, endpoints_file: str, *, http2: bool = False, affinity: bool = False, tls: bool = False
) -> Resource:
    """A cluster whose endpoints come from a file of their own. With `tls` they are spoken to by TLS; their certificates
    are not verified, as ingress-nginx does not."""
    wire: Resource = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    limits = {"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 1000}
    return {
        "@type": CLUSTER,
        "name": name + (OVER_TLS if tls else ""),
        "type": "EDS",
        "connect_timeout": "1s",
        "lb_policy": "RING_HASH" if affinity else "LEAST_REQUEST",
        "eds_cluster_config": {"eds_config": file_source(endpoints_file), "service_name": name},
        **({"transport_socket": {"name": "tls", "typed_config": {"@type": _UPSTREAM_TLS}}} if tls else {}),
        "circuit_breakers": {"thresholds": [limits]},
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "common_http_protocol_options": {"idle_timeout": UPSTREAM_IDLE},
                "explicit_http_config": wire,
            }
        },
    }


def endpoints(name: str, addresses: Iterable[Address]) -> Resource:
    hosts = [{"endpoint": {"address": address(at)}} for at in addresses]
    return {"@type": ENDPOINTS, "cluster_name": name, "endpoints": [{"lb_endpoints": hosts}] if hosts else []}


def action(cluster_name: str, *, idempotent: bool, affinity: bool = False, rewrite: Resource | None = None) -> Resource:
    """A route action: no time-out (streams, server-sent events), retried on another host where that is harmless."""
    retry = {
        "retry_on": NEVER_SENT + (",reset" if idempotent else ""),
        "num_retries": 6,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{_TYPE}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.1s"},
    }
    return {
        "cluster": cluster_name,
        "timeout": "0s",
        "idle_timeout": IDLE,
        "retry_policy": retry,
        **({"hash_policy": [{"connection_properties": {"source_ip": True}}]} if affinity else {}),
        **(rewrite or {}),
    }


def routes(
    match: Resource, cluster_name: str, *, affinity: bool = False, rewrite: Resource | None = None
) -> list[Resource]:
    """Two routes of one match: requests that may be repeated, then all others."""
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": IDEMPOTENT}}}
    headers = [*match.get("headers", ()), method]
    return [
        {
            "match": {**match, "headers": headers},
            "route": action(cluster_name, idempotent=True, affinity=affinity, rewrite=rewrite),
        },
        {"match": match, "route": action(cluster_name, idempotent=False, affinity=affinity, rewrite=rewrite)},
    ]


def http_filter(stat: str, *, edge: bool, route_config: Resource | None = None, rds: str = "") -> Resource:
    """An HTTP connection manager. `edge` adds forwarding headers; else the request passes as it came."""
    source: Resource = (
        {"route_config": route_config}
        if route_config
        else {"rds": {"route_config_name": stat, "config_source": file_source(rds)}}
    )
    return {
        "name": "http",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": stat,
            **source,
            "use_remote_address": edge,
            "skip_xff_append": not edge,
            "generate_request_id": False,
            "server_header_transformation": "PASS_THROUGH",
            "stream_idle_timeout": IDLE,
            "request_headers_timeout": "60s",
            "common_http_protocol_options": {"idle_timeout": IDLE},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.filters.http.router.v3.Router",
                        "suppress_envoy_headers": True,
                    },
                }
            ],
        },
    }


def tcp_filter(stat: str, cluster_name: str, *, affinity: bool = False) -> Resource:
    return {
        "name": "tcp",
        "typed_config": {
            "@type": f"{_TYPE}.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": stat,
            "cluster": cluster_name,
            "max_connect_attempts": 6,
            "idle_timeout": "0s",  # a database session may sleep; kube-proxy would not cut it either
            **({"hash_policy": [{"source_ip": {}}]} if affinity else {}),
        },
    }


def tls_chain(hosts: Sequence[str], certificate: str, key: str, network_filter: Resource) -> Resource:
    """A filter chain chosen by server name. Certificate and key are PEM text."""
    context = {
        "@type": f"{_TYPE}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [
                {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}
            ],
        },
    }
    return {
        **({"filter_chain_match": {"server_names": list(hosts)}} if hosts else {}),
        "transport_socket": {"name": "tls", "typed_config": context},
        "filters": [network_filter],
    }


def listener(name: str, at: Address, chains: Sequence[Resource], *, tls: bool = False) -> Resource:
    inspector = {
        "name": "tls_inspector",
        "typed_config": {"@type": f"{_TYPE}.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
    }
    return {
        "@type": LISTENER,
        "name": name,
        "address": address(at),
        "enable_reuse_port": False,  # two programs on one port must be an error, not a lottery
        "filter_chains": list(chains),
        **({"listener_filters": [inspector]} if tls else {}),
    }


def bootstrap(*, listeners: str, clusters: str, admin: str) -> Resource:
    """The static part: where the rest is read from. `admin` is the path of a Unix socket."""
    return {
        "node": {"id": "sampan", "cluster": "sampan"},
        "admin": {"address": {"pipe": {"path": admin, "mode": 0o600}}},
        "dynamic_resources": {"lds_config": file_source(listeners), "cds_config": file_source(clusters)},
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPE}.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": 50_000,
                    },
                }
            ]
        },
    }


def discovery(kind: str, version: str, resources: Iterable[Resource]) -> Resource:
    """The content of one file: a DiscoveryResponse."""
    return {"version_info": version, "type_url": kind, "resources": list(resources)}
