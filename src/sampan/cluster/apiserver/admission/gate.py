"""Where a write meets admission by others.

The pipeline decides a write in one synchronous step, so that no other write comes between; a webhook takes its time.
So the step is broken off with `NeedsReview`, the webhooks are asked with nothing held, and the step is made again: what
they said counts as long as the object they saw is still the present one, else they are asked again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from sampan.cluster.apiserver.admission.attributes import Attributes
from sampan.cluster.apiserver.admission.builtin import Builtin
from sampan.cluster.apiserver.call import Call
from sampan.cluster.apiserver.decode import json_copy
from sampan.cluster.apiserver.kind import Kind
from sampan.cluster.apiserver.versions.conversion import NeedsConversion
from sampan.cluster.store import Entry
from sampan.kube.errors import conflict
from sampan.kube.objects import Object

if TYPE_CHECKING:
    from sampan.cluster.apiserver.admission.mutations import Mutations
    from sampan.cluster.apiserver.admission.policies import Policies
    from sampan.cluster.apiserver.admission.webhooks import Hook, Webhooks
    from sampan.cluster.apiserver.server import ApiServer

GROUP = "admissionregistration.k8s.io"
TABLES = {
    "mutating": f"{GROUP}/mutatingwebhookconfigurations",
    "validating": f"{GROUP}/validatingwebhookconfigurations",
}
POLICIES = f"{GROUP}/validatingadmissionpolicies"
MUTATING_POLICIES = f"{GROUP}/mutatingadmissionpolicies"
ROUNDS = 20
"""Times one write may be reviewed because others changed the object meanwhile."""


class NeedsReview(Exception):
    """A write that stops until webhooks have seen it."""

    def __init__(self, phase: str, attributes: Attributes, hooks: list[Hook]) -> None:
        super().__init__(phase)
        self.phase, self.attributes, self.hooks = phase, attributes, hooks


class Reviewed(Struct):
    """What the webhooks of a phase said of one state: `seen` tells which, `object` is what they made of it."""

    seen: tuple[str, str]
    object: Object
    uid: str = ""


class Gate:
    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self._webhooks: Webhooks | None = None
        self._policies: Policies | None = None
        self._mutations: Mutations | None = None
        self.builtin = Builtin(server)

    @property
    def webhooks(self) -> Webhooks:
        if self._webhooks is None:
            from sampan.cluster.apiserver.admission.webhooks import Webhooks

            self._webhooks = Webhooks(self.server)
        return self._webhooks

    @property
    def policies(self) -> Policies:
        if self._policies is None:
            from sampan.cluster.apiserver.admission.policies import Policies

            self._policies = Policies(self.server)
        return self._policies

    @property
    def mutations(self) -> Mutations:
        if self._mutations is None:
            from sampan.cluster.apiserver.admission.mutations import Mutations

            self._mutations = Mutations(self.server)
        return self._mutations

    def _idle(self, phase: str, kind: Kind) -> bool:
        return not self.server.store.table(TABLES[phase]).entries or kind.resource.group == GROUP

    # -- within the step of a write

    def mutate(self, call: Call, new: Object, old: Object | None) -> None:
        """The server's own plugins, policies, webhooks; the first two again where others changed the object.

        Raises NeedsReview, ApiError.
        """
        self.builtin.mutate(call, new, old)
        foreign = call.served.resource.group != GROUP
        policies = bool(foreign and self.server.store.table(MUTATING_POLICIES).entries)
        idle = self._idle("mutating", call.served)
        if not policies and idle:
            return
        again = self.mutations.apply(self._attributes(call, new, old)) if policies else None
        if not idle:
            done = self._done(call, "mutating", new, old)
            if done is None:
                self._ask("mutating", call, new, old)
            elif done.object != new:
                again = again or []
                new.clear()
                new.update(json_copy(done.object))
        if again is not None:
            self.builtin.mutate(call, new, old)
            if again:
                self.mutations.apply(self._attributes(call, new, old), again)

    def validate(self, call: Call, new: Object, old: Object | None) -> None:
        """Raises ApiError where a plugin, policy or quota refuses, NeedsReview where webhooks are to be asked."""
        self.builtin.validate(call, new, old)
        if self.server.store.table(POLICIES).entries and call.served.resource.group != GROUP:
            self.policies.check(self._attributes(call, new, old))
        if not self._idle("validating", call.served):
            done = self._done(call, "validating", new, old)
            if done is None:
                self._ask("validating", call, new, old)
            elif old is None:
                new["metadata"]["uid"] = done.uid
        self.builtin.quotas.check(call, new, old)

    def _attributes(self, call: Call, new: Object, old: Object | None) -> Attributes:
        operation = "CREATE" if old is None else "UPDATE"
        return Attributes(self.server, call, call.served, operation, new["metadata"].get("name", ""), new, old)

    @staticmethod
    def _state(new: Object, old: Object | None) -> tuple[str, str]:
        return new["metadata"].get("name", ""), old["metadata"]["resourceVersion"] if old else ""

    def _done(self, call: Call, phase: str, new: Object, old: Object | None) -> Reviewed | None:
        done: Reviewed | None = (call.reviewed or {}).get(phase)
        return done if done is not None and done.seen == self._state(new, old) else None

    def _ask(self, phase: str, call: Call, new: Object, old: Object | None) -> None:
        attributes = self._attributes(call, new, old)
        hooks = self.webhooks.matching(TABLES[phase], attributes)
        if hooks:
            raise NeedsReview(phase, attributes, hooks)

    # -- outside of it

    async def review(self, need: NeedsReview) -> None:
        """Ask the webhooks a write waits for, and keep what they said. Raises ApiError when they refuse."""
        call, attributes = need.attributes.call, need.attributes
        assert attributes.new is not None
        call.reviewed = call.reviewed or {}
        rounds = call.reviewed["rounds"] = call.reviewed.get("rounds", 0) + 1
        if rounds > ROUNDS:
            resource = attributes.kind.resource
            raise conflict(resource.plural, attributes.name, "the object is being changed by others", resource.group)
        seen = self._state(attributes.new, attributes.old)
        if need.phase == "mutating":
            made = await self.webhooks.mutate(attributes, need.hooks)
        else:
            await self.webhooks.validate(attributes, need.hooks)
            made = attributes.new
        call.reviewed[need.phase] = Reviewed(seen, made, made["metadata"].get("uid", ""))

    async def settle(self, call: Call) -> None:
        """After a write: say in the quotas it uses more of how much is used."""
        charged, call.charged = call.charged, ()
        await self.builtin.quotas.settle(charged)

    async def deletion(self, call: Call, kind: Kind, entry: Entry | None) -> None:
        """Ask about a deletion. Raises ApiError when it is refused."""
        tables = self.server.store.table
        if entry is not None:
            self.builtin.deletion(kind, entry.key)
        if entry is None or kind.resource.group == GROUP:
            return
        if not (tables(POLICIES).entries or any(tables(table).entries for table in TABLES.values())):
            return
        name = entry.key.rpartition("/")[2]
        attributes = Attributes(self.server, call, kind, "DELETE", name, None, entry.object)
        while True:
            try:
                await self._deletion(attributes)
                return
            except NeedsConversion as need:
                await need.satisfy()

    async def _deletion(self, attributes: Attributes) -> None:
        tables = self.server.store.table
        for phase, table in TABLES.items():
            hooks = self.webhooks.matching(table, attributes)
            if phase == "validating" and tables(POLICIES).entries:
                self.policies.check(attributes)
            if hooks:
                await self.webhooks.validate(attributes, hooks)

    async def stop(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.stop()
