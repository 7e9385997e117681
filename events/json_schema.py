"""An event type as JSON Schema (draft 2020-12), and back.

The schema is that of the context. It accepts what the door accepts: null stands for
"not set" wherever a field is not required. What a schema says beyond names, labels,
types and "required" cannot be kept; it is told by name, or refused where a field or
its type would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from events.declare import MAX_LABEL, Declaration, Field
from events.models import EventField, EventType, Kind
from events.schema import LEARNT_DEPTH, MAX_LEARNT, FieldType
from events.wire import FIELD_CODE, UNSTORABLE
from smartcomm.core.errors import Invalid, Several, UserError

DRAFT = "https://json-schema.org/draft/2020-12/schema"
#: What is read of a schema is the same in all of these.
DRAFTS = (
    DRAFT,
    "https://json-schema.org/draft/2019-09/schema",
    "http://json-schema.org/draft-07/schema",
    "http://json-schema.org/draft-06/schema",
)

#: A schema is read up to this size.
MAX_BYTES = 1024 * 1024

NAMES = {
    FieldType.STRING: "string",
    FieldType.NUMBER: "number",
    FieldType.BOOLEAN: "boolean",
    FieldType.DATE: "string",
    FieldType.OBJECT: "object",
    FieldType.LIST: "array",
}
TYPES = {
    "string": FieldType.STRING,
    "number": FieldType.NUMBER,
    "integer": FieldType.NUMBER,
    "boolean": FieldType.BOOLEAN,
    "object": FieldType.OBJECT,
    "array": FieldType.LIST,
}
#: A date of ours comes with or without a time of day.
DATE_FORMATS = ("date", "date-time")
DATE = [{"format": "date"}, {"format": "date-time"}]

#: Beside `properties` these may declare fields, which would be lost.
CARRIERS = (
    "$ref",
    "$dynamicRef",
    "allOf",
    "anyOf",
    "oneOf",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "patternProperties",
)
READ_OF_ROOT = {
    "$schema",
    "$defs",
    "definitions",
    "title",
    "description",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "x-kind",
    "x-mode",
}
READ_OF_FIELD = {"title", "type", "$ref"}
READ_OF_OBJECT = {"properties", "required", "additionalProperties"}


@dataclass(frozen=True, slots=True)
class NotKept:
    """A word of a schema that is not kept, and what that means."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Read:
    """What a schema says of a type, and what of it cannot be kept."""

    declaration: Declaration
    title: str
    kind: Kind | None
    not_kept: tuple[NotKept, ...]


def export(event_type: EventType, fields: Iterable[EventField]) -> dict[str, Any]:
    """The type as a schema of its context."""
    is_closed = event_type.mode == EventType.Mode.ENFORCED
    inside: dict[str, list[EventField]] = {}
    for one in fields:
        inside.setdefault(one.code.rpartition(".")[0], []).append(one)

    def schema_of(one: EventField, depth: int) -> dict[str, Any]:
        kind = FieldType(one.value_type)
        name = NAMES[kind]
        found: dict[str, Any] = {"type": name if one.is_required else [name, "null"]}
        if one.label:
            found["title"] = one.label
        if kind == FieldType.DATE:
            found["anyOf"] = [*DATE] if one.is_required else [*DATE, {"type": "null"}]
        if kind == FieldType.OBJECT and depth < LEARNT_DEPTH:
            found |= members(one.code, depth + 1)
        return found

    def members(path: str, depth: int) -> dict[str, Any]:
        own = inside.get(path, [])
        found: dict[str, Any] = {
            "properties": {
                one.code.rpartition(".")[2]: schema_of(one, depth) for one in own
            }
        }
        if required := [one.code.rpartition(".")[2] for one in own if one.is_required]:
            found["required"] = required
        return found | {"additionalProperties": not is_closed}

    found: dict[str, Any] = {"$schema": DRAFT, "title": event_type.name}
    if event_type.description:
        found["description"] = event_type.description
    return found | {
        "type": "object",
        "x-kind": str(event_type.kind),
        "x-mode": str(event_type.mode),
        **members("", 1),
    }


def read(data: object, *, name: str = "") -> Read:
    """What a schema says of a type.

    Raises Invalid, or Several of them, for what is no such schema and for what would
    lose a field or its type. `name` is that of the type the schema is for.
    """
    if not isinstance(data, dict):
        raise Invalid("A JSON Schema is an object.", code="not_an_object")
    return _Reader(data).read(name)


class _Reader:
    def __init__(self, root: dict[str, Any]) -> None:
        self.root = root
        self.errors: list[UserError] = []
        self.not_kept: list[NotKept] = []
        self.fields: list[Field] = []
        self.nullable: list[str] = []
        self.is_closed = root.get("additionalProperties") is False

    def read(self, name: str) -> Read:
        root = self.root
        if root.get("$schema", DRAFT) not in [*DRAFTS, *(f"{one}#" for one in DRAFTS)]:
            self.refuse("$schema", f"Only JSON Schema is read, as in {DRAFT}.")
        for word in CARRIERS:
            if word in root:
                self.refuse(
                    word,
                    f"“{word}” cannot be kept, and may declare fields. Write all "
                    "fields under “properties”.",
                )
        if root.get("type", "object") != "object":
            self.refuse("type", "A context is an object: “type” must be “object”.")
        title = self.text("title", root.get("title", ""), MAX_LABEL)
        if name and title and title != name:
            self.leave("title", f"The name “{name}” stays, whatever the title.")
        for word in sorted(root.keys() - READ_OF_ROOT - {*CARRIERS}):
            self.leave(word, f"“{word}” is not kept.")
        mode, kind = self.mode(), self.choice("x-kind", Kind.values)
        self.members(root, "", "", 1)
        if self.nullable:
            few = ", ".join(f"“{path}”" for path in self.nullable[:10])
            more = len(self.nullable) - 10
            told = f"{few} and {more} more" if more > 0 else few
            self.leave(
                "properties",
                f"Null stands for “not set”, so it is let through for {told} too.",
            )
        description = None
        if "description" in root:
            description = self.text("description", root["description"], 10_000)
        if self.errors:
            raise Several(self.errors) if len(self.errors) > 1 else self.errors[0]
        return Read(
            Declaration(
                description=description,
                mode=mode,
                fields=tuple(self.fields),
                is_complete=self.is_closed,
            ),
            title,
            Kind(kind) if kind else None,
            tuple(self.not_kept),
        )

    def mode(self) -> EventType.Mode | None:
        others = self.root.get("additionalProperties")
        said = self.choice("x-mode", EventType.Mode.values)
        if isinstance(others, dict):
            self.leave(
                "additionalProperties", "Fields that are not named may be anything."
            )
        elif "additionalProperties" in self.root and not isinstance(others, bool):
            self.refuse("additionalProperties", "It is true or false.")
        if said and others is not None and (said == "enforced") != self.is_closed:
            self.refuse(
                "x-mode",
                "“x-mode” and “additionalProperties” contradict each other: false is "
                "“enforced”, and only that.",
            )
        if said:
            return EventType.Mode(said)
        if others is None:
            return None
        return EventType.Mode.ENFORCED if self.is_closed else EventType.Mode.OPEN

    def members(self, data: dict[str, Any], path: str, place: str, depth: int) -> None:
        """The fields that an object declares, and which of them are required."""
        properties = data.get("properties", {})
        required = data.get("required", [])
        if not isinstance(properties, dict):
            self.refuse(f"{place}properties", "It is an object of fields.")
            return
        if not isinstance(required, list) or not all(
            isinstance(one, str) for one in required
        ):
            self.refuse(f"{place}required", "It is a list of field codes.")
            required = []
        for code in required:
            if code not in properties:
                self.refuse(
                    f"{place}required",
                    f"“{_shown(code)}” is required, but not under “properties”: say of "
                    "which type it is.",
                )
        for code, one in properties.items():
            if len(self.fields) >= MAX_LEARNT:
                self.refuse(
                    f"{place}properties", f"A type has at most {MAX_LEARNT} fields."
                )
                return
            where = f"{place}properties.{_shown(code)}"
            if not FIELD_CODE.match(code):
                self.refuse(
                    where,
                    f"“{_shown(code)}” is no field code: use letters, digits and "
                    "underscores, not starting with a digit, up to 64 characters.",
                    code="field_code_invalid",
                )
                continue
            self.field(one, path + code, where, depth, is_required=code in required)

    def field(
        self, data: object, path: str, place: str, depth: int, *, is_required: bool
    ) -> None:
        found = self.resolve(data, place)
        if found is None:
            return
        found, takes_null = self.without_null(found, place)
        kind = self.type_of(found, place, path)
        if kind is None:
            return
        label = None
        if "title" in found:
            label = self.text(f"{place}.title", found["title"], MAX_LABEL)
        self.fields.append(Field(path, kind, label, is_required))
        if is_required and takes_null:
            self.leave(
                f"{place}.type", f"“{path}” is required, and null counts as missing."
            )
        elif not is_required and not takes_null:
            self.nullable.append(path)
        read = set(READ_OF_FIELD)
        if kind == FieldType.DATE:
            read |= {"anyOf"} if found.get("anyOf") == DATE else {"format"}
        if kind == FieldType.OBJECT and depth < LEARNT_DEPTH:
            read |= READ_OF_OBJECT
            self.members(found, f"{path}.", f"{place}.", depth + 1)
            self.closed_like_the_rest(found, path, place)
        for word in sorted(found.keys() - read):
            self.leave(f"{place}.{word}", _meaning(word, path))

    def closed_like_the_rest(self, data: dict[str, Any], path: str, place: str) -> None:
        is_closed = data.get("additionalProperties") is False
        if self.is_closed and not is_closed:
            self.leave(
                f"{place}.additionalProperties",
                "The type is enforced as a whole: what is not declared inside "
                f"“{path}” is refused too.",
            )
        elif is_closed and not self.is_closed:
            self.leave(
                f"{place}.additionalProperties",
                "Only a whole type can be enforced: other fields are let through "
                f"inside “{path}”.",
            )

    def resolve(self, data: object, place: str) -> dict[str, Any] | None:
        """A schema with its references followed, or None if it leads nowhere."""
        found = data
        for _ in range(10):
            if not isinstance(found, dict):
                self.refuse(place, "A field is described by an object with a “type”.")
                return None
            if "$ref" not in found:
                return found
            target = self.target(found["$ref"])
            if not isinstance(target, dict):
                self.refuse(
                    f"{place}.$ref",
                    "Only references within the schema are followed, such as "
                    "#/$defs/Address.",
                )
                return None
            found = {**target, **{k: v for k, v in found.items() if k != "$ref"}}
        self.refuse(f"{place}.$ref", "The references go round in a circle.")
        return None

    def target(self, reference: object) -> object:
        for word in ("$defs", "definitions"):
            start, group = f"#/{word}/", self.root.get(word)
            if (
                isinstance(reference, str)
                and reference.startswith(start)
                and isinstance(group, dict)
            ):
                name = reference[len(start) :].replace("~1", "/").replace("~0", "~")
                return group.get(name)
        return None

    def without_null(
        self, data: dict[str, Any], place: str
    ) -> tuple[dict[str, Any], bool]:
        """The schema without its "or null", however that is said; whether it was."""
        found, takes_null = dict(data), False
        kinds = found.get("type")
        if isinstance(kinds, list) and "null" in kinds:
            takes_null = True
            left = [kind for kind in kinds if kind != "null"]
            found["type"] = left[0] if len(left) == 1 else left
        for word in ("anyOf", "oneOf"):
            ways = found.get(word)
            if not isinstance(ways, list) or {"type": "null"} not in ways:
                continue
            left = [way for way in ways if way != {"type": "null"}]
            if "type" in found:
                found[word] = left
            elif len(left) == 1 and isinstance(left[0], dict):
                del found[word]
                inner, _ = self.without_null(self.resolve(left[0], place) or {}, place)
                found, takes_null = {**inner, **found}, True
        return found, takes_null

    def type_of(self, data: dict[str, Any], place: str, path: str) -> FieldType | None:
        name = data.get("type")
        kind = TYPES.get(name) if isinstance(name, str) else None
        if kind is None:
            self.refuse(
                f"{place}.type",
                f"“{path}” needs one “type”: {', '.join(sorted(TYPES))}. Beside it "
                "there may be null.",
            )
            return None
        if name == "integer":
            self.leave(
                f"{place}.type", f"“{path}” is a number, and a fraction is let through."
            )
        if kind == FieldType.STRING:
            if data.get("anyOf") == DATE:
                return FieldType.DATE
            if data.get("format") in DATE_FORMATS:
                self.leave(
                    f"{place}.format",
                    f"“{path}” is a date, with or without a time of day.",
                )
                return FieldType.DATE
        return kind

    def choice(self, word: str, known: list[str]) -> str:
        value = self.root.get(word)
        if value is None and word not in self.root:
            return ""
        if value not in known:
            self.refuse(word, f"It is one of {', '.join(known)}.")
            return ""
        return str(value)

    def text(self, place: str, value: object, most: int) -> str:
        if not isinstance(value, str) or len(value) > most or UNSTORABLE.search(value):
            self.refuse(place, f"It is a text of up to {most:,} characters.")
            return ""
        return value

    def refuse(self, place: str, message: str, *, code: str = "schema_invalid") -> None:
        self.errors.append(Invalid(message, field=place, code=code))

    def leave(self, place: str, message: str) -> None:
        self.not_kept.append(NotKept(place, message))


#: What is let through when a word that narrows a field is not kept.
MEANINGS: Mapping[str, str] = {
    "pattern": "any text is let through",
    "minLength": "a shorter text is let through",
    "maxLength": "a longer text is let through",
    "format": "any text is let through",
    "enum": "other values are let through",
    "const": "other values are let through",
    "minimum": "a smaller number is let through",
    "maximum": "a greater number is let through",
    "exclusiveMinimum": "a smaller number is let through",
    "exclusiveMaximum": "a greater number is let through",
    "multipleOf": "any number is let through",
    "items": "entries of the list may be anything",
    "prefixItems": "entries of the list may be anything",
    "properties": f"fields are declared {LEARNT_DEPTH} levels deep",
    "required": f"fields are declared {LEARNT_DEPTH} levels deep",
    "default": "a field that is missing stays missing",
    "description": "fields have a label, which is their title",
}


def _meaning(word: str, path: str) -> str:
    more = MEANINGS.get(word)
    told = f"“{_shown(word)}” of “{path}” is not kept"
    return f"{told}: {more}." if more else f"{told}."


def _shown(text: str) -> str:
    safe = UNSTORABLE.sub("\ufffd", text)
    return safe if len(safe) <= 80 else f"{safe[:80]}…"
