"""Manifests in, manifests out."""

from __future__ import annotations

import time

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from sampan.kube import yaml

TEXT = """\
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: a
      image: x
    - name: b
      args: ["22:22", 1:30, 2001-01-01]
---
# nothing here
---
kind: Second
on: yes
"""


def test_documents_lines_and_scalars() -> None:
    first, second = yaml.load_documents(TEXT, "web.yaml")
    assert first.object["spec"]["containers"][1]["args"] == ["22:22", "1:30", "2001-01-01"]
    assert first.line_of("spec.containers[1].args") == 9
    assert first.line_of("spec.containers[1].nothing") == 8
    assert (first.line, second.line) == (1, 13)
    assert second.object == {"kind": "Second", "true": True}


def test_exponents_and_octal() -> None:
    assert yaml.load("a: 1e3\nb: 0777\nc: '1e3'\nd: 0x1F\ne: ~\nf: -1.5\ng: [y, N, 'y']") == [
        {"a": 1000.0, "b": 511, "c": "1e3", "d": 31, "e": None, "f": -1.5, "g": [True, False, "y"]}
    ]


def test_anchors_and_merges() -> None:
    assert yaml.load("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}") == [{"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'key "a" already set in map'),
        ("a:\n\t- b\n", 2, "cannot start any token"),
        ("a: [1, 2\nb: 3\n", 2, "parsing a flow sequence"),
        ('{"a": 1, "a": 2}', 1, 'key "a" already set'),
        ("a: !!python/object:os.system x", 1, "cannot be read"),
        ("? {a: b}\n: c", 1, "a key must be plain text"),
    ],
)
def test_faults_name_the_place(text: str, line: int, problem: str) -> None:
    with pytest.raises(yaml.YamlError, match=problem) as caught:
        yaml.load_documents(text, "x.yaml")
    assert caught.value.line == line
    assert str(caught.value).startswith(f"x.yaml:{line}:")


def test_alias_bombs_are_refused_quickly() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    started = time.perf_counter()
    with pytest.raises(yaml.YamlError, match="too large"):
        yaml.load("\n".join(rows))
    with pytest.raises(yaml.YamlError):
        yaml.load("[" * 100_000)
    with pytest.raises(yaml.YamlError):
        yaml.load('{"a":' * 100_000)
    assert time.perf_counter() - started < 20


def test_indented_json_and_bytes() -> None:
    assert yaml.load(b'\xef\xbb\xbf{\n\t"a": [1]\n}') == [{"a": [1]}]
    with pytest.raises(yaml.YamlError, match="UTF-8"):
        yaml.load(b"\xff\xfe")


def test_dump_is_conventional_and_stable() -> None:
    obj = {
        "spec": {"z": 1, "a": ["on", "1", "1e3", "y", "a\nb\n", "22:22"]},
        "metadata": {"labels": {}, "name": "x"},
        "kind": "K",
        "apiVersion": "v1",
    }
    text = yaml.dump(obj)
    assert text == (
        "apiVersion: v1\nkind: K\nmetadata:\n  name: x\n  labels: {}\nspec:\n  a:\n  - 'on'\n  - '1'\n  - '1e3'\n"
        "  - 'y'\n  - |\n    a\n    b\n  - '22:22'\n  z: 1\n"
    )
    assert yaml.dump(dict(reversed(obj.items()))) == text


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1), VALUES))
def test_what_is_dumped_reads_back(obj: dict[str, object]) -> None:
    text = yaml.dump(obj)
    assert yaml.load(text) == [obj]
    assert pyyaml.safe_load(text) is not None or obj is None
