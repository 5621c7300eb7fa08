"""Acting as somebody else (`kubectl --as`): the headers `Impersonate-*`, each of which RBAC must allow.

Leave is the verb `impersonate`. Leave for single requests (`impersonate-on:...`, KEP 5284) is not served.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from urllib.parse import unquote

import msgspec

from sampan.cluster.apiserver.access.authentication import (
    ANONYMOUS,
    AUTHENTICATED,
    UNAUTHENTICATED,
    service_account_user,
)
from sampan.cluster.apiserver.access.authorization import Attributes, Authorizer
from sampan.cluster.apiserver.strategy import User
from sampan.cluster.authorization.rbac import refusal
from sampan.kube.errors import bad_request

GROUP = "authentication.k8s.io"
EXTRA = "impersonate-extra-"


def acting_as(
    user: User, headers: Mapping[str, str], authorizer: Authorizer, request: Callable[[], Attributes]
) -> User:
    """Who the user asks to act as; themselves when they do not. Raises ApiError 403, 400 without a user."""
    name, uid = headers.get("impersonate-user", ""), headers.get("impersonate-uid", "")
    groups = _values(headers.get("impersonate-group", ""))
    extra = {unquote(key[len(EXTRA) :]): _values(value) for key, value in headers.items() if key.startswith(EXTRA)}
    if not (name or uid or groups or extra):
        return user
    if not name:
        raise bad_request(f"requested {_go(uid, groups, extra)} without impersonating a user name")
    asked: list[Attributes] = []
    account = name.split(":")[2:] if name.startswith("system:serviceaccount:") and name.count(":") == 3 else []
    if account:
        asked.append(Attributes("impersonate", "", "serviceaccounts", "", account[0], account[1]))
    else:
        asked.append(Attributes("impersonate", "", "users", name=name))
    asked += [Attributes("impersonate", "", "groups", name=group) for group in groups]
    asked += [Attributes("impersonate", GROUP, "userextras", key, name=value) for key in extra for value in extra[key]]
    if uid:
        asked.append(Attributes("impersonate", GROUP, "uids", name=uid))
    for what in asked:
        if authorizer.allowed(user, what) is None:
            # Upstream asks first for leave to act as somebody in this one request, and tells of that.
            mode = "serviceaccount" if account else "user-info"
            wanted = request()
            raise refusal(user, msgspec.structs.replace(wanted, verb=f"impersonate-on:{mode}:{wanted.verb}"))
    if account and not groups:
        groups = list(service_account_user(*account).groups)
    mark = UNAUTHENTICATED if name == ANONYMOUS.name else AUTHENTICATED
    if not {AUTHENTICATED, UNAUTHENTICATED} & set(groups):
        groups.append(mark)
    return User(name, tuple(groups), uid, extra)


def _go(uid: str, groups: list[str], extra: Mapping[str, list[str]]) -> str:
    """What was asked for as Go shows it."""

    def listed(values: list[str]) -> str:
        return f"[]string{{{', '.join(json.dumps(one) for one in values)}}}" if values else "[]string(nil)"

    shown = ", ".join(f"{json.dumps(key)}:{listed(values)}" for key, values in sorted(extra.items()))
    more = f"map[string][]string{{{shown}}}" if extra else "map[string][]string(nil)"
    return f'&user.DefaultInfo{{Name:"", UID:{json.dumps(uid)}, Groups:{listed(groups)}, Extra:{more}}}'


def _values(text: str) -> list[str]:
    return [part for part in (piece.strip() for piece in text.split(",")) if part]
