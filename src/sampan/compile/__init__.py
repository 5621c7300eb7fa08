"""Model -> Kubernetes objects. Pure: the same application compiles to the same bytes.

`compile_application` gives the objects, `writer.write` and `writer.check` put them in a directory and compare it,
`local_secrets` gives the binding Secrets of an environment whose backing stores run beside it, `local_certificates` the
certificates of its services.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.compile import backing as _backing
from sampan.compile import config, identity, jobs, network, patches, routing, scaling, workloads
from sampan.compile.bindings import Binding
from sampan.compile.bindings import bindings as _bindings
from sampan.compile.bindings import local_secrets as _local_secrets
from sampan.compile.context import Backing, Context, Item, fresh
from sampan.model.reference import reference_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from sampan.kube.authority import Authority
    from sampan.kube.objects import Object
    from sampan.model import Application, Environment, Job, Service

__all__ = [
    "Backing",
    "Binding",
    "bindings",
    "compile_application",
    "local_certificates",
    "local_secrets",
    "namespace_of",
]


def compile_application(
    app: Application,
    environment: str = "dev",
    *,
    images: Callable[[str], str] | None = None,
    backing: Backing | None = None,
    reference: str | None = None,
) -> list[Object]:
    """The objects of `app` in an environment, in the order they should be created.

    `images` names the image of a service or job; without it REGISTRY/APP/NAME:TAG of the environment. `backing` adds
    the stores to run beside the services; without it they are expected from outside. `reference` is "module:attribute"
    of the application, found by itself where it is a global of its module. Raises ModelError with every mistake.
    """
    app.validate()
    context = _context(app, environment, images, backing, reference)
    return [fresh(item.object) for item in patches.patched(context, _items(context))]


def bindings(app: Application, environment: str = "dev", *, backing: Backing | None = None) -> list[Binding]:
    """The Secrets the objects refer to, which must exist before the pods can start."""
    return _bindings(_context(app, environment, None, backing, None))


def local_secrets(
    app: Application,
    environment: str = "dev",
    *,
    backing: Backing,
    existing: Container[str] = (),
) -> list[Object]:
    """The bindings an environment whose stores run beside the services makes for itself, with fresh passwords.
    `existing`, names of Secrets, are left out."""
    return list(_local_secrets(_context(app, environment, None, backing, None), existing))


def local_certificates(
    app: Application, environment: str = "dev", *, authority: type[Authority], existing: Mapping[str, Object]
) -> list[Object]:
    """The Secrets with the certificates of local services that speak TLS, and with the `authority` that signs them
    where it is not among the `existing` Secrets (by name). Those are left out."""
    context = _context(app, environment, None, None, None)
    made = [base.overridden(context.overrides(base)) for base in app.workloads]
    return list(identity.certificates(context, existing, made, authority))


def namespace_of(app: Application, environment: str = "dev") -> str:
    return _context(app, environment, None, None, None).namespace


def _context(
    app: Application,
    environment: str,
    images: Callable[[str], str] | None,
    backing: Backing | None,
    reference: str | None,
) -> Context:
    found = app.environment(environment)
    named = reference_of(app) if reference is None else reference
    return Context(app, found, images or _image_names(app, found), backing, named)


def _image_names(app: Application, environment: Environment) -> Callable[[str], str]:
    registry = f"{environment.registry.rstrip('/')}/" if environment.registry else ""
    return lambda name: f"{registry}{app.name}/{name}:{environment.tag or app.version}"


def _items(context: Context) -> list[Item]:
    app = context.app
    items = [*config.namespace(context), *network.default_deny(context), *config.config_maps(context)]
    items += _backing.stores(context)
    for base in app.services:
        service: Service = base.overridden(context.overrides(base))
        made = [
            *workloads.service(context, service),
            *scaling.scaling(context, service),
            *routing.ingress(context, service),
            *network.policy(context, service),
        ]
        items += [Item(base, item.object) for item in made]
    for base_job in app.jobs:
        job: Job = base_job.overridden(context.overrides(base_job))
        items += [Item(base_job, item.object) for item in (*jobs.job(context, job), *network.policy(context, job))]
    return items
