"""Application, Service and Job: what is run."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from msgspec import Struct, field

from sampan.model.handles import Config, Database, Grant, Handle, Secret
from sampan.model.location import Location, here
from sampan.model.policy import Call, Limits
from sampan.model.problems import ModelError, NotBound, Problem
from sampan.model.values import Environment, Every, Grpc, Probe, Resources, Route, Scale, several

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sampan.model.bound import ServiceChannel, ServiceClient
    from sampan.model.security import Security, Tls

    N = TypeVar("N", "Service", "Job", "Database")
    S = TypeVar("S")
    Use = Grant | Config[Any] | Secret
    Patcher = Callable[[dict[str, Any]], dict[str, Any] | None]


class Workload:
    """What a service and a job share: a name, what they use and call, and what a container needs."""

    kind: ClassVar[str]
    overridable: ClassVar[frozenset[str]]

    def __init__(
        self,
        name: str,
        *,
        uses: Sequence[Use],
        calls: Sequence[Service | str | Call],
        env: Mapping[str, str] | None,
        resources: Resources | None,
        egress: Sequence[str],
        tls: Tls | None,
    ) -> None:
        self.name = name
        self.tls = tls
        self.uses = list(uses)
        self.calls = [call.service if isinstance(call, Call) else call for call in calls]
        self.policies = {call.name: call.policy for call in calls if isinstance(call, Call)}  # by service
        self.env = dict(env or {})
        self.resources = resources or Resources()
        self.egress = list(several(egress))
        self.location = here()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def grants(self) -> list[Grant]:
        return [use for use in self.uses if isinstance(use, Grant)]

    @property
    def handles(self) -> list[Handle]:
        """Every resource it uses, once, in the order of `uses`."""
        used = (use.handle if isinstance(use, Grant) else use for use in self.uses)
        return list({id(handle): handle for handle in used if isinstance(handle, Handle)}.values())

    @property
    def call_names(self) -> list[str]:
        return [call if isinstance(call, str) else call.name for call in self.calls]

    def overridden(self, values: Mapping[str, Any]) -> Any:
        """A copy with these fields replaced; `env` is merged."""
        result = copy.copy(self)
        for name, value in values.items():
            if name == "env":
                result.env = {**self.env, **value}
            elif name == "replicas":
                result.scale = Scale(value)  # type: ignore[attr-defined]
            elif name == "public":
                result.public = routes(value, getattr(self, "rewrite", None))  # type: ignore[attr-defined]
            else:
                setattr(result, name, value)
        return result


def routes(public: str | Route | Sequence[str | Route] | None, rewrite: str | None) -> list[Route]:
    """`"/api"` and `"host/api"` as routes."""
    result = []
    for item in [public] if isinstance(public, (str, Route)) else public or ():
        if isinstance(item, Route):
            result.append(item)
            continue
        host, slash, path = item.partition("/")
        result.append(Route(slash + path if slash else item, host if slash and host else None, rewrite))
    return result


class Service(Workload):
    """A process that runs all the time: an ASGI application (`asgi="module:attribute"`), gRPC services
    (`grpc="module:function"`, see Grpc), consumers of topics, or any of these together.

    `public` are path prefixes ("/api/orders", or "host/path") the Ingress leads here; `rewrite` replaces the prefix.
    `background` names what runs for the whole life of the process: coroutine functions, `Every(60, "module:function")`,
    objects with async start() and stop(). `readiness_checks` names functions that raise when it cannot take work.
    `calls` are services, by themselves or as `Call(service, Policy(...))`; `limits` is what it takes on from callers.
    `tls` has it speak TLS, and know by it those it calls. `replicas` is short for `scale=Scale(n)`. `egress` allows
    connections out of the system, as "CIDR:port".
    """

    kind = "service"
    overridable = frozenset(
        {"scale", "replicas", "resources", "env", "public", "egress", "readiness", "liveness", "startup", "tls"}
    )

    def __init__(
        self,
        name: str,
        asgi: str | None = None,
        *,
        grpc: str | Grpc | None = None,
        uses: Sequence[Use] = (),
        calls: Sequence[Service | str | Call] = (),
        public: str | Route | Sequence[str | Route] | None = None,
        rewrite: str | None = None,
        port: int = 8080,
        env: Mapping[str, str] | None = None,
        scale: Scale | None = None,
        replicas: int | None = None,
        resources: Resources | None = None,
        readiness: Probe | None = None,
        liveness: Probe | None = None,
        startup: Probe | None = None,
        limits: Limits | None = None,
        egress: Sequence[str] = (),
        background: Every | Sequence[str | Every] = (),
        readiness_checks: Sequence[str] = (),
        security: Security | None = None,
        tls: Tls | None = None,
    ) -> None:
        super().__init__(name, uses=uses, calls=calls, env=env, resources=resources, egress=egress, tls=tls)
        self.asgi = asgi
        self.grpc = Grpc(grpc) if isinstance(grpc, str) else grpc
        self.public = routes(public, rewrite)
        self.rewrite = rewrite
        self.port = port
        self.scale = scale or Scale(1 if replicas is None else replicas)
        self.readiness = readiness or Probe("/ready", period=2, failures=2)
        self.liveness = liveness or Probe("/health", period=10, failures=3)
        self.startup = startup or Probe("/health", period=1, failures=60)
        self.background = [background] if isinstance(background, (str, Every)) else list(background)
        self.readiness_checks = list(several(readiness_checks))
        self.limits = limits or Limits()
        self._client: ServiceClient | None = None
        self.security: Security | None = None
        if security is not None:
            self.secure(security)
        self._channel: ServiceChannel | None = None

    def secure(self, security: Security) -> None:
        """Guard it so; it then uses the secrets its authenticators read."""
        self.security = security
        self.uses += [secret for secret in security.secrets if all(secret is not use for use in self.uses)]

    def bind(self, client: ServiceClient | None) -> None:
        """Put a client (see `bound.py`) behind `.client`; None takes it away."""
        self._client = client

    @property
    def variable(self) -> str:
        """The environment variable that overrides the address of the service."""
        return f"SAMPAN_SERVICE_{self.name.upper().replace('-', '_')}_URL"

    @property
    def client(self) -> ServiceClient:
        """Calls this service from another one, which must name it in `calls`."""
        if self._client is None:
            raise NotBound(
                f"{self!r}, declared at {self.location}, has no client in this process. Inside `sampan serve SERVICE` "
                f"those services have one that SERVICE names in `calls`; elsewhere call .bind(...)."
            )
        return self._client

    def bind_rpc(self, channel: ServiceChannel | None) -> None:
        """Put a channel (see `bound.py`) behind `.rpc`; None takes it away."""
        self._channel = channel

    @property
    def rpc_variable(self) -> str:
        """The environment variable that overrides the gRPC address of the service: `host:port`, or a gRPC target."""
        return f"SAMPAN_SERVICE_{self.name.upper().replace('-', '_')}_GRPC"

    def rpc(self, stub: Callable[[Any], S]) -> S:
        """A gRPC client of this service: `users.rpc(UsersStub)`, where UsersStub is the generated class."""
        if self._channel is None:
            why = f'it has no grpc="module:function" and {self.rpc_variable} is not set. ' if self.grpc is None else ""
            raise NotBound(
                f"{self!r}, declared at {self.location}, has no gRPC client in this process. {why}Inside `sampan serve "
                f"SERVICE` those services have one that SERVICE names in `calls`; elsewhere call .bind_rpc(...)."
            )
        return self._channel.stub(stub)


class Job(Workload):
    """A function (`run="module:function"`) that runs to its end: once per release, or by `schedule` (five cron fields).

    `timeout` is in seconds, `time_zone` an IANA name.
    """

    kind = "job"
    overridable = frozenset(
        {"schedule", "time_zone", "timeout", "retries", "suspend", "resources", "env", "egress", "tls"}
    )

    def __init__(
        self,
        name: str,
        run: str,
        *,
        schedule: str | None = None,
        time_zone: str | None = None,
        timeout: int = 3600,
        retries: int = 3,
        suspend: bool = False,
        uses: Sequence[Use] = (),
        calls: Sequence[Service | str | Call] = (),
        env: Mapping[str, str] | None = None,
        resources: Resources | None = None,
        egress: Sequence[str] = (),
        tls: Tls | None = None,
    ) -> None:
        super().__init__(name, uses=uses, calls=calls, env=env, resources=resources, egress=egress, tls=tls)
        self.run = run
        self.schedule = schedule
        self.time_zone = time_zone
        self.timeout = timeout
        self.retries = retries
        self.suspend = suspend


def _backups(workloads: Sequence[Workload]) -> list[Job]:
    """A job for each database whose declaration asks for backups: `backup-NAME`, by its schedule."""
    found = []
    handles = dict.fromkeys(handle for workload in workloads for handle in workload.handles)
    for handle in handles:
        if isinstance(handle, Database) and handle.backup is not None:
            run = f"sampan.service.data.scheduled:backup_{handle.name.replace('-', '_')}"
            uses = [handle.read(), handle.backup.to.read_write()]
            job = Job(f"backup-{handle.name}", run, schedule=handle.backup.schedule, uses=uses)
            job.location = handle.location
            found.append(job)
    return found


class Patch(Struct, frozen=True):
    """A user's change to what is compiled for `target`. `environments` empty means all of them."""

    target: Any
    kind: str
    name: str | None
    environments: tuple[str, ...]
    function: Patcher
    location: Location = field(default_factory=here)


class Application:
    """A whole system. `security` is that of every service which declares none of its own; `tls` gives every service and
    job without one a certificate of its own name."""

    kind = "application"

    def __init__(
        self,
        name: str,
        *,
        services: Sequence[Service] = (),
        jobs: Sequence[Job] = (),
        environments: Sequence[Environment] = (),
        version: str = "0.1.0",
        security: Security | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.name = name
        self.services = list(services)
        if security is not None:
            for service in self.services:
                if service.security is None:
                    service.secure(security)
        self.jobs = [*jobs, *_backups([*services, *jobs])]
        for workload in self.workloads:
            workload.tls = workload.tls or tls
        self.environments = list(environments)
        self.version = version
        self.patches: list[Patch] = []
        self.location = here()

    def __repr__(self) -> str:
        return f"Application({self.name!r})"

    @property
    def workloads(self) -> list[Workload]:
        return [*self.services, *self.jobs]

    @property
    def handles(self) -> list[Handle]:
        """Every resource any workload uses, once, by kind and name."""
        found = {id(handle): handle for workload in self.workloads for handle in workload.handles}
        return sorted(found.values(), key=lambda handle: (handle.kind, handle.name))

    @property
    def databases(self) -> list[Database]:
        return [handle for handle in self.handles if isinstance(handle, Database)]

    def service(self, name: str) -> Service:
        """The service of that name. Raises KeyError, which names those there are."""
        return _named("service", self.services, name)

    def job(self, name: str) -> Job:
        """The job of that name. Raises KeyError, which names those there are."""
        return _named("job", self.jobs, name)

    def database(self, name: str) -> Database:
        """The database of that name. Raises KeyError, which names those there are."""
        return _named("database", self.databases, name)

    def environment(self, name: str) -> Environment:
        """The environment of that name; `dev` is there even if not declared. Raises ModelError."""
        for environment in self.environments:
            if environment.name == name:
                return environment
        if name == "dev":
            return Environment("dev", location=self.location)
        known = ", ".join(sorted({"dev", *(environment.name for environment in self.environments)}))
        raise ModelError(
            [
                Problem(
                    f"application {self.name!r} has no environment {name!r}",
                    self.location,
                    f'declare it with environments=[Environment("{name}", ...)], or use one of: {known}',
                )
            ]
        )

    def patch(
        self, target: Any, kind: str, *, name: str | None = None, environment: str | Iterable[str] = ()
    ) -> Callable[[Patcher], Patcher]:
        """Register a function that changes the compiled objects of `kind` belonging to `target`, in those environments.

        `target` is a service, job, resource, or the application itself (Namespace, policies). The function changes the
        object in place or returns another. Patches run last; one that matches nothing is an error.
        """
        environments = (environment,) if isinstance(environment, str) else tuple(environment)
        location = here()

        def register(function: Patcher) -> Patcher:
            self.patches.append(Patch(target, kind, name, environments, function, location))
            return function

        return register

    def problems(self) -> list[Problem]:
        """Every mistake and doubt, errors first."""
        from sampan.model.validate import check

        return check(self)

    def validate(self) -> list[Problem]:
        """Raise ModelError with every error there is; return the warnings."""
        problems = self.problems()
        if any(problem.severity == "error" for problem in problems):
            raise ModelError(problems)
        return problems


def _named(what: str, things: Sequence[N], name: str) -> N:
    for thing in things:
        if thing.name == name:
            return thing
    raise KeyError(f"no {what} {name!r}; there are: {', '.join(sorted(thing.name for thing in things)) or 'none'}")
