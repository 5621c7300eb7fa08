"""The user's own changes to the compiled objects, made last."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.compile.context import Item, fresh
from sampan.model import ModelError, Problem

if TYPE_CHECKING:
    from sampan.compile.context import Context


def patched(context: Context, items: list[Item]) -> list[Item]:
    """Apply every patch for this environment, in the order declared. Raises ModelError for those that match nothing."""
    items = list(items)
    problems = []
    for patch in context.app.patches:
        if patch.environments and context.environment.name not in patch.environments:
            continue
        mine = [index for index, item in enumerate(items) if item.owner is patch.target]
        matching = [
            index
            for index in mine
            if items[index].object["kind"] == patch.kind
            and patch.name in (None, items[index].object["metadata"]["name"])
        ]
        if not matching:
            kinds = sorted({str(items[index].object["kind"]) for index in mine})
            problems.append(
                Problem(
                    f"a patch for the {patch.kind} of {patch.target!r} matches nothing"
                    f" in environment {context.environment.name!r}",
                    patch.location,
                    f"{patch.target!r} is compiled to: {', '.join(kinds) or 'nothing'}",
                )
            )
        for index in matching:
            # Objects share parts (labels, security contexts); a patch must change this one only.
            draft = fresh(items[index].object)
            result = patch.function(draft)
            result = draft if result is None else result
            if not isinstance(result, dict) or not {"apiVersion", "kind", "metadata"} <= result.keys():
                problems.append(
                    Problem(
                        f"a patch for the {patch.kind} of {patch.target!r} returns what is no Kubernetes object",
                        patch.location,
                        "change the manifest in place and return nothing, or return a whole manifest",
                    )
                )
                continue
            items[index] = Item(items[index].owner, result)
    if problems:
        raise ModelError(problems)
    return items
