"""Finds every mistake in an application. Reads the user's modules as text; imports none."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from sampan.model import graph, settings, syntax
from sampan.model.application import Application, Job, Service, Workload
from sampan.model.arguments import mistyped
from sampan.model.handles import Config, Database, Grant, Handle, Secret, Topic
from sampan.model.imports import check_handler, check_import
from sampan.model.policy import faults as policy_faults
from sampan.model.problems import Problem
from sampan.model.security import mistakes, tls_mistakes
from sampan.model.values import Environment, Every, Grpc, Probe, Resources, Scale

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from sampan.model.location import Location

ENGINES = ("mysql", "postgresql", "sqlite")
RESERVED_ENV = {"PORT", "GRPC_PORT", "POD_NAME", "POD_NAMESPACE", "POD_IP", "SERVICE_BINDING_ROOT"}
RESERVED_ENV |= {f"SAMPAN_{name}" for name in ("APP", "ENVIRONMENT", "VERSION", "CONFIG_ROOT")}
MESSAGING = "messaging"
SUFFIX = {"database": "db", "cache": "cache"}


def check(app: Application) -> list[Problem]:
    """Every problem, errors before warnings, otherwise in the order of the checks below."""
    if found := mistyped(app):
        return found  # the checks below count upon the types
    report = _Report()
    for one in CHECKS:
        one(app, report)
    return sorted(report.problems, key=lambda problem: problem.severity != "error")


class _Report:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __call__(
        self,
        message: str,
        location: Location | None,
        remedy: str,
        severity: Literal["error", "warning"] = "error",
    ) -> None:
        self.problems.append(Problem(message, location, remedy, severity))


def nearest(word: str, known: list[str]) -> str:
    """`did you mean "x"?`, or the list of what is known."""
    close = difflib.get_close_matches(str(word), known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"


def _names(app: Application, report: _Report) -> None:
    things: list[tuple[str, Any, int]] = [("application", app, 50)]
    things += [("service", service, 50) for service in app.services]
    things += [("job", job, 50) for job in app.jobs]
    things += [(handle.kind, handle, 40) for handle in app.handles]
    things += [("environment", environment, 12) for environment in app.environments]
    for kind, thing, longest in things:
        # a topic's name goes to brokers only, where underscores are usual
        spelt = thing.name.replace("_", "-") if kind == "topic" and isinstance(thing.name, str) else thing.name
        if wrong := syntax.label(spelt, longest):
            report(
                f"the name of {kind} {thing.name!r} {wrong}",
                thing.location,
                "use lower-case letters, digits and hyphens, starting with a letter: "
                f'"{syntax.suggest_label(thing.name, longest)}"',
            )
    taken: dict[tuple[str, str], Any] = {}
    for kind, thing, _ in things:
        # Services and jobs share the names of pods; the other kinds each have their own.
        key = ("workload" if kind in ("service", "job") else kind, thing.name)
        if (other := taken.setdefault(key, thing)) is not thing:
            report(
                f"{kind} {thing.name!r} is declared twice, first at {other.location}",
                thing.location,
                "use the one declared first, or give this one another name",
            )
    backings: dict[str, Handle | None] = {f"{h.name}-{SUFFIX[h.kind]}": h for h in app.handles if h.kind in SUFFIX}
    backings |= dict.fromkeys([MESSAGING], next((h for h in app.handles if h.kind == "topic"), None))
    for workload in app.workloads:
        if handle := backings.get(workload.name):
            report(
                f"{workload.kind} {workload.name!r} has the name of the server behind {handle!r}",
                workload.location,
                "give it another name",
            )


def _resources_used(app: Application, report: _Report) -> None:
    for workload in app.workloads:
        for use in workload.uses:
            if isinstance(use, Grant):
                if use.access not in use.handle.access:
                    report(
                        f"{workload!r} uses {use.handle!r} with {use.access!r}",
                        use.location,
                        f"a {use.handle.kind} grants: {', '.join(use.handle.access)}",
                    )
            elif isinstance(use, Handle) and not isinstance(use, (Config, Secret)):
                ways = " or ".join(f".{access}({'...' if access == 'subscribe' else ''})" for access in use.access)
                report(
                    f"{workload!r} uses {use!r} without saying how",
                    workload.location,
                    f"say what it may do with it: {ways}",
                )
            elif isinstance(use, Workload):
                report(
                    f"{workload!r} names {use!r} in `uses`",
                    workload.location,
                    f"another service is called, not used: calls=[{use.name}]",
                )
            elif not isinstance(use, Handle):
                report(
                    f"{workload!r} uses {use!r}, which is not a resource",
                    workload.location,
                    "`uses` takes grants such as db.read_write(), configuration and secrets",
                )


def _calls(app: Application, report: _Report) -> None:
    declared = {service.name: service for service in app.services}
    for workload in app.workloads:
        for call in workload.calls:
            name = call if isinstance(call, str) else getattr(call, "name", repr(call))
            ours = declared.get(name)
            if ours is None or (not isinstance(call, str) and ours is not call):
                report(
                    f"{workload!r} calls {name!r}, which is not a service of {app!r}",
                    workload.location,
                    nearest(name, sorted(declared))
                    if isinstance(call, str)
                    else f"add it to services=[...] of the application declared at {app.location}",
                )
            elif ours.asgi is None and ours.grpc is None:
                report(
                    f"{workload!r} calls {name!r}, which serves no HTTP",
                    workload.location,
                    f'give {ours!r} an application (asgi="module:attribute") or gRPC services '
                    '(grpc="module:function"), or speak to it through a topic',
                )
        for name, policy in workload.policies.items():
            for written, remedy in policy_faults(policy):
                report(f"{workload!r} calls {name!r} with {written}", workload.location, remedy)
        if isinstance(workload, Service):
            for written, remedy in policy_faults(workload.limits):
                report(f"{workload!r} has {written}", workload.location, remedy)
    for cycle in graph.cycles(app):
        first = declared[cycle[0]]
        report(
            f"services call each other in a circle: {' -> '.join(cycle)}",
            first.location,
            "turn one of these calls into an event (a Topic), or move what both need into a third service",
        )


def _public(app: Application, report: _Report) -> None:
    for environment in app.environments or [app.environment("dev")]:
        claimed: dict[tuple[str, str], Service] = {}
        for base in app.services:
            service: Service = base.overridden(_overrides(environment, base))
            if service.public and service.asgi is None:
                report(
                    f"{base!r} is public but serves no HTTP",
                    base.location,
                    'give it asgi="module:attribute", or remove public=',
                )
            for route in service.public:
                if not route.path.startswith("/"):
                    report(
                        f"{base!r} has the public path {route.path!r}",
                        base.location,
                        f'a path starts with a slash: "/{route.path}"',
                    )
                key = (route.host or environment.host or "", route.path.rstrip("/") or "/")
                other = claimed.setdefault(key, base)
                if other is not base:
                    report(
                        f"{base!r} and {other!r} both claim the public path {key[0] + key[1]!r}"
                        f" in environment {environment.name!r}",
                        base.location,
                        f"give one of them another path or host; {other!r} is declared at {other.location}",
                    )


def _imports(app: Application, report: _Report) -> None:
    for workload in app.workloads:
        for what in ("asgi", "grpc", "run"):
            named = getattr(workload, what, None)
            named = named.services if isinstance(named, Grpc) else named
            if named is not None and (wrong := check_import(named)):
                report(f"{workload!r}: {what}={named!r} {wrong[0]}", workload.location, wrong[1])
        for what in ("background", "readiness_checks"):
            for one in getattr(workload, what, ()):
                named = one.run if isinstance(one, Every) else one
                if wrong := check_import(named):
                    report(f"{workload!r}: {what}={named!r} {wrong[0]}", workload.location, wrong[1])
        for grant in workload.grants:
            if grant.access != "subscribe" or not isinstance(grant.handle, Topic):
                continue
            if wrong := check_handler(grant.handler, grant.handle.type):
                report(
                    f"{workload!r} handles {grant.handle!r} with {grant.handler!r}, which {wrong[0]}",
                    grant.location,
                    wrong[1],
                )


def _topics(app: Application, report: _Report) -> None:
    for topic in (handle for handle in app.handles if isinstance(handle, Topic)):
        first = (topic.key or "").partition(".")[0]
        known = {name for kind in getattr(topic.type, "__mro__", ()) for name in dir(kind)}
        known |= {name for kind in getattr(topic.type, "__mro__", ()) for name in getattr(kind, "__annotations__", {})}
        if first and first not in known:
            fields = sorted(getattr(topic.type, "__annotations__", {}))
            report(
                f"{topic!r} has the key {topic.key!r}, which its events lack", topic.location, nearest(first, fields)
            )
        if not 1 <= topic.partitions <= 1024:
            report(f"{topic!r} has {topic.partitions} partitions", topic.location, "use 1 to 1024; the default is 8")
        for workload in graph.subscribers(app, topic):
            for grant in workload.grants:
                if grant.handle is topic and not re.fullmatch(r"[A-Za-z0-9_-]{0,60}", grant.group):
                    report(
                        f"{workload!r} subscribes to {topic!r} in the group {grant.group!r}",
                        grant.location,
                        "a group is up to 60 letters, digits, hyphens and underscores",
                    )
        if not graph.publishers(app, topic):
            report(f"nothing publishes {topic!r}", topic.location, f"add {topic.name}.publish() to `uses`", "warning")
        if not graph.subscribers(app, topic):
            report(
                f"nothing subscribes to {topic!r}",
                topic.location,
                "its events are kept until they expire; add a subscribe(...), or remove the topic",
                "warning",
            )
    for job in app.jobs:
        for grant in job.grants:
            if grant.access == "subscribe":
                report(f"{job!r} subscribes to {grant.handle!r}", grant.location, "only a service can consume a topic")


def _values(app: Application, report: _Report) -> None:
    for workload in app.workloads:
        _workload_values(workload, workload.location, "", report)
        for environment in app.environments:
            if override := _overrides(environment, workload):
                _workload_values(
                    workload.overridden(override), environment.location, f" in environment {environment.name!r}", report
                )
    for database in app.databases:
        if database.engine not in ENGINES:
            report(
                f"{database!r} has the engine {database.engine!r}",
                database.location,
                nearest(database.engine, list(ENGINES)),
            )
        for environment in app.environments:
            engine = _overrides(environment, database).get("engine", database.engine)
            if engine not in ENGINES:
                report(
                    f"{database!r} has the engine {engine!r} in environment {environment.name!r}",
                    environment.location,
                    nearest(engine, list(ENGINES)),
                )
            elif engine == "sqlite" and not environment.is_local:
                report(
                    f"{database!r} is a SQLite file in environment {environment.name!r}",
                    environment.location,
                    "instances on several nodes cannot share it safely; use mysql or postgresql there",
                    "warning",
                )


def _workload_values(workload: Any, location: Location, where: str, report: _Report) -> None:
    def wrong(message: str, remedy: str) -> None:
        report(f"{workload!r}{where} {message}", location, remedy)

    _resource_values(workload.resources, wrong)
    for name in sorted(RESERVED_ENV & workload.env.keys()):
        wrong(f"sets {name}, which Sampan sets", "use another name")
    for name, value in workload.env.items():
        if not isinstance(value, str):
            wrong(f"sets {name} to {value!r}", f'environment variables are text: "{value}"')
        if not syntax.VARIABLE.fullmatch(name):
            wrong(f"sets {name!r}, which no environment variable is called", "use letters, digits and underscores")
    for target in workload.egress:
        if mistake := syntax.egress(target):
            wrong(f"has the egress {target!r}: {mistake}", 'write it as "203.0.113.0/24:443"')
    if isinstance(workload, Service):
        _scale_values(workload.scale, wrong)
        if not 1 <= workload.port <= 65535:
            wrong(f"has the port {workload.port}", "a port is 1 to 65535")
        for probe in (workload.readiness, workload.liveness, workload.startup):
            _probe_values(probe, wrong)
        for every in (one for one in workload.background if isinstance(one, Every)):
            if not every.seconds > 0 or not 0 <= every.jitter <= 1:
                wrong(f"has the background {every!r}", "the period is above 0 seconds, jitter a share of it, 0 to 1")
        idle = not (workload.asgi or workload.grpc or workload.background)
        if idle and not any(grant.access == "subscribe" for grant in workload.grants):
            wrong(
                "does nothing",
                'give it an application (asgi="module:attribute"), gRPC services (grpc="module:function"), a topic to '
                'subscribe to, or background=["module:function"]',
            )
        if workload.grpc is not None:
            _grpc_values(workload.grpc, workload.port, wrong)
    else:
        _job_values(workload, wrong)


def _grpc_values(grpc: Grpc, http_port: int, wrong: Callable[[str, str], None]) -> None:
    if not 1 <= grpc.port <= 65535:
        wrong(f"has the gRPC port {grpc.port}", "a port is 1 to 65535")
    if grpc.port == http_port:
        wrong(f"serves HTTP and gRPC on one port, {http_port}", "give one of them another: Grpc(..., port=9090)")
    for name in ("max_message", "max_streams", "connection_age"):
        if getattr(grpc, name) <= 0:
            wrong(f"has the gRPC {name} {getattr(grpc, name)}", "it is more than 0")


def _job_values(job: Job, wrong: Callable[[str, str], None]) -> None:
    if job.schedule is not None and (mistake := syntax.schedule(job.schedule)):
        wrong(f"has the schedule {job.schedule!r}: {mistake}", 'for example "0 3 * * *": every day at 03:00')
    if job.time_zone is not None and (mistake := syntax.time_zone(job.time_zone)):
        wrong(f"has the time zone {job.time_zone!r}, {mistake}", 'for example "Europe/Berlin"')
    if job.timeout < 1 or job.retries < 0:
        wrong(f"has timeout={job.timeout}, retries={job.retries}", "a timeout is 1 second or more, retries 0 or more")


def _scale_values(scale: Scale, wrong: Callable[[str, str], None]) -> None:
    if scale.minimum < 1:
        wrong(f"has at least {scale.minimum} instances", "the minimum is 1 or more")
    if scale.most < max(scale.minimum, 1):
        wrong(f"scales from {scale.minimum} to {scale.maximum}", "the maximum is not below the minimum")
    for name, target in (("cpu", scale.cpu), ("memory", scale.memory)):
        if target is not None and not 1 <= target <= 100:
            wrong(f"scales at {name}={target}", "a target is a percentage of the request, 1 to 100")
    if scale.most <= scale.minimum and (scale.cpu or scale.memory):
        wrong("has a scaling target but nothing to scale to", "set a maximum above the minimum: Scale(3, 10, cpu=50)")


def _resource_values(resources: Resources, wrong: Callable[[str, str], None]) -> None:
    asked = {"cpu": resources.cpu, "memory": resources.memory}
    for label, values in (("requests", asked), ("limits", dict(resources.limits or {}))):
        for name, text in values.items():
            if not syntax.quantity(text):
                wrong(f"{label} {name} {text!r}", 'a quantity looks like "250m" (cpu) or "128Mi" (memory)')
    for name, text in (resources.limits or {}).items():
        limit, request = syntax.quantity(text), syntax.quantity(asked.get(name, "0"))
        if limit is not None and request is not None and limit < request:
            wrong(f"limits {name} to {text}, less than the {asked[name]} it requests", "raise the limit")


def _probe_values(probe: Probe, wrong: Callable[[str, str], None]) -> None:
    if not probe.path.startswith("/"):
        wrong(f"has the probe path {probe.path!r}", "a path starts with a slash")
    if min(probe.period, probe.timeout, probe.failures) < 1 or probe.delay < 0:
        wrong(f"has the probe {probe!r}", "period, timeout and failures are 1 or more, delay 0 or more")


def _overrides(environment: Environment, thing: Any) -> dict[str, Any]:
    return dict(environment.values.get(thing, {}))


def _environments(app: Application, report: _Report) -> None:
    known: list[Any] = [*app.workloads, *app.handles]
    for environment in app.environments:
        if environment.namespace is not None and (wrong := syntax.label(environment.namespace)):
            report(
                f"environment {environment.name!r} has the namespace {environment.namespace!r}, which {wrong}",
                environment.location,
                f'use lower-case letters, digits and hyphens: "{syntax.suggest_label(environment.namespace)}"',
            )
        if environment.host is not None and not syntax.HOST.fullmatch(environment.host):
            report(
                f"environment {environment.name!r} has the host {environment.host!r}, which is no host name",
                environment.location,
                'a host name has no scheme, port or path: "shop.example.com"',
            )
        if environment.telemetry is not None and not syntax.ENDPOINT.fullmatch(environment.telemetry):
            report(
                f"environment {environment.name!r} has telemetry {environment.telemetry.rpartition('@')[2]!r}, which"
                " is no address of a collector",
                environment.location,
                'a scheme, a host and a port: "http://collector.monitoring:4318"; credentials go by a Secret of the'
                " platform as OTEL_EXPORTER_OTLP_HEADERS",
            )
        for thing, override in environment.values.items():
            if not any(thing is one for one in known):
                report(
                    f"environment {environment.name!r} overrides {thing!r}, which {app!r} does not have",
                    environment.location,
                    "use the service, job or handle object the application is made of",
                )
                continue
            allowed = _overridable(thing)
            for name in sorted(set(override) - set(allowed)):
                report(
                    f"environment {environment.name!r} overrides {name!r} of {thing!r}, which it does not have",
                    environment.location,
                    nearest(name, sorted(allowed)),
                )
    for config in (handle for handle in app.handles if isinstance(handle, Config)):
        if settings.fields(config.type) is None:
            report(
                f"{config!r} has the type {config.type!r}, which has no fields",
                config.location,
                "use a msgspec Struct, a dataclass or a pydantic model",
            )
            continue
        for name in sorted(set(config.values) - set(_overridable(config))):
            report(f"{config!r} has no field {name!r}", config.location, nearest(name, sorted(_overridable(config))))
        for environment in app.environments or [app.environment("dev")]:
            override = {k: v for k, v in _overrides(environment, config).items() if k in _overridable(config)}
            if wrong := settings.mistake(config, override):
                report(
                    f"{config!r} in environment {environment.name!r}: {wrong}",
                    environment.location if override else config.location,
                    "give values that its type accepts, there or as Config(name, type, {field: value})",
                )


def _overridable(thing: Any) -> frozenset[str]:
    if isinstance(thing, Workload):
        return thing.overridable
    if isinstance(thing, Config):
        return frozenset(settings.fields(thing.type) or ())
    return frozenset({"engine"}) if isinstance(thing, Database) else frozenset()


def _patches(app: Application, report: _Report) -> None:
    known = sorted({"dev", *(environment.name for environment in app.environments)})
    targets: list[Any] = [app, *app.workloads, *app.handles]
    for patch in app.patches:
        for name in patch.environments:
            if name not in known:
                report(f"a patch is for environment {name!r}, which is unknown", patch.location, nearest(name, known))
        if not any(patch.target is target for target in targets):
            report(
                f"a patch is for {patch.target!r}, which {app!r} does not have",
                patch.location,
                "patch a service, job or resource of the application, or the application itself",
            )


def _tls(app: Application, report: _Report) -> None:
    for workload in app.workloads:
        if workload.tls is not None:
            for message, remedy, severity in tls_mistakes(workload.tls):
                report(f"the tls of {workload!r} {message}", workload.location, remedy, severity)
            if "SAMPAN_TLS_DIRECTORY" in workload.env:
                report(f"{workload!r} has tls= and sets SAMPAN_TLS_DIRECTORY", workload.location, "leave one out")
            continue
        secure = [
            service for service in app.services if service.tls is not None and service.name in workload.call_names
        ]
        for callee in secure:
            report(
                f"{workload!r} calls {callee!r} by TLS and has no authority to know it by",
                workload.location,
                "give it tls=Tls() too, or all of them: Application(..., tls=Tls())",
                "warning",
            )


def _security(app: Application, report: _Report) -> None:
    for service in app.services:
        if service.security is None:
            continue
        for message, remedy, severity in mistakes(service.security):
            report(f"the security of {service!r} {message}", service.location, remedy, severity)
        for what, text in service.security.functions:
            if wrong := check_import(text):
                report(f"the security of {service!r}: {what}={text!r} {wrong[0]}", service.location, wrong[1])


CHECKS: list[Callable[[Application, _Report], None]] = [
    _names,
    _resources_used,
    _calls,
    _public,
    _imports,
    _topics,
    _values,
    _environments,
    _patches,
    _security,
    _tls,
]
