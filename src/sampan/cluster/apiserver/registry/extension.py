"""CustomResourceDefinition, webhook configurations and APIService."""

from __future__ import annotations

from typing import ClassVar

from sampan.cluster.apiserver.columns_crd import compile_path
from sampan.cluster.apiserver.registry import structural
from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.faults import DNS_1035_LABEL, DNS_SUBDOMAIN, Faults, maps, sub
from sampan.cluster.apiserver.strategy import Context
from sampan.kube.objects import Object

_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")


class Definition(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec.conversion", {}),
        ("spec.conversion.strategy", "None"),
        ("spec.names", {}),
    )
    immutable = ("spec.group", "spec.scope", "spec.names.plural", "spec.names.kind")

    def default(self, obj: Object) -> None:
        super().default(obj)
        names = sub(obj, "spec", "names")
        kind = names.get("kind")
        if isinstance(kind, str) and kind:
            if not names.get("singular"):
                names["singular"] = kind.lower()
            if not names.get("listKind"):
                names["listKind"] = f"{kind}List"

    def prepare_create(self, obj: Object, ctx: Context) -> None:
        stored = [version.get("name") for version in maps(sub(obj, "spec").get("versions")) if version.get("storage")]
        obj["status"] = {"conditions": [], "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": stored}

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        names, group = sub(spec, "names"), spec.get("group") or ""
        name, wanted = sub(obj, "metadata").get("name"), f"{names.get('plural') or ''}.{group}"
        if name != wanted:
            faults.invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
        faults.name("spec.group", group, DNS_SUBDOMAIN)
        if group and "." not in group:
            faults.invalid("spec.group", group, "should be a domain with at least one dot")
        faults.one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
        for key in ("plural", "singular"):
            faults.name(f"spec.names.{key}", names.get(key), DNS_1035_LABEL)
        for key in ("kind", "listKind"):
            value = names.get(key)
            if not value:
                faults.required(f"spec.names.{key}")
            else:
                for message in DNS_1035_LABEL(value.lower()):
                    faults.invalid(
                        f"spec.names.{key}", value, f"may have mixed case, but should otherwise match: {message}"
                    )
        versions = maps(spec.get("versions"))
        if not versions:
            faults.required("spec.versions", "must have exactly one version marked as storage version")
        elif sum(bool(version.get("storage")) for version in versions) != 1:
            faults.invalid("spec.versions", versions, "must have exactly one version marked as storage version")
        seen: set[str] = set()
        schemas = [sub(version, "schema").get("openAPIV3Schema") for version in versions]
        shared = all(schema == schemas[0] for schema in schemas)  # one for all is told of once
        for index, schema in enumerate(schemas[:1] if shared else schemas):
            where = "spec.validation" if shared else f"spec.versions[{index}].schema"
            if isinstance(schema, dict):
                faults.causes += structural.causes(schema, f"{where}.openAPIV3Schema")
        for index, version in enumerate(versions):
            self._version(faults, version, f"spec.versions[{index}]", seen)

    def _version(self, faults: Faults, version: Object, where: str, seen: set[str]) -> None:
        faults.name(f"{where}.name", version.get("name"), DNS_1035_LABEL)
        if version.get("name") in seen:
            faults.invalid(f"{where}.name", version["name"], "must be unique")
        seen.add(version.get("name") or "")
        schema = sub(version, "schema").get("openAPIV3Schema")
        if schema is None:
            faults.required(f"{where}.schema.openAPIV3Schema", "schemas are required")
        elif schema.get("type") != "object":
            at = f"{where}.schema.openAPIV3Schema.type"
            if schema.get("type"):
                faults.invalid(at, schema["type"], "must be object at the root")
            else:
                faults.required(at, "must not be empty at the root")
        scale = sub(version, "subresources").get("scale")
        if scale is not None:
            for key, prefix in (("specReplicasPath", ".spec"), ("statusReplicasPath", ".status")):
                path = scale.get(key) or ""
                if not path:
                    faults.required(f"{where}.subresources.scale.{key}")
                elif not path.startswith(f"{prefix}."):
                    faults.invalid(f"{where}.subresources.scale.{key}", path, f"should be a json path under {prefix}")
        for index, column in enumerate(maps(version.get("additionalPrinterColumns"))):
            at = f"{where}.additionalPrinterColumns[{index}]"
            if not column.get("name"):
                faults.required(f"{at}.name")
            faults.one_of(f"{at}.type", column.get("type"), _COLUMN_TYPES)
            path = column.get("jsonPath")
            if not path:
                faults.required(f"{at}.jsonPath")
                continue
            try:
                compile_path(path)
            except ValueError as error:
                faults.invalid(f"{at}.jsonPath", path, str(error))


class Webhooks(TableStrategy):
    rows: ClassVar[Rows] = (
        ("webhooks[].failurePolicy", "Fail"),
        ("webhooks[].matchPolicy", "Equivalent"),
        ("webhooks[].namespaceSelector", {}),
        ("webhooks[].objectSelector", {}),
        ("webhooks[].timeoutSeconds", 10),
        ("webhooks[].rules[].scope", "*"),
        ("webhooks[].clientConfig.service.port", 443),
    )

    def validate(self, faults: Faults, obj: Object) -> None:
        for index, hook in enumerate(maps(obj.get("webhooks"))):
            where, config = f"webhooks[{index}]", sub(hook, "clientConfig")
            if not hook.get("name"):
                faults.required(f"{where}.name")
            elif hook["name"].count(".") < 2:
                faults.invalid(
                    f"{where}.name", hook["name"], "should be a domain with at least three segments separated by dots"
                )
            if bool(config.get("url")) == (config.get("service") is not None):
                faults.required(f"{where}.clientConfig", "exactly one of url or service is required")
            if hook.get("matchConditions"):
                from sampan.cluster.apiserver.admission.checks import match_conditions

                match_conditions(faults, maps(hook["matchConditions"]), f"{where}.matchConditions")
            faults.one_of(f"{where}.sideEffects", hook.get("sideEffects"), ("None", "NoneOnDryRun"))
            faults.one_of(f"{where}.failurePolicy", hook.get("failurePolicy"), ("Fail", "Ignore"))
            timeout = hook.get("timeoutSeconds")
            if isinstance(timeout, int) and not 1 <= timeout <= 30:
                faults.invalid(f"{where}.timeoutSeconds", timeout, "the timeout value must be between 1 and 30 seconds")
            if not hook.get("admissionReviewVersions"):
                faults.required(f"{where}.admissionReviewVersions", "must specify one of v1, v1beta1")


class Mutating(Webhooks):
    rows: ClassVar[Rows] = (*Webhooks.rows, ("webhooks[].reinvocationPolicy", "Never"))


_MATCH: Rows = (
    ("matchPolicy", "Equivalent"),
    ("namespaceSelector", {}),
    ("objectSelector", {}),
    ("resourceRules[].scope", "*"),
    ("excludeResourceRules[].scope", "*"),
)


class Policy(TableStrategy):
    rows: ClassVar[Rows] = (
        ("spec.failurePolicy", "Fail"),
        *((f"spec.matchConstraints.{path}", value) for path, value in _MATCH),
    )

    def validate(self, faults: Faults, obj: Object) -> None:
        from sampan.cluster.apiserver.admission.checks import policy

        spec = sub(obj, "spec")
        if spec.get("matchConstraints") is None:
            faults.required("spec.matchConstraints")
        faults.one_of("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"))
        policy(faults, spec)


class Binding(TableStrategy):
    rows: ClassVar[Rows] = tuple((f"spec.matchResources.{path}", value) for path, value in _MATCH)

    def default(self, obj: Object) -> None:
        if sub(obj, "spec").get("matchResources") is not None:
            super().default(obj)

    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        if not spec.get("policyName"):
            faults.required("spec.policyName")
        actions = spec.get("validationActions") or []
        if not actions:
            faults.required("spec.validationActions", "at least one validation action is required")
        for index, action in enumerate(actions):
            faults.one_of(f"spec.validationActions[{index}]", action, ("Audit", "Deny", "Warn"))
        if {"Deny", "Warn"} <= set(actions):
            faults.invalid(
                "spec.validationActions",
                actions,
                "must not contain both Deny and Warn (repeating the same validation failure information in the API"
                " response and headers serves no purpose)",
            )


_ADMISSION = "admissionregistration.k8s.io"
STRATEGIES = {
    (_ADMISSION, "ValidatingAdmissionPolicy"): Policy(),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): Binding(),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): Definition(),
    (_ADMISSION, "MutatingWebhookConfiguration"): Mutating(),
    (_ADMISSION, "ValidatingWebhookConfiguration"): Webhooks(),
}
