"""From text to a tree (the grammar of the CEL specification), with the column of every node for messages."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sampan.cluster.apiserver.cel.values import UInt

MAX_DEPTH = 60


class SyntaxFault(ValueError):
    """An expression that does not compile; the message shows the place, as upstream's does."""

    def __init__(self, text: str, at: int, message: str) -> None:
        line = text.count("\n", 0, at) + 1
        column = at - (text.rfind("\n", 0, at) + 1)
        shown = text.split("\n")[line - 1]
        super().__init__(f"ERROR: <input>:{line}:{column + 1}: {message}\n | {shown}\n | {'.' * column}^")


class Node(NamedTuple):
    """`kind` is one of literal, ident, select, index, call, list, map, struct, and, or, if; the rest as it needs.

    The `value` of a list or map says of each part whether it is left out when it is an absent optional; that of a
    struct holds (field, the same) of each.
    """

    kind: str
    at: int
    name: str = ""
    value: Any = None
    parts: tuple[Node, ...] = ()
    target: Node | None = None
    optional: bool = False


class Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKENS = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<string>[rRbB]{0,2}(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<float>\d+\.\d+(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+[uU]?|\d+[uU]?)
    |(?P<ident>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<op>\|\||&&|==|!=|<=|>=|\.\?|\[\?|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|X[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
RELATIONS = ("==", "!=", "<", "<=", ">", ">=", "in")
_LITERALS = {"true": True, "false": False, "null": None}


def tokens(text: str) -> list[Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKENS.match(text, at)
        if match is None:
            raise SyntaxFault(text, at, f"Syntax error: token recognition error at: '{text[at]}'")
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(Token(kind, match[0], at))
        at = match.end()
    return [*found, Token("end", "<EOF>", len(text))]


def _text(raw: str) -> str | bytes:
    quote = min(i for i in (raw.find('"'), raw.find("'")) if i >= 0)
    marks, body = raw[:quote].lower(), raw[quote:]
    width = 3 if body[:3] in ('"""', "'''") else 1
    body = body[width:-width]

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xXuU" and len(code) > 1:
            return chr(int(code[1:], 16))
        if len(code) == 3:
            return chr(int(code, 8))
        return _ESCAPES.get(code, code)

    if "r" not in marks:
        body = _ESCAPE.sub(one, body)
    return body.encode() if "b" in marks else body


class Parser:
    """Raises SyntaxFault."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.position = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.position]

    def take(self, *texts: str) -> Token | None:
        token = self.token
        if token.kind in ("op", "ident") and token.text in texts:
            self.position += 1
            return token
        return None

    def expect(self, text: str) -> Token:
        return self.take(text) or self.fail()

    def fail(self) -> Any:
        raise SyntaxFault(self.text, self.token.at, f"Syntax error: mismatched input '{self.token.text}'")

    def parse(self) -> Node:
        node = self.expression()
        if self.token.kind != "end":
            raise SyntaxFault(
                self.text, self.token.at, f"Syntax error: extraneous input '{self.token.text}' expecting <EOF>"
            )
        return node

    def expression(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SyntaxFault(self.text, self.token.at, "expression recursion limit exceeded")
        node = self.logical("||", "or", lambda: self.logical("&&", "and", self.relation))
        if mark := self.take("?"):
            then = self.logical("||", "or", lambda: self.logical("&&", "and", self.relation))
            self.expect(":")
            node = Node("if", mark.at, parts=(node, then, self.expression()))
        self.depth -= 1
        return node

    def logical(self, operator: str, kind: str, operand: Any) -> Node:
        node: Node = operand()
        while mark := self.take(operator):
            node = Node(kind, mark.at, parts=(node, operand()))
        return node

    def relation(self) -> Node:
        node = self.binary(("+", "-"), lambda: self.binary(("*", "/", "%"), self.unary))
        while mark := self.take(*RELATIONS):
            other = self.binary(("+", "-"), lambda: self.binary(("*", "/", "%"), self.unary))
            name = "@in" if mark.text == "in" else f"_{mark.text}_"
            node = Node("call", mark.at, name, parts=(node, other))
        return node

    def binary(self, operators: tuple[str, ...], operand: Any) -> Node:
        node: Node = operand()
        while mark := self.take(*operators):
            node = Node("call", mark.at, f"_{mark.text}_", parts=(node, operand()))
        return node

    def unary(self) -> Node:
        if mark := self.take("!"):
            return Node("call", mark.at, "!_", parts=(self.unary(),))
        if mark := self.take("-"):
            if self.token.kind in ("int", "float"):
                number = self.member()
                if number.kind == "literal":
                    return number._replace(value=-number.value)
                return Node("call", mark.at, "-_", parts=(number,))
            return Node("call", mark.at, "-_", parts=(self.unary(),))
        return self.member()

    def member(self) -> Node:
        node = self.primary()
        while mark := self.take(".", ".?", "[", "[?", "{"):
            if mark.text == "{":
                node = self.structure(node, mark)
                continue
            if mark.text[0] == "[":
                index = self.expression()
                self.expect("]")
                node = Node("index", mark.at, parts=(index,), target=node, optional=len(mark.text) == 2)
                continue
            if self.token.kind != "ident":
                self.fail()
            name = self.token.text
            self.position += 1
            if mark.text == "." and (bracket := self.take("(")):
                node = Node("call", bracket.at, name, parts=self.arguments(")"), target=node)
            else:
                node = Node("select", mark.at, name, target=node, optional=len(mark.text) == 2)
        return node

    def structure(self, named: Node, start: Token) -> Node:
        """`Object.spec{replicas: 1}`: the names of the fields are `value`."""
        name = _path(named)
        if not name:
            self.position -= 1
            self.fail()
        fields, parts = [], []
        while not self.take("}"):
            optional = self.take("?") is not None
            if self.token.kind != "ident":
                self.fail()
            fields.append((self.token.text, optional))
            self.position += 1
            self.expect(":")
            parts.append(self.expression())
            if not self.take(","):
                self.expect("}")
                break
        return Node("struct", start.at, name, tuple(fields), tuple(parts))

    def arguments(self, end: str) -> tuple[Node, ...]:
        found = []
        while not self.take(end):
            found.append(self.expression())
            if not self.take(","):
                self.expect(end)
                break
        return tuple(found)

    def primary(self) -> Node:
        token = self.token
        self.position += 1
        match token.kind:
            case "string":
                return Node("literal", token.at, value=_text(token.text))
            case "float":
                return Node("literal", token.at, value=float(token.text))
            case "int":
                digits = token.text.rstrip("uU")
                number = int(digits, 16 if digits[:2].lower() == "0x" else 10)
                return Node("literal", token.at, value=UInt(number) if digits != token.text else number)
            case "ident" if token.text in _LITERALS:
                return Node("literal", token.at, value=_LITERALS[token.text])
            case "ident" if token.text != "in":
                if bracket := self.take("("):
                    return Node("call", bracket.at, token.text, parts=self.arguments(")"))
                return Node("ident", token.at, token.text)
        if token.text == "(" and token.kind == "op":
            node = self.expression()
            self.expect(")")
            return node
        if token.text == "[":
            return self.elements(token)
        if token.text == "{":
            return self.entries(token)
        if token.text == ".":
            return self.primary()
        self.position -= 1
        result: Node = self.fail()
        return result

    def entries(self, start: Token) -> Node:
        parts: list[Node] = []
        optional = []
        while not self.take("}"):
            optional.append(self.take("?") is not None)
            parts.append(self.expression())
            self.expect(":")
            parts.append(self.expression())
            if not self.take(","):
                self.expect("}")
                break
        return Node("map", start.at, value=tuple(optional), parts=tuple(parts))

    def elements(self, start: Token) -> Node:
        parts, optional = [], []
        while not self.take("]"):
            optional.append(self.take("?") is not None)
            parts.append(self.expression())
            if not self.take(","):
                self.expect("]")
                break
        return Node("list", start.at, value=tuple(optional), parts=tuple(parts))


def _path(node: Node) -> str:
    """`a.b.c` of selections from a name; nothing for another expression."""
    if node.kind == "ident":
        return node.name
    if node.kind == "select" and node.target is not None and not node.optional:
        before = _path(node.target)
        return f"{before}.{node.name}" if before else ""
    return ""


def parse(text: str) -> Node:
    """The tree of an expression. Raises SyntaxFault."""
    return Parser(text).parse()
