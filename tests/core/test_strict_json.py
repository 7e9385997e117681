"""Reading JSON fast, and as strictly as reading it slowly."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smartcomm.core.errors import Invalid
from smartcomm.core.strict_json import NotJson, Unfit, decode, decode_items

space = st.sampled_from(["", "", "", " ", "\n", "\t ", "\r\n"])
texts = st.text(st.sampled_from('":{}[],\\ a\u00e9'), max_size=4)


@st.composite
def documents(draw: Any, depth: int = 3) -> tuple[str, bool]:
    """JSON with odd spacing, and whether some object in it has a key twice."""
    kind = draw(st.sampled_from(["text", "number", "list", "object", "object"]))
    if depth == 0 or kind == "text":
        return json.dumps(draw(texts), ensure_ascii=draw(st.booleans())), False
    if kind == "number":
        return draw(st.sampled_from(["0", "-1", "1.5", "true", "null"])), False
    parts = draw(st.lists(documents(depth=depth - 1), max_size=3))
    repeats = any(part[1] for part in parts)
    if kind == "list":
        inner = ",".join(draw(space) + text + draw(space) for text, _ in parts)
        return f"[{draw(space)}{inner}]", repeats
    keys = [draw(texts) for _ in parts]
    inner = ",".join(
        f"{draw(space)}{json.dumps(key)}{draw(space)}:{draw(space)}{text}{draw(space)}"
        for key, (text, _) in zip(keys, parts, strict=True)
    )
    return f"{{{draw(space)}{inner}}}", repeats or len(set(keys)) < len(keys)


@given(documents())
@example(('{"a" :1,"b":2,"b":"\\":"}', True))
@example(('{":":":"}', False))
def test_a_key_told_twice_is_found_however_it_is_written(document):
    text, repeats = document

    if repeats:
        with pytest.raises(Invalid) as refused:
            decode(text.encode())
        assert refused.value.code == "key_duplicate"
    else:
        assert decode(text.encode()) == json.loads(text)


@given(st.lists(documents(), max_size=4), space)
def test_only_the_odd_items_are_unfit(parts, gap):
    body = f'{{{gap}"events"{gap}:[{",".join(gap + text for text, _ in parts)}{gap}]}}'

    items = decode_items(body.encode(), "events")["events"]

    for item, (text, repeats) in zip(items, parts, strict=True):
        if repeats:
            assert isinstance(item, Unfit)
            assert item.text == text
        else:
            assert item == json.loads(text)


@given(st.binary(max_size=30) | documents().map(lambda found: found[0].encode()[:-1]))
def test_what_is_not_json_is_refused_and_never_a_fault(body):
    try:
        json.loads(body.decode())
    except ValueError:
        with pytest.raises(NotJson):
            decode_items(body, "events")


def test_a_number_that_cannot_be_held_is_refused_in_words():
    with pytest.raises(NotJson) as caught:
        decode(b'{"rule": {"value": 1e400}}')

    assert caught.value.message == "The body is not JSON: Number out of range."
