"""Checks of JSON values against types, and the form of messages."""

import dataclasses
from typing import Any, TypedDict

import pytest

from atgcn_jax.errors import MESSAGE, UserError, printable, reason
from atgcn_jax.runtime.schema import checked


@dataclasses.dataclass(frozen=True)
class Point:
  x: float
  name: str | None = None


class Item(TypedDict):
  step: int
  points: list[Point]
  other: dict[str, bool]


def item(**changes):
  return {"step": 3, "points": [{"x": 1, "name": "a"}], "other": {"b": True}, "more": [0]} | changes


def test_values_that_fit_are_returned():
  found = checked(item(), Item, "item")
  assert found == item(points=[Point(1, "a")])
  assert checked({"x": 0.5}, Point, "p") == Point(0.5)
  assert checked([None, 1.5], list[float | None], "p") == [None, 1.5]
  assert checked({"a": []}, dict[str, Any], "p") == {"a": []}


@pytest.mark.parametrize(
  ("value", "part"),
  [
    (item(step=True), "item.step is True, not int"),
    (item(step=2**63), "item.step is an integer of more than 64 bits, not int"),
    (item(step=1.0), "item.step is 1.0, not int"),
    (item(step=None), "item.step is None, not int"),
    (item(points=[{"x": float("nan")}]), r"item.points[0].x is nan, not float"),
    (item(points=[{"x": 10**400}]), "not float"),
    (item(points=[{"x": 10**30}]), "x is an integer of more than 64 bits, not float"),
    (item(points=[{"x": 1, "name": 5}]), "item.points[0].name is 5, not"),
    (item(points=[{"name": "a"}]), "item.points[0] has no x"),
    (item(points=[{"x": 1, "y": 2}]), "item.points[0] has the unknown key 'y'"),
    (item(points={}), "item.points is a JSON object, not list"),
    (item(other={"b": 1}), "item.other.b is 1, not bool"),
    (item(other=[]), "item.other is a list, not a JSON object"),
    ({"step": 1}, "item has no other, points"),
    ([], "item is a list, not a JSON object"),
    (item(step="x" * 10**6), "item.step is"),
  ],
)
def test_values_of_another_type_are_named(value, part):
  with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
    checked(value, Item, "item")
  assert part in str(caught.value)
  assert len(str(caught.value)) < 120


def test_messages_are_one_printable_line_of_limited_length():
  assert printable("Gesäß 1") == "Gesäß 1"
  assert printable("a\x1b[31m\n\udcff\0") == r"a\x1b[31m\n\udcff\x00"
  for text in ("x" * 10**7, "\n" * 10**7, "\x1b" * (MESSAGE - 1)):
    assert len(printable(text)) <= MESSAGE
    assert str(UserError(text)).isprintable()
  assert printable("begin " + "x" * 1000 + " end", 20) == "begin xxxxxxx…xx end"
  assert reason(OSError(28, "No space left on device")) == "No space left on device"
  assert reason(KeyError()) == "KeyError"
