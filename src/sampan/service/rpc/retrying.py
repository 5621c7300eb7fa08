"""What may be repeated, as gRPC's service config, which its core carries out.

A method is repeated after UNAVAILABLE, and CANCELLED by the server, when its .proto says that this does no harm:

    rpc GetUser(GetUserRequest) returns (User) { option idempotency_level = NO_SIDE_EFFECTS; }   // or IDEMPOTENT

Whatever the method, gRPC itself repeats a call that never reached a server's handler.
https://github.com/grpc/proposal/blob/master/A6-client-retries.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool

from sampan.model import Policy

_MOST_ATTEMPTS: Final = 5  # gRPC's own limit
_TOKENS: Final = 100  # failures cost one, successes bring the policy's share; below half nothing is repeated


def repeatable(method: str) -> bool:
    """Whether /package.Service/Method is declared to have no side effects, or to be idempotent."""
    service, _, name = method.lstrip("/").rpartition("/")
    try:
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
    except KeyError:
        return False
    level = found.GetOptions().idempotency_level
    return bool(level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN)


def service_config(methods: Iterable[str], policy: Policy) -> str:
    """The service config (JSON) of a channel over which `methods` are called."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    safe = [dict(zip(("service", "method"), m.lstrip("/").split("/"), strict=True)) for m in methods if repeatable(m)]
    if safe and policy.retries > 0:
        retry = {
            "maxAttempts": min(_MOST_ATTEMPTS, policy.retries + 1),
            "initialBackoff": f"{max(policy.backoff, 0.001):g}s",
            "maxBackoff": f"{max(policy.backoff_most, 0.001):g}s",
            "backoffMultiplier": 2,
            # a server that stops cancels what reaches it too late; what we cancel ourselves is not repeated
            "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
        }
        config["methodConfig"] = [{"name": safe, "retryPolicy": retry}]
        if policy.retry_budget > 0:
            config["retryThrottling"] = {"maxTokens": _TOKENS, "tokenRatio": round(policy.retry_budget, 3)}
    return json.dumps(config)
