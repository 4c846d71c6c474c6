"""The schema file read as it is: for the documentation, for tests, and for tools that want to know the layouts.

Nothing at run time needs it: the codec's formats are written out in ``formats``, and a test compares the two.
``python -m cmd_server.schema docs/wire.md`` writes the tables of the document anew.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree

from .errors import WireError
from .formats import COMMON_SIZE, NULL_INT, Group, Layout

__all__ = ["Field", "GroupSpec", "Message", "Schema", "read", "tables", "text", "update"]

_CODES: Final = {
    "uint8": "B",
    "uint16": "H",
    "uint32": "I",
    "uint64": "Q",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "float": "f",
    "double": "d",
}
_BEGIN: Final = "<!-- tables: written by python -m cmd_server.schema docs/wire.md -->"
_END: Final = "<!-- end of tables -->"


class Field(NamedTuple):
    """A field of a block: its struct format, where it stands, and since which version; ``null`` packs to its absence."""

    name: str
    type: str
    format: str
    offset: int
    since: int
    null: Any
    doc: str

    @property
    def empty(self) -> bytes:
        """A text that has nothing to say."""
        return bytes(2)


class GroupSpec(NamedTuple):
    """A repeating group: fields of an entry and names of its texts."""

    name: str
    fields: tuple[Field, ...]
    data: tuple[Field, ...]
    since: int

    @property
    def empty(self) -> bytes:
        """The group without entries."""
        return struct.pack("<II", sum(struct.calcsize("<" + field.format) for field in self.fields), 0)


class Message(NamedTuple):
    """A message of the schema, in the order of its bytes."""

    name: str
    template: int
    since: int
    block: int
    fields: tuple[Field, ...]
    groups: tuple[GroupSpec, ...]
    data: tuple[Field, ...]
    doc: str

    def layout(self, version: int) -> Layout:
        """Return the same as ``formats`` writes it by hand."""
        own = self.fields[1:]  # behind the common part
        formats = "".join(field.format for field in own)
        return Layout(
            self.name,
            self.template,
            formats,
            tuple(
                Group(g.name, "".join(f.format for f in g.fields), tuple(d.name for d in g.data)) for g in self.groups
            ),
            tuple(d.name for d in self.data),
            b"".join([struct.pack("<" + field.format, field.null) for field in own if field.since > 1]),
            tuple((g.since, g.empty) for g in self.groups if g.since > 1)
            + tuple((d.since, d.empty) for d in self.data if d.since > 1),
            version,
        )


class Schema(NamedTuple):
    """A whole schema; ``sets`` and ``enums`` map a name to its (name, number or bit, description) rows."""

    id: int
    version: int
    messages: tuple[Message, ...]
    common: tuple[Field, ...]
    enums: dict[str, list[tuple[str, int, str]]]
    sets: dict[str, list[tuple[str, int, str]]]


def text() -> str:
    """Return the schema file of this package."""
    return files("cmd_server").joinpath("cmd-market-data.xml").read_text("utf-8")


def read(xml: str) -> Schema:
    """Read a schema of this family: one common part first, doubles and integers, u32 groups; raises WireError."""
    root = ElementTree.fromstring(xml)
    types: dict[str, tuple[str, Any]] = {name: (code, 0) for name, code in _CODES.items()}
    types["double"] = ("d", float("nan"))
    enums: dict[str, list[tuple[str, int, str]]] = {}
    sets: dict[str, list[tuple[str, int, str]]] = {}
    common: list[Field] = []
    for node in root.findall("types/*"):
        name = node.attrib["name"]
        if node.tag == "type":
            primitive = node.attrib["primitiveType"]
            optional = node.get("presence") == "optional"
            types[name] = (_CODES[primitive], NULL_INT if optional and primitive == "int64" else types[primitive][1])
        elif node.tag in ("enum", "set"):
            types[name] = (_CODES[node.attrib["encodingType"]], 0)
            rows = [(row.attrib["name"], int(row.text or ""), row.get("description", "")) for row in node]
            (enums if node.tag == "enum" else sets)[name] = rows
        elif name == "Common":
            common = _fields(list(node), types, "primitiveType", 0)
    width = sum(struct.calcsize("<" + field.format) for field in common)
    if width != COMMON_SIZE:
        raise WireError(f"the common part has {width} bytes, not {COMMON_SIZE}")
    types["Common"] = ("".join(field.format for field in common), None)
    messages = tuple(_message(node, types) for node in root if node.tag.endswith("message"))
    return Schema(int(root.attrib["id"]), int(root.attrib["version"]), messages, tuple(common), enums, sets)


def _fields(nodes: list[Any], types: dict[str, tuple[str, Any]], key: str, at: int) -> list[Field]:
    found = []
    for node in nodes:
        kind = node.get(key) or node.attrib["type"]
        code, null = types[kind]
        given = int(node.get("offset", at))
        if given != at:
            raise WireError(f"field {node.attrib['name']} begins at {given}, not at {at}: blocks have no padding")
        since = int(node.get("sinceVersion", 0))
        found.append(Field(node.attrib["name"], kind, code, at, since, null, node.get("description", "")))
        at += struct.calcsize("<" + code)
    return found


def _message(node: Any, types: dict[str, tuple[str, Any]]) -> Message:
    fields = _fields(node.findall("field"), types, "type", 0)
    groups = tuple(
        GroupSpec(
            group.attrib["name"],
            tuple(_fields(group.findall("field"), types, "type", 0)),
            _data(group),
            int(group.get("sinceVersion", 0)),
        )
        for group in node.findall("group")
    )
    last = fields[-1]
    return Message(
        node.attrib["name"],
        int(node.attrib["id"]),
        int(node.get("sinceVersion", 0)),
        last.offset + struct.calcsize("<" + last.format),
        tuple(fields),
        groups,
        _data(node),
        node.get("description", ""),
    )


def _data(node: Any) -> tuple[Field, ...]:
    return tuple(
        Field(d.attrib["name"], "text", "", 0, int(d.get("sinceVersion", 0)), "", d.get("description", ""))
        for d in node.findall("data")
    )


def tables(schema: Schema) -> str:
    """Return the Markdown tables of every message, enumeration and flag."""
    lines = [
        f"Schema {schema.id}, version {schema.version}. Offsets are those within the block.",
        *("", "### Common part", "", *_table(schema.common)),
    ]
    for message in schema.messages:
        lines += ["", f"### {message.template} {message.name}", ""]
        lines.append(f"{message.doc[0].upper()}{message.doc[1:]}. Block: {message.block} bytes.")
        if message.fields[1:]:
            lines += ["", *_table(message.fields[1:])]
        for group in message.groups:
            entry = [f"{f.name} {f.type}" + (f" ({f.doc})" if f.doc else "") for f in group.fields]
            entry += [f"text {d.name}" for d in group.data]
            stride = sum(struct.calcsize("<" + field.format) for field in group.fields)
            lines += ["", f"Group `{group.name}`, {stride} bytes an entry: {', '.join(entry)}"]
        if message.data:
            texts = (f"`{d.name}`" + (f" ({d.doc})" if d.doc else "") for d in message.data)
            lines += ["", "Texts: " + ", ".join(texts)]
    lines += ["", "### Flags", "", "| bit | value | name | meaning |", "|---|---|---|---|"]
    lines += [f"| {bit} | {1 << bit} | {name} | {doc} |" for name, bit, doc in schema.sets["Flags"]]
    for name, values in schema.enums.items():
        lines += ["", f"### {name}", "", "| code | name | meaning |", "|---|---|---|"]
        lines += [f"| {code} | {word} | {doc} |" for word, code, doc in values]
    return "\n".join(lines) + "\n"


def _table(fields: Sequence[Field]) -> list[str]:
    rows = ["| offset | field | type | meaning |", "|---|---|---|---|"]
    return rows + [f"| {f.offset} | {f.name} | {f.type} | {f.doc} |" for f in fields]


def update(document: str) -> str:
    """Return a document with its tables written anew; raises WireError where it has no place for them."""
    before, begin, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise WireError("the document has no place for the tables", hint=f"put {_BEGIN} and {_END} there")
    return f"{before}{_BEGIN}\n\n{tables(read(text()))}\n{_END}{after}"


if __name__ == "__main__":
    _path = Path(sys.argv[1])
    _path.write_text(update(_path.read_text("utf-8")), "utf-8")
