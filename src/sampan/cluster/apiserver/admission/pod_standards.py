"""The Pod Security Standards as rows: what a check looks at, which level it belongs to, since which version it holds.

Each check is a pure function of a pod's metadata and spec that gives (reason, detail), or nothing when it is content.
Versions are minor numbers of Kubernetes; the rows of one check follow each other, the newest that fits counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from sampan.cluster.apiserver.registry.faults import maps, sub
from sampan.kube.objects import Object

Finding = tuple[str, str]
Look = Callable[[Object, Object], "Finding | None"]
LATEST = 10**6


def _containers(spec: Object) -> list[Object]:
    return [one for group in ("initContainers", "containers", "ephemeralContainers") for one in maps(spec.get(group))]


def _quoted(items: Iterable[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def _many(word: str, items: Iterable[Any], plural: str = "") -> str:
    return word if len(list(items)) == 1 else plural or f"{word}s"


def _named(names: list[str]) -> str:
    return f"{_many('container', names)} {_quoted(names)}"


def _context(container: Object) -> Object:
    return sub(container, "securityContext")


def _by(setter: bool, names: list[str]) -> str:
    return " and ".join(filter(None, ("pod" if setter else "", _named(names) if names else "")))


def _windows(spec: Object) -> bool:
    return sub(spec, "os").get("name") == "windows"


def _not_on_windows(look: Look, metadata: Object, spec: Object) -> Finding | None:
    return None if _windows(spec) else look(metadata, spec)


def _not_with_users(look: Look, metadata: Object, spec: Object) -> Finding | None:
    """Pods in a user namespace may be root there."""
    return None if spec.get("hostUsers") is False else look(metadata, spec)


# -- baseline


def _app_armor(metadata: Object, spec: Object) -> Finding | None:
    allowed, prefix = ("RuntimeDefault", "Localhost"), "container.apparmor.security.beta.kubernetes.io/"
    bad: set[str] = set()
    types = [(None, sub(spec, "securityContext", "appArmorProfile"))]
    types += [(c.get("name"), sub(c, "securityContext", "appArmorProfile")) for c in _containers(spec)]
    setters: list[str | None] = []
    for name, profile in types:
        if profile and profile.get("type") not in allowed:
            bad.add(str(profile.get("type") or ""))
            setters.append(name)
    annotations = sorted(
        f"{key}={json.dumps(value)}"
        for key, value in (metadata.get("annotations") or {}).items()
        if key.startswith(prefix) and value and value != "runtime/default" and not value.startswith("localhost/")
    )
    if not setters and not annotations:
        return None
    who = [_by(None in setters, [name for name in setters if name])] if setters else []
    who += [_many("annotation", annotations)] if annotations else []
    values = [*sorted(bad), *annotations]
    reason = _many("forbidden AppArmor profile", values)
    return reason, f"{' and '.join(who)} must not set AppArmor profile type to {_quoted(values)}"


DEFAULT_CAPABILITIES = frozenset((
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
))  # fmt: skip


def _added(spec: Object, allowed: frozenset[str]) -> tuple[list[str], set[str]]:
    """(containers, capabilities) that add what is not allowed."""
    who, what = [], set()
    for container in _containers(spec):
        more = set(sub(container, "securityContext", "capabilities").get("add") or ()) - allowed
        if more:
            who.append(container["name"])
            what |= more
    return who, what


def _capabilities(metadata: Object, spec: Object) -> Finding | None:
    who, what = _added(spec, DEFAULT_CAPABILITIES)
    if not who:
        return None
    detail = f"{_named(who)} must not include {_quoted(sorted(what))} in securityContext.capabilities.add"
    return "non-default capabilities", detail


def _host_namespaces(metadata: Object, spec: Object) -> Finding | None:
    shared = [f"{key}=true" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    return ("host namespaces", ", ".join(shared)) if shared else None


def _host_paths(metadata: Object, spec: Object) -> Finding | None:
    names = [one.get("name", "") for one in maps(spec.get("volumes")) if one.get("hostPath") is not None]
    return ("hostPath volumes", f"{_many('volume', names)} {_quoted(names)}") if names else None


def _host_ports(metadata: Object, spec: Object) -> Finding | None:
    who, ports = [], set()
    for container in _containers(spec):
        own = {str(port["hostPort"]) for port in maps(container.get("ports")) if port.get("hostPort")}
        if own:
            who.append(container["name"])
            ports |= own
    if not who:
        return None
    return (
        "hostPort",
        f"{_named(who)} {_many('uses', who, 'use')} {_many('hostPort', ports)} {', '.join(sorted(ports))}",
    )


def _probe_hosts(metadata: Object, spec: Object) -> Finding | None:
    who: set[str] = set()
    hosts: set[str] = set()
    for container in _containers(spec):
        handlers = [sub(container, probe) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
        handlers += [sub(container, "lifecycle", hook) for hook in ("postStart", "preStop")]
        own = {str(sub(one, how).get("host") or "") for one in handlers for how in ("httpGet", "tcpSocket")} - {""}
        if own:
            who.add(container["name"])
            hosts |= own
    if not who:
        return None
    word = _many("probe or lifecycle host", hosts)
    return (
        "probe or lifecycle host",
        f"{_named(sorted(who))} {_many('uses', who, 'use')} {word} {_quoted(sorted(hosts))}",
    )


def _privileged(metadata: Object, spec: Object) -> Finding | None:
    who = [c["name"] for c in _containers(spec) if _context(c).get("privileged")]
    return ("privileged", f"{_named(who)} must not set securityContext.privileged=true") if who else None


def _proc_mount(metadata: Object, spec: Object) -> Finding | None:
    bad = {c["name"]: _context(c)["procMount"] for c in _containers(spec) if _context(c).get("procMount")}
    bad = {name: kind for name, kind in bad.items() if kind != "Default"}
    if not bad:
        return None
    kinds = _quoted(sorted(set(bad.values())))
    return "procMount", f"{_named(list(bad))} must not set securityContext.procMount to {kinds}"


SELINUX_TYPES = frozenset(("", "container_t", "container_init_t", "container_kvm_t"))


def _selinux(allowed: frozenset[str], metadata: Object, spec: Object) -> Finding | None:
    rows = [(None, sub(spec, "securityContext", "seLinuxOptions"))]
    rows += [(c["name"], sub(c, "securityContext", "seLinuxOptions")) for c in _containers(spec)]
    who: list[str | None] = []
    types: set[str] = set()
    user = role = False
    for name, options in rows:
        kind = options.get("type") or ""
        if kind in allowed and not options.get("user") and not options.get("role"):
            continue
        who.append(name)
        types |= {kind} - allowed
        user, role = user or bool(options.get("user")), role or bool(options.get("role"))
    if not who:
        return None
    said = [f"{_many('type', types)} {_quoted(sorted(types))}"] if types else []
    said += ["user may not be set"] if user else []
    said += ["role may not be set"] if role else []
    by = _by(None in who, [name for name in who if name])
    return "seLinuxOptions", f"{by} set forbidden securityContext.seLinuxOptions: {'; '.join(said)}"


SECCOMP = ("RuntimeDefault", "Localhost")
_POD_NOTE, _CONTAINER_NOTE = (
    "seccomp.security.alpha.kubernetes.io/pod",
    "container.seccomp.security.alpha.kubernetes.io/",
)


def _seccomp_notes(metadata: Object, spec: Object) -> Finding | None:
    """Before version 1.19 profiles were annotations."""
    notes, bad = metadata.get("annotations") or {}, set()
    for key in (_POD_NOTE, *(_CONTAINER_NOTE + c["name"] for c in _containers(spec))):
        value = notes.get(key)
        if value is not None and value not in ("runtime/default", "docker/default"):
            bad |= set() if value.startswith("localhost/") else {f"{key}={json.dumps(value)}"}
    return ("seccompProfile", f"forbidden {_many('annotation', bad)} {', '.join(sorted(bad))}") if bad else None


def _seccomp(metadata: Object, spec: Object, *, must: bool = False) -> Finding | None:
    """`must`: a profile has to be set."""
    own = sub(spec, "securityContext").get("seccompProfile")
    bad: set[str] = set()
    kind = own.get("type") if own is not None else None
    pod_bad = own is not None and kind not in SECCOMP
    who, without = [], []
    if pod_bad:
        bad.add(str(kind or ""))
    for container in _containers(spec):
        profile = _context(container).get("seccompProfile")
        if profile is None:
            without += [container["name"]] if own is None or pod_bad else []
        elif profile.get("type") not in SECCOMP:
            who.append(container["name"])
            bad.add(str(profile.get("type") or ""))
    if bad:
        by = _by(pod_bad, who)
        return "seccompProfile", f"{by} must not set securityContext.seccompProfile.type to {_quoted(sorted(bad))}"
    if must and without:
        return "seccompProfile", (
            f'pod or {_named(without)} must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost"'
        )
    return None


SYSCTLS = frozenset((
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
))  # fmt: skip
_SYSCTLS_27 = SYSCTLS | {"net.ipv4.ip_local_reserved_ports"}
_SYSCTLS_29 = _SYSCTLS_27 | {
    f"net.ipv4.tcp_{key}" for key in ("keepalive_time", "fin_timeout", "keepalive_intvl", "keepalive_probes")
}
_SYSCTLS_32 = _SYSCTLS_29 | {"net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}


def _sysctls(allowed: frozenset[str], metadata: Object, spec: Object) -> Finding | None:
    names = [str(one.get("name")) for one in maps(sub(spec, "securityContext").get("sysctls"))]
    bad = [name for name in names if name not in allowed]
    return ("forbidden sysctls", ", ".join(bad)) if bad else None


def _host_process(metadata: Object, spec: Object) -> Finding | None:
    pod = bool(sub(spec, "securityContext", "windowsOptions").get("hostProcess"))
    who = [c["name"] for c in _containers(spec) if sub(c, "securityContext", "windowsOptions").get("hostProcess")]
    if not pod and not who:
        return None
    return "hostProcess", f"{_by(pod, who)} must not set securityContext.windowsOptions.hostProcess=true"


# -- restricted


def _escalation(metadata: Object, spec: Object) -> Finding | None:
    who = [c["name"] for c in _containers(spec) if _context(c).get("allowPrivilegeEscalation") is not False]
    if not who:
        return None
    return "allowPrivilegeEscalation != false", f"{_named(who)} must set securityContext.allowPrivilegeEscalation=false"


def _dropped(metadata: Object, spec: Object) -> Finding | None:
    kept = [
        c["name"] for c in _containers(spec)
        if "ALL" not in (sub(c, "securityContext", "capabilities").get("drop") or ())
    ]  # fmt: skip
    said = [f'{_named(kept)} must set securityContext.capabilities.drop=["ALL"]'] if kept else []
    who, what = _added(spec, frozenset(("NET_BIND_SERVICE",)))
    if who:
        said.append(f"{_named(who)} must not include {_quoted(sorted(what))} in securityContext.capabilities.add")
    return ("unrestricted capabilities", "; ".join(said)) if said else None


VOLUMES = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
)  # fmt: skip


def _volumes(metadata: Object, spec: Object) -> Finding | None:
    bad, kinds = [], set()
    for volume in maps(spec.get("volumes")):
        sources = {key for key, value in volume.items() if key != "name" and value is not None}
        if not sources & set(VOLUMES):
            bad.append(str(volume.get("name")))
            kinds.add(min(sources, default="unknown"))
    if not bad:
        return None
    word = _many("restricted volume type", kinds)
    uses = _many("uses", bad, "use")
    return "restricted volume types", f"{_many('volume', bad)} {_quoted(bad)} {uses} {word} {_quoted(sorted(kinds))}"


def _non_root(metadata: Object, spec: Object) -> Finding | None:
    own = sub(spec, "securityContext").get("runAsNonRoot")
    settings = {c["name"]: _context(c).get("runAsNonRoot") for c in _containers(spec)}
    refusing = [name for name, value in settings.items() if value is False]
    if own is False or refusing:
        return "runAsNonRoot != true", f"{_by(own is False, refusing)} must not set securityContext.runAsNonRoot=false"
    open_ = [name for name, value in settings.items() if value is None and own is not True]
    if not open_:
        return None
    return "runAsNonRoot != true", f"pod or {_named(open_)} must set securityContext.runAsNonRoot=true"


def _root_user(metadata: Object, spec: Object) -> Finding | None:
    pod = sub(spec, "securityContext").get("runAsUser") == 0
    who = [c["name"] for c in _containers(spec) if _context(c).get("runAsUser") == 0]
    return ("runAsUser=0", f"{_by(pod, who)} must not set runAsUser=0") if pod or who else None


# -- the rows


class Check(NamedTuple):
    """`since` is the minor version from which `look` holds; `instead` the baseline check that it takes the place of."""

    id: str
    since: int
    look: Look
    instead: str = ""


BASELINE = (
    Check("appArmorProfile", 0, _app_armor),
    Check("capabilities_baseline", 0, _capabilities),
    Check("hostNamespaces", 0, _host_namespaces),
    Check("hostPathVolumes", 0, _host_paths),
    Check("hostPorts", 0, _host_ports),
    Check("hostProbesAndHostLifecycle", 34, _probe_hosts),
    Check("privileged", 0, _privileged),
    Check("procMount", 0, _proc_mount),
    Check("procMount", 35, partial(_not_with_users, _proc_mount)),
    Check("seLinuxOptions", 0, partial(_selinux, SELINUX_TYPES)),
    Check("seLinuxOptions", 31, partial(_selinux, SELINUX_TYPES | {"container_engine_t"})),
    Check("seccompProfile_baseline", 0, _seccomp_notes),
    Check("seccompProfile_baseline", 19, _seccomp),
    Check("sysctls", 0, partial(_sysctls, SYSCTLS)),
    Check("sysctls", 27, partial(_sysctls, _SYSCTLS_27)),
    Check("sysctls", 29, partial(_sysctls, _SYSCTLS_29)),
    Check("sysctls", 32, partial(_sysctls, _SYSCTLS_32)),
    Check("windowsHostProcess", 0, _host_process),
)
_must_seccomp: Look = partial(_seccomp, must=True)
RESTRICTED = (
    Check("allowPrivilegeEscalation", 8, _escalation),
    Check("allowPrivilegeEscalation", 25, partial(_not_on_windows, _escalation)),
    Check("capabilities_restricted", 22, _dropped, "capabilities_baseline"),
    Check("capabilities_restricted", 25, partial(_not_on_windows, _dropped), "capabilities_baseline"),
    Check("procMount_restricted", 35, _proc_mount, "procMount"),
    Check("restrictedVolumes", 0, _volumes, "hostPathVolumes"),
    Check("runAsNonRoot", 0, _non_root),
    Check("runAsNonRoot", 35, partial(_not_with_users, _non_root)),
    Check("runAsUser", 23, _root_user),
    Check("runAsUser", 35, partial(_not_with_users, _root_user)),
    Check("seccompProfile_restricted", 19, _must_seccomp, "seccompProfile_baseline"),
    Check("seccompProfile_restricted", 25, partial(_not_on_windows, _must_seccomp), "seccompProfile_baseline"),
)


@lru_cache(maxsize=128)
def checks(level: str, version: int) -> tuple[Look, ...]:
    """The checks of a level in a version, baseline's first; `version` is a minor number, LATEST for the newest."""
    if level == "privileged":
        return ()

    def newest(rows: tuple[Check, ...]) -> dict[str, Check]:
        return {row.id: row for row in rows if row.since <= version}

    chosen = newest(BASELINE)
    if level == "restricted":
        stricter = newest(RESTRICTED)
        for row in stricter.values():
            chosen.pop(row.instead, None)
        chosen |= stricter
    return tuple(row.look for row in chosen.values())


def findings(level: str, version: int, metadata: Object, spec: Object) -> list[Finding]:
    """Everything a pod violates."""
    return [found for look in checks(level, version) if (found := look(metadata, spec)) is not None]
