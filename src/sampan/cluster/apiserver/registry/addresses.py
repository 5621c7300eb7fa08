"""The cluster addresses and the families of a Service: what goes together, what stays, what is given out.

Of a write upstream first fills in what was left out (`fill`), then looks whether all of it goes together (`related`),
settles the families (`settle`) and gives out an address (`allocate`). There is one family here: IPv4.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from sampan.cluster.apiserver.registry.allocation import ClusterIPs
from sampan.cluster.apiserver.registry.faults import Faults
from sampan.kube.objects import Object

FAMILIES, POLICIES = ("IPv4", "IPv6"), ("PreferDualStack", "RequireDualStack", "SingleStack")
HERE = "IPv4"
_ZEROS = re.compile(r"(^|\.)0+(?=\d)")
IPS, IP, OF, POLICY = "clusterIPs", "clusterIP", "ipFamilies", "ipFamilyPolicy"


def ip_problem(text: Any) -> str | None:
    """Why `text` is no IP address; it may not be written in a way that others read otherwise."""
    try:
        found = ipaddress.ip_address(_ZEROS.sub(r"\1", str(text)))
    except ValueError:
        return "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
    if found.version == 4 and str(found) != text:
        return "must not have leading 0s"
    return "must not be an IPv4-mapped IPv6 address" if getattr(found, "ipv4_mapped", None) else None


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_cidr(text: str) -> tuple[Network | None, str | None]:
    """(the network, why it is not as it should be written); of what is none only the fault."""
    host, slash, length = text.partition("/")
    try:
        if not slash or not length.isascii() or not length.isdigit():
            raise ValueError
        address = ipaddress.ip_address(_ZEROS.sub(r"\1", host))
        network = ipaddress.ip_network(f"{address}/{int(length)}", strict=False)
    except ValueError:
        return None, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    if (address.version == 4 and str(address) != host) or str(int(length)) != length:
        return network, "must not have leading 0s in IP or prefix length"
    if getattr(address, "ipv4_mapped", None):
        return None, "must not have an IPv4-mapped IPv6 address"
    if network.network_address != address:
        return network, "must not have bits set beyond the prefix length"
    return network, None


def family_of(text: str) -> str:
    return "IPv6" if ":" in text else "IPv4"


def is_headless(spec: Object) -> bool:
    return bool(spec.get(IPS) == ["None"])


def fill(spec: Object, before: Object | None) -> None:
    """Addresses that a client left out, or gave in one of the two fields only. `before`: the spec that is updated, of a
    service that had addresses or may have them."""
    if before is None:
        if spec.get(IP) and not spec.get(IPS):
            spec[IPS] = [spec[IP]]
        return
    if "ExternalName" not in (spec.get("type"), before.get("type")):
        for field in (IP, IPS):
            if not spec.get(field) and before.get(field):
                spec[field] = before[field]
    if not spec.get(IPS) and before.get(IPS) and (spec.get(IP) or "") == (before.get(IP) or ""):
        spec[IPS] = before[IPS]
    if (spec.get(IP) or "") != (before.get(IP) or "") and (spec.get(IPS) or []) == (before.get(IPS) or []):
        spec[IPS] = [spec[IP]] if spec.get(IP) else []


def related(faults: Faults, spec: Object, before: Object | None = None) -> None:
    """Faults of addresses and families that do not go together, in themselves or each with the other."""
    ips, families, known = spec.get(IPS) or [], spec.get(OF) or [], (before or {}).get(IPS) or ()
    if spec.get(IP) and not ips:
        faults.required("spec.clusterIPs")
    elif spec.get(IP) and ips[0] != spec[IP]:
        faults.invalid("spec.clusterIPs", ips, "first value must match `clusterIP`")
    elif ips and not spec.get(IP):
        faults.invalid("spec.clusterIPs", ips, "must be empty when `clusterIP` is not specified")
    for index, family in enumerate(families):
        faults.one_of(f"spec.ipFamilies[{index}]", family, FAMILIES, required=None)
        if family in families[:index]:
            faults.duplicate(f"spec.ipFamilies[{index}]", family)
    if spec.get(POLICY) is not None:
        faults.one_of("spec.ipFamilyPolicy", spec[POLICY], POLICIES, required=None)
    sound = True
    for index, ip in enumerate(ips):
        if index == 0 and ip == "None":
            if len(ips) > 1:
                faults.invalid("spec.clusterIPs", ips, "'None' must be the first and only value")
            sound = sound and len(ips) == 1
        elif ip not in known and (problem := ip_problem(ip)):
            faults.invalid(f"spec.clusterIPs[{index}]", ip, problem)
            sound = False
    if len(ips) > 2:
        faults.invalid("spec.clusterIPs", ips, "may only hold up to 2 values")
    if not sound:
        return
    if len(ips) > 1 and len({family_of(ip) for ip in ips}) < 2:
        faults.invalid("spec.clusterIPs", ips, "may specify no more than one IP for each IP family")
    if not is_headless(spec):
        for index, (ip, family) in enumerate(zip(ips, families, strict=False)):
            if family in FAMILIES and family != family_of(ip):
                fault = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
                faults.invalid(f"spec.clusterIPs[{index}]", ip, fault)


def _stays(spec: Object, before: Object | None) -> bool:
    """Whether an update leaves a service as it is that would like both families."""
    return (
        before is not None
        and spec.get(POLICY) == "PreferDualStack"
        and before.get(POLICY) in (None, "PreferDualStack")
        and spec.get("type") == before.get("type")
        and all((spec.get(field) or []) == (before.get(field) or []) for field in (IPS, OF))
    )


def settle(faults: Faults, spec: Object, before: Object | None) -> None:
    """The families of a service and how many it wants, where nothing is wrong with them."""
    if _stays(spec, before):
        return
    headless = spec.get(IP) == "None" and not spec.get("selector")
    if not spec.get(POLICY):  # of a headless one whose ends are not known both are taken to be there
        spec[POLICY] = (before or {}).get(POLICY) or ("RequireDualStack" if headless else "SingleStack")
    related(faults, spec, before)
    if faults.causes:
        return
    policy = spec[POLICY]
    _released(faults, spec, before)
    if policy == "SingleStack":
        fault = "must be 'RequireDualStack' or 'PreferDualStack' when multiple {} are specified"
        for field, noun in ((IPS, "cluster IPs"), (OF, "IP families")):
            if len(spec.get(field) or ()) == 2:
                faults.invalid("spec.ipFamilyPolicy", policy, fault.format(noun))
    families = list(spec.get(OF) or ())
    for index, ip in enumerate(spec.get(IPS) or ()):
        if ip != "None" and index >= len(families):
            if family_of(ip) != HERE:
                faults.invalid(
                    f"spec.clusterIPs[{index}]", spec[IPS], f"{family_of(ip)} is not configured on this cluster"
                )
            else:
                families.append(HERE)
    if faults.causes:
        return
    if headless:
        families = families or [HERE]
        if len(families) < 2 and policy != "SingleStack":
            families.append("IPv6" if families[0] == "IPv4" else "IPv4")
    else:
        if policy == "RequireDualStack":
            faults.invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack services")
        for index, family in enumerate(families):
            if family != HERE:
                faults.invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster")
    spec[OF] = families or [HERE]


def _released(faults: Faults, spec: Object, before: Object | None) -> None:
    """The second address or family goes with the wish for it, and not without that."""
    for field, noun in ((IPS, "cluster IP"), (OF, "IP family")):
        now, then = spec.get(field) or [], (before or {}).get(field) or []
        if before is None:
            continue
        if spec[POLICY] == "SingleStack":
            if now == then and len(now) > 1:
                spec[field] = now[:1]
        elif 0 < len(now) < len(then):
            fault = f"must be 'SingleStack' to release the secondary {noun}"
            faults.invalid("spec.ipFamilyPolicy", spec[POLICY], fault)


def allocate(faults: Faults, spec: Object, ips: ClusterIPs, taken: set[str], key: str) -> None:
    """Give a service that is new or had no address of its own accord the one it asks for, or any. `key`: its name."""
    given = spec.get(IPS) or []
    if given == ["None"]:
        return
    if given:
        if problem := ips.problem(given[0], taken):
            faults.invalid("spec.clusterIPs", given, problem)
        return
    found = ips.allocate(key, taken)
    if key.endswith("/"):  # of a service without a name
        fault = f'IPAddress.networking.k8s.io "{found}" is invalid: spec.parentRef.name: Required value'
        faults.invalid("spec.clusterIPs", [""], f"failed to allocate IP: {fault}")
    spec[IP], spec[IPS] = found, [found]


def changed(faults: Faults, new: Object, old: Object) -> None:
    """Faults of an update of a spec: the first address and family stay, the second may come and go."""
    if "ExternalName" in (new.get("type"), old.get("type")) or (is_headless(new) and is_headless(old)):
        return
    _changed(faults, IPS, new, old, "clusterIP")
    if is_headless(new) == is_headless(old):
        _changed(faults, OF, new, old, "ipFamily")


def _changed(faults: Faults, field: str, new: Object, old: Object, noun: str) -> None:
    now, then = new.get(field) or [], old.get(field) or []
    if len(now) == len(then):
        for index, value in enumerate(then):
            if value != now[index]:
                where = index if field == IPS else 0
                faults.invalid(f"spec.{field}[{where}]", now, "may not change once set")
        return
    if len(now) < len(then) and not new.get(IPS):
        faults.invalid(f"spec.{field}[0]", now or None, f"primary {noun} can not be unset")
    if now and then and now[0] != then[0]:
        faults.invalid(f"spec.{field}[0]", new.get(IPS) or None, "may not change once set")
    if len(now) < len(then) and len(now) == 1 and new.get(POLICY) != "SingleStack":
        fault = f"must be set to 'SingleStack' when releasing the secondary {noun}"
        faults.invalid("spec.ipFamilyPolicy", new.get(POLICY), fault)


def drop(new: Object, old: Object) -> None:
    """Of a service that becomes an ExternalName, what it needs no more goes, unless the client changed it itself."""
    if new.get("type") != "ExternalName" or old.get("type") == "ExternalName":
        return
    for fields in ((IP, IPS), (OF,), (POLICY,)):
        if all((new.get(field) or None) == (old.get(field) or None) for field in fields):
            for field in fields:
                new.pop(field, None)


def forbidden(faults: Faults, spec: Object) -> None:
    """What an ExternalName may not have."""
    for field in (IPS, OF, POLICY):
        if spec.get(field):
            faults.forbidden(f"spec.{field}", "may not be set for ExternalName services")
