"""Which changes of an event are found, and which are not."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import pydantic
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from sampan import Application, Service, Topic
from sampan.cli.main import main
from sampan.service.messaging.evolution import Lock, Locked, changes, load, save, schema_of


class Line(Struct):
    sku: str
    count: int


class LineWithPrice(Struct):
    sku: str
    count: int
    price: float


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class MoreColours(Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


class Card(Struct, tag="card"):
    number: str


class Cash(Struct, tag="cash"):
    pass


class Cheque(Struct, tag="cheque"):
    pass


class Tree(Struct):
    children: list[Tree]
    name: str


def event(**fields: Any) -> type:
    return defstruct("Event", [(n, *f) if isinstance(f, tuple) else (n, f) for n, f in fields.items()])


def found(old: type, new: type) -> list[tuple[str, str]]:
    return [(c.path, c.who) for c in changes(Locked(schema_of(old)), Locked(schema_of(new)))]


STORED, OLD = "stored events", "old consumers"
BASE = {"id": int, "name": str}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (BASE, BASE, []),
        (BASE, {**BASE, "note": (str, "")}, []),
        (BASE, {**BASE, "note": (str | None, None)}, []),
        (BASE, {**BASE, "note": (str | UnsetType, UNSET)}, []),
        (BASE, {**BASE, "note": str}, [("note", STORED)]),
        (BASE, {"id": int}, [("name", OLD)]),
        (BASE, {"id": int, "title": str}, [("name", OLD), ("title", STORED)]),
        ({**BASE, "note": (str, "")}, BASE, []),
        ({**BASE, "note": (str, "")}, {**BASE, "note": str}, [("note", STORED)]),
        (BASE, {**BASE, "id": str}, [("id", STORED), ("id", OLD)]),
        (BASE, {**BASE, "id": float}, [("id", OLD)]),
        ({"id": float}, {"id": int}, [("id", STORED)]),
        (BASE, {**BASE, "name": str | None}, [("name", OLD)]),
        ({"name": str | None}, {"name": str}, [("name", STORED)]),
        ({"lines": list[Line]}, {"lines": list[LineWithPrice]}, [("lines[].price", STORED)]),
        ({"lines": list[LineWithPrice]}, {"lines": list[Line]}, [("lines[].price", OLD)]),
        ({"by": dict[str, Line]}, {"by": dict[str, LineWithPrice]}, [("by{}.price", STORED)]),
        ({"at": tuple[int, int]}, {"at": tuple[int, int, int]}, [("at", STORED)]),
        ({"c": Colour}, {"c": MoreColours}, [("c", OLD)]),
        ({"c": MoreColours}, {"c": Colour}, [("c", STORED)]),
        ({"p": Card | Cash}, {"p": Card | Cash | Cheque}, [("p", OLD)]),
        ({"p": Card | Cash | Cheque}, {"p": Card | Cash}, [("p", STORED)]),
        ({"n": str}, {"n": Annotated[str, Meta(max_length=5)]}, [("n", STORED)]),
        ({"n": Annotated[str, Meta(max_length=5)]}, {"n": Annotated[str, Meta(max_length=9)]}, [("n", OLD)]),
        ({"n": Annotated[int, Meta(ge=1)]}, {"n": Annotated[int, Meta(ge=3)]}, [("n", STORED)]),
        ({"n": Any}, {"n": int}, [("n", STORED)]),
        ({"n": int}, {"n": Any}, [("n", OLD)]),
        ({"t": Tree}, {"t": Tree}, []),
    ],
)
def test_structs(old: dict[str, Any], new: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(event(**old), event(**new)) == expected


def test_a_field_that_becomes_optional_is_removed_in_two_steps() -> None:
    required, optional = event(id=int, name=str), event(id=int, name=(str, ""))
    assert found(required, optional) == [] and found(optional, event(id=int)) == []


def test_unknown_fields_that_are_forbidden() -> None:
    strict = defstruct("Event", [("id", int)], forbid_unknown_fields=True)
    assert found(strict, event(id=int, note=(str, ""))) == [("note", OLD)]
    assert found(event(id=int, note=(str, "")), strict) == [("note", STORED)]


def test_pydantic_models() -> None:
    old = pydantic.create_model("Event", id=(int, ...), name=(str | None, None))
    new = pydantic.create_model("Event", id=(int, ...), name=(str, ...))
    assert found(old, old) == []
    assert found(old, new) == [("name", STORED), ("name", STORED)]  # required now, and no longer null


def test_a_change_says_how_to_mend_it() -> None:
    (change,) = changes(Locked(schema_of(event(id=int))), Locked(schema_of(event(id=int, note=str))))
    assert str(change) == "note: a new field without a default; stored events break: give it a default"


def test_keys_and_partitions() -> None:
    schema = schema_of(event(id=int))
    keyed = Locked(schema, key="id")
    assert [c.path for c in changes(Locked(schema), keyed)] == ["key='id'"]
    assert [c.path for c in changes(keyed, Locked(schema, key="id", partitions=9))] == ["partitions=9"]
    assert changes(Locked(schema), Locked(schema, partitions=9)) == []


def test_the_lock_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    lock = Lock({"t": Locked(schema_of(Tree), 2, "name", 4)})
    path = tmp_path / "topics.lock.json"
    assert load(path) is None
    save(path, lock)
    assert load(path) == lock
    path.write_text("{")
    with pytest.raises(ValueError, match=r"topics\.lock\.json"):
        load(path)


SYSTEM = """
from msgspec import Struct
from sampan import Application, Service, Topic

class Placed(Struct):
    number: int
    FIELD

placed = Topic("placed", Placed, key="number")
app = Application("evolving", services=[Service("a", uses=[placed.publish(), placed.subscribe("h:on", group="g")])])
"""


def test_the_commands(tmp_path: Path, capfd: Any, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setattr(sys, "path", [*sys.path])

    def sampan(field: str, *words: str) -> tuple[int, str]:
        (tmp_path / "system.py").write_text(SYSTEM.replace("FIELD", field))
        sys.modules.pop("system", None)
        code = main(["topics", words[0], str(tmp_path), *words[1:]])
        sys.modules.pop("system", None)
        out, error = capfd.readouterr()
        return code, out + error

    code, said = sampan("", "check")
    assert code == 2 and "sampan topics lock" in said
    assert sampan("", "lock")[0] == 0
    assert sampan("", "check") == (0, "")
    code, said = sampan("note: str = ''", "check")
    assert code == 0 and "nobody breaks" in said
    code, said = sampan("note: str", "check")
    assert code == 1 and "topic placed: note: a new field without a default" in said
    code, said = sampan("note: str", "lock")
    assert code == 1 and "--accept" in said
    assert sampan("note: str", "lock", "--accept")[0] == 0
    assert sampan("note: str", "check") == (0, "")
    assert main(["asyncapi", str(tmp_path)]) == 0
    assert json.loads(capfd.readouterr().out)["channels"]["placed"]["address"] == "placed"
    sys.modules.pop("system", None)


def test_topics_of_an_application_are_recorded() -> None:
    from sampan.service.messaging.evolution import current

    topic = Topic("trees", Tree, key="name", partitions=3, version=2)
    lock = current(Application("app", services=[Service("s", uses=[topic.publish()])]))
    assert lock.topics == {"trees": Locked(schema_of(Tree), 2, "name", 3)}
