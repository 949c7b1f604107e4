"""Checks of JSON values against declared types.

A type is `bool`, `int`, `float`, `str`, `None`, `Any`, `list[X]`, `dict[str, X]`, a union of types,
a `TypedDict` or a dataclass of these.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

from atgcn_jax.errors import printable

SHOWN = 40  # maximum length of a value in a message
T = TypeVar("T")


def checked(value: Any, kind: type[T], where: str) -> T:
  """Return a JSON value that has a type. Objects become instances if the type is a dataclass.

  Numbers must be finite, and integers must fit into 64 bits. An integer is a `float`, but a boolean
  is not a number. Objects may have further keys if the type is a TypedDict.

  Args:
    value: The value.
    kind: The type.
    where: Name of the value, for the message.

  Raises:
    ValueError: If the value, or a part of it, has another type. The message names it.
  """
  return _checked(value, kind, where)


def _checked(value: Any, kind: Any, where: str) -> Any:
  origin = typing.get_origin(kind)
  if kind is Any:
    return value
  if origin in (types.UnionType, typing.Union):
    return _of_union(value, typing.get_args(kind), where)
  if origin is list and isinstance(value, list):
    (part,) = typing.get_args(kind)
    return [_checked(item, part, f"{where}[{k}]") for k, item in enumerate(value)]
  if origin is dict and isinstance(value, dict):
    _, part = typing.get_args(kind)
    return {key: _checked(item, part, f"{where}.{key}") for key, item in value.items()}
  if typing.is_typeddict(kind) and isinstance(value, dict):
    return _of_typed_dict(value, kind, where)
  if dataclasses.is_dataclass(kind) and isinstance(value, dict):
    return _of_dataclass(value, kind, where)
  if origin is None and _is_plain(value, kind):
    return value
  name = "a JSON object" if _is_object(kind) else getattr(kind, "__name__", str(kind))
  raise ValueError(f"{printable(where)} is {_shown(value)}, not {name}")


def _is_plain(value: Any, kind: Any) -> bool:
  if kind in (None, types.NoneType):
    return value is None
  if kind is float and type(value) is float:
    return abs(value) < 2.0**1000  # so NaN and infinity are not
  if kind in (int, float):
    return type(value) is int and -(2**63) <= value < 2**63
  return kind in (bool, str) and type(value) is kind


def _of_union(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
  for kind in kinds:
    try:
      return _checked(value, kind, where)
    except ValueError as error:
      fault = error
  raise fault


_hints = functools.cache(typing.get_type_hints)  # a journal has many records


def _of_typed_dict(value: dict[str, Any], kind: Any, where: str) -> dict[str, Any]:
  hints = _hints(kind)
  if missing := sorted(kind.__required_keys__ - value.keys()):
    raise ValueError(f"{where} has no {', '.join(missing)}")
  known = hints.keys() & value.keys()
  return value | {key: _checked(value[key], hints[key], f"{where}.{key}") for key in known}


def _of_dataclass(value: dict[str, Any], kind: Any, where: str) -> Any:
  hints = typing.get_type_hints(kind)
  needed = {
    field.name
    for field in dataclasses.fields(kind)
    if field.default is field.default_factory is dataclasses.MISSING
  }
  if missing := sorted(needed - value.keys()):
    raise ValueError(f"{where} has no {', '.join(missing)}")
  if unknown := sorted(value.keys() - hints.keys()):
    raise ValueError(f"{where} has the unknown key {_shown(unknown[0])}")
  return kind(**{key: _checked(item, hints[key], f"{where}.{key}") for key, item in value.items()})


def _is_object(kind: Any) -> bool:
  return (
    typing.get_origin(kind) is dict or typing.is_typeddict(kind) or dataclasses.is_dataclass(kind)
  )


def _shown(value: Any) -> str:
  if isinstance(value, dict | list):
    return f"a {'JSON object' if isinstance(value, dict) else 'list'}"
  # Large integers cannot be converted to decimal digits.
  if type(value) is int and abs(value) >= 2**63:
    return "an integer of more than 64 bits"
  return printable(repr(value[:SHOWN] if isinstance(value, str) else value), SHOWN)
