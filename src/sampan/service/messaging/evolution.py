"""Whether the events of a topic may change the way they did: old events, and consumers not yet replaced, must cope.

Two readers are thought of: new consumers reading events stored before, and old consumers reading new events (there
are both during every rolling update, and for as long as a stream keeps its events). Unknown fields are passed over by
consumers, so a new field needs a default and nothing more. Schemas are JSON Schema 2020-12, as msgspec and pydantic
make them; what is recorded lies in `topics.lock.json`, which belongs in version control.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from sampan.model import Application, Topic

LOCK: Final = "topics.lock.json"

Schema = dict[str, Any]


class Change(Struct, frozen=True):
    """`who` breaks: "stored events" or "old consumers". `path` leads to the field, as in `order.items[].price`."""

    path: str
    what: str
    who: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path or 'the event'}: {self.what}; {self.who} break: {self.remedy}"


class Locked(Struct, omit_defaults=True):
    schema: Schema
    version: int = 1
    key: str | None = None
    partitions: int = 8


class Lock(Struct):
    topics: dict[str, Locked]
    format: int = 1


def schema_of(type: Any) -> Schema:
    """The JSON Schema of an event type; names under `$defs`."""
    made = getattr(type, "model_json_schema", None)
    schema: Schema = made() if made is not None else msgspec.json.schema(type)
    return schema


def topics_of(application: Application) -> list[Topic[Any]]:
    return [handle for handle in application.handles if isinstance(handle, Topic)]


def current(application: Application) -> Lock:
    """What would be recorded now."""
    return Lock(
        {
            topic.name: Locked(schema_of(topic.type), topic.version, topic.key, topic.partitions)
            for topic in topics_of(application)
        }
    )


def load(path: Path) -> Lock | None:
    """None when there is no such file. ValueError when it is not one of ours."""
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lock)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{path}: {error}; restore it from version control") from None


def save(path: Path, lock: Lock) -> None:
    text = msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2)
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(text + b"\n")
    beside.replace(path)


def changes(old: Locked, new: Locked) -> list[Change]:
    """What of `new` does not go with `old`."""
    found = list(_Comparison(old.schema, new.schema).run())
    if old.key != new.key:
        found.append(
            Change(
                f"key={new.key!r}",
                f"was key={old.key!r}",
                "old consumers",
                "events of one key would no longer follow one another; publish them as a new topic",
            )
        )
    elif new.key and old.partitions != new.partitions:
        found.append(
            Change(
                f"partitions={new.partitions}",
                f"was partitions={old.partitions}",
                "stored events",
                "keys would change lanes while events are about; let the topic run empty first, then record it anew",
            )
        )
    return found


_NARROWS_UP: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems")  # a larger one takes less
_NARROWS_DOWN: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")  # a smaller one takes less
_OTHER: Final = ("pattern", "format", "multipleOf", "contentEncoding")
_STORED, _OLD = "stored events", "old consumers"
_NEW_TOPIC: Final = "keep the field as it was and add another one beside it, or publish a new topic"


class _Comparison:
    def __init__(self, old: Schema, new: Schema) -> None:
        self.old, self.new = old, new
        self._seen: set[tuple[str, str]] = set()

    def run(self) -> Iterator[Change]:
        yield from self._compare(self.old, self.new, "")

    def _compare(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        refs = old.get("$ref", ""), new.get("$ref", "")
        if refs[0] and refs[1]:
            if refs in self._seen:
                return
            self._seen.add(refs)
        olds, news = _kinds(old, self.old), _kinds(new, self.new)
        if "any" in news and "any" not in olds:
            yield Change(path, f"may be anything, was {_words(olds)}", _OLD, _NEW_TOPIC)
            return
        if "any" in olds:
            if "any" not in news:
                yield Change(path, f"is {_words(news)} only, was anything", _STORED, _NEW_TOPIC)
            return
        for kind, one in olds.items():
            match = news.get("number" if kind == "integer" and kind not in news else kind)
            if match is None:
                yield Change(path, f"is {_words(news)}, was {_words(olds)}", _STORED, _NEW_TOPIC)
            else:
                yield from self._same_kind(one, match, path)
        for kind in news:
            if kind not in olds and not (kind == "integer" and "number" in olds):
                remedy = "have every consumer take it before anybody publishes it, then record it; " + _NEW_TOPIC
                yield Change(path, f"may be {kind} now, was {_words(olds)}", _OLD, remedy)

    def _same_kind(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        yield from _limits(old, new, path)
        if "properties" in old or "properties" in new:
            yield from self._fields(old, new, path)
        for name, step in (("items", "[]"), ("additionalProperties", "{}")):
            before, after = old.get(name), new.get(name)
            if isinstance(before, dict) and isinstance(after, dict):
                yield from self._compare(before, after, path + step)
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(before) != len(after):
            yield Change(path, f"has {len(after)} items, had {len(before)}", _STORED, _NEW_TOPIC)
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            yield from self._compare(one, other, f"{path}[{number}]")

    def _fields(self, old: Schema, new: Schema, path: str) -> Iterator[Change]:
        befores, afters = old.get("properties", {}), new.get("properties", {})
        needed_before, needed_now = set(old.get("required", ())), set(new.get("required", ()))
        for name in befores:
            place = f"{path}.{name}".lstrip(".")
            if name not in afters:
                if name in needed_before:
                    remedy = "keep it until no old consumer runs: give it a default first, record that, then remove it"
                    yield Change(place, "a required field was removed or renamed", _OLD, remedy)
                if new.get("additionalProperties") is False:
                    yield Change(
                        place, "was removed, and unknown fields are forbidden", _STORED, "allow unknown fields"
                    )
                continue
            if name in needed_now - needed_before:
                yield Change(place, "is required now", _STORED, "give it a default: events stored before may lack it")
            yield from self._compare(befores[name], afters[name], place)
        for name in afters:
            if name in befores:
                continue
            place = f"{path}.{name}".lstrip(".")
            if name in needed_now:
                yield Change(place, "a new field without a default", _STORED, "give it a default")
            if old.get("additionalProperties") is False:
                remedy = "allow unknown fields in the consumers first, record that, then add it"
                yield Change(place, "is new, and old consumers forbid unknown fields", _OLD, remedy)


def _kinds(schema: Schema, root: Schema) -> dict[str, Schema]:
    """The alternatives of `schema` by kind: a JSON type, the values of an enumeration, the tag of an object."""
    while "$ref" in schema:
        schema = root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {})
    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if several:
        return {kind: one for part in several for kind, one in _kinds(part, root).items()}
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return {f"the value {value!r}": {} for value in values}
    types = schema.get("type")
    if types is None:
        return {"object" if "properties" in schema else "any": schema}
    if types == "object" and (tag := _tag(schema)):
        return {f"a {tag}": schema}
    return dict.fromkeys([types] if isinstance(types, str) else types, schema)


def _tag(schema: Schema) -> str:
    """The value of the field that tells the Structs of a union apart."""
    for field in schema.get("properties", {}).values():
        values = field.get("enum") or ([field["const"]] if "const" in field else [])
        if len(values) == 1:
            return str(values[0])
    return ""


def _limits(old: Schema, new: Schema, path: str) -> Iterator[Change]:
    for name in (*_NARROWS_UP, *_NARROWS_DOWN, *_OTHER):
        before, after = old.get(name), new.get(name)
        if before == after or (name.endswith("Items") and "prefixItems" in old):
            continue
        what = f"{name} is {after}, was {before}"
        narrower = before is None or (
            after is not None and name not in _OTHER and (after > before) == (name in _NARROWS_UP)
        )
        if narrower or name in _OTHER:
            yield Change(path, what, _STORED, "leave it as it was, and check the rest in the handler")
        else:
            yield Change(path, what, _OLD, "widen it in every consumer first, record that, then publish more")


def _words(kinds: dict[str, Schema]) -> str:
    return " or ".join(kinds)
