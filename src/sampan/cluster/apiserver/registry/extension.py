"""Webhook configurations and admission policies. Definitions of custom kinds are in `definitions.py`."""

from __future__ import annotations

from typing import Any, ClassVar

from sampan.cluster.apiserver.registry.base import TableStrategy
from sampan.cluster.apiserver.registry.defaulting import Rows
from sampan.cluster.apiserver.registry.definitions import validate_url
from sampan.cluster.apiserver.registry.faults import DNS_1035_LABEL, DNS_SUBDOMAIN, Faults, maps, sub
from sampan.kube import names
from sampan.kube.errors import Cause
from sampan.kube.objects import Object


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
        hooks = maps(obj.get("webhooks"))
        for index, hook in enumerate(hooks):
            where, config = f"webhooks[{index}]", sub(hook, "clientConfig")
            if hook.get("name") and hook["name"] in [one.get("name") for one in hooks[:index]]:
                faults.duplicate(f"{where}.name", hook["name"])
            if (url := config.get("url")) is not None:
                validate_url(faults, str(url), f"{where}.clientConfig.url")
            if not hook.get("name"):
                faults.required(f"{where}.name")
            elif wrong := names.dns1123_subdomain(hook["name"]):
                faults.invalid(f"{where}.name", hook["name"], ",".join(wrong))
            elif hook["name"].count(".") < 2:
                faults.invalid(
                    f"{where}.name", hook["name"], "should be a domain with at least three segments separated by dots"
                )
            if (url is None) == (config.get("service") is None):
                faults.required(f"{where}.clientConfig", "exactly one of url or service is required")
            if hook.get("matchConditions"):
                from sampan.cluster.apiserver.admission.checks import match_conditions

                match_conditions(faults, maps(hook["matchConditions"]), f"{where}.matchConditions")
            if hook.get("sideEffects") is None:
                faults.required(f"{where}.sideEffects", "must specify one of None, NoneOnDryRun")
            else:
                faults.one_of(f"{where}.sideEffects", hook["sideEffects"], ("None", "NoneOnDryRun"), required=None)
            _rules(faults, hook.get("rules"), f"{where}.rules")
            faults.one_given(f"{where}.failurePolicy", hook.get("failurePolicy"), ("Fail", "Ignore"), required=True)
            faults.one_given(f"{where}.matchPolicy", hook.get("matchPolicy"), ("Equivalent", "Exact"))
            timeout = hook.get("timeoutSeconds")
            if isinstance(timeout, int) and not 1 <= timeout <= 30:
                faults.invalid(f"{where}.timeoutSeconds", timeout, "the timeout value must be between 1 and 30 seconds")
            versions = hook.get("admissionReviewVersions") or []
            if versions and not {"v1", "v1beta1"} & set(versions):
                detail = "must include at least one of v1, v1beta1"
                faults.invalid(f"{where}.admissionReviewVersions", versions, detail)
            for position, version in enumerate(versions):
                path = f"{where}.admissionReviewVersions[{position}]"
                for problem in DNS_1035_LABEL(version or ""):
                    faults.invalid(path, version or "", problem)
                if version in versions[:position]:
                    faults.invalid(path, version, "duplicate version")
            if not hook.get("admissionReviewVersions"):
                faults.required(f"{where}.admissionReviewVersions", "must specify one of v1, v1beta1")


def _rules(faults: Faults, rules: Any, path: str) -> None:
    """What requests a hook or policy is about: each part of a rule is required."""
    for index, rule in enumerate(maps(rules)):
        where = f"{path}[{index}]"
        for part in ("operations", "apiGroups", "apiVersions", "resources"):
            values = rule.get(part) or []
            if not values:
                faults.required(f"{where}.{part}")
            for position, value in enumerate(values):
                if part == "operations":
                    faults.one_of(f"{where}.{part}[{position}]", value or "", _OPERATIONS, required=None)
                elif not value and part != "apiGroups":
                    faults.required(f"{where}.{part}[{position}]")
        if rule.get("scope") is not None:
            faults.one_of(f"{where}.scope", rule["scope"], ("*", "Cluster", "Namespaced"), required=None)


_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")


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
    def validate_update(self, new: Object, old: Object) -> list[Cause]:
        faults = Faults()
        if new.get("status") != old.get("status"):
            faults.conditions("status.conditions", sub(new, "status").get("conditions"))
        return super().validate_update(new, old) + faults.causes

    rows: ClassVar[Rows] = (
        ("spec.failurePolicy", "Fail"),
        *((f"spec.matchConstraints.{path}", value) for path, value in _MATCH),
    )

    def validate(self, faults: Faults, obj: Object) -> None:
        from sampan.cluster.apiserver.admission.checks import policy

        spec = sub(obj, "spec")
        if spec.get("matchConstraints") is None:
            faults.required("spec.matchConstraints")
        else:
            if not spec["matchConstraints"].get("resourceRules"):
                faults.required("spec.matchConstraints.resourceRules")
            for part in ("resourceRules", "excludeResourceRules"):
                _rules(faults, spec["matchConstraints"].get(part), f"spec.matchConstraints.{part}")
        faults.one_given("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"), required=True)
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


OPERATIONS = ("*", "CONNECT", "CREATE", "UPDATE")
"""What a mutating policy may be about."""


def _only_writes(faults: Faults, rules: Object, path: str) -> None:
    for rule in maps(rules.get("resourceRules")):
        for operation in rule.get("operations") or ():
            faults.one_of(f"{path}.resourceRules.operations", operation, OPERATIONS)


class MutatingPolicy(TableStrategy):
    rows: ClassVar[Rows] = Policy.rows

    def validate(self, faults: Faults, obj: Object) -> None:
        from sampan.cluster.apiserver.admission.checks import mutating_policy

        spec = sub(obj, "spec")
        constraints = spec.get("matchConstraints")
        if constraints is None:
            faults.required("spec.matchConstraints")
        else:
            if not constraints.get("resourceRules"):
                faults.required("spec.matchConstraints.resourceRules")
            _only_writes(faults, constraints, "spec.matchConstraints")
        faults.one_given("spec.failurePolicy", spec.get("failurePolicy"), ("Fail", "Ignore"), required=True)
        mutating_policy(faults, spec)
        faults.one_of("spec.reinvocationPolicy", spec.get("reinvocationPolicy"), ("IfNeeded", "Never"))


class MutatingBinding(Binding):
    def validate(self, faults: Faults, obj: Object) -> None:
        spec = sub(obj, "spec")
        faults.name("spec.policyName", spec.get("policyName"), DNS_SUBDOMAIN)
        _only_writes(faults, sub(spec, "matchResources"), "spec.matchResources")


_ADMISSION = "admissionregistration.k8s.io"
STRATEGIES = {
    (_ADMISSION, "MutatingAdmissionPolicy"): MutatingPolicy(),
    (_ADMISSION, "MutatingAdmissionPolicyBinding"): MutatingBinding(),
    (_ADMISSION, "ValidatingAdmissionPolicy"): Policy(),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): Binding(),
    (_ADMISSION, "MutatingWebhookConfiguration"): Mutating(),
    (_ADMISSION, "ValidatingWebhookConfiguration"): Webhooks(),
}
