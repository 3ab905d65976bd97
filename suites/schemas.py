"""JSON values against a JSON Schema, by jsonschema; nothing is ever fetched.

``$schema`` names the draft (2020-12 without one). ``format`` is a remark, as the draft has it, and
no condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prefeval.suites import patterns

_SAMPLES: tuple[Any, ...] = ({}, [], "", 0, None)


def _validator(schema: Mapping[str, Any]) -> Any:
    from jsonschema import ValidationError, validators
    from referencing import Registry

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not patterns.found(wanted, value):
            yield ValidationError(f"{value!r} does not match {wanted!r}")

    known = validators.extend(validators.validator_for(schema), {"pattern": pattern})
    # A registry of its own: the default one opens whatever address a "$ref" holds.
    return known(schema, registry=Registry())


def _references(value: Any) -> Iterator[str]:
    """Every ``$ref`` of a schema, but for parts that have an address of their own."""
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = [part for part in value.values() if not _has_address(part)]
    if isinstance(value, list):
        for part in value:
            yield from _references(part)


def _has_address(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("$id"), str)


def fault(schema: Mapping[str, Any]) -> str:
    """What is wrong with a schema, in words; "" when nothing is."""
    import jsonschema
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    try:
        validator = _validator(schema)
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        place = "/".join(map(str, error.absolute_path))
        at = f" at {place}" if place else ""
        return f"json_schema's schema is none{at}: {error.message[:200]}"
    except RecursionError:
        return "json_schema's schema is nested too deeply; flatten it"
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    for reference in _references(schema):
        try:
            Registry().resolver_with_root(root).lookup(reference)
        except Unresolvable:
            return f"json_schema's schema refers to {reference!r}, which it lacks; put it in $defs"
    try:
        for sample in _SAMPLES:
            validator.is_valid(sample)
    except RecursionError:
        return "json_schema's schema refers to itself without end; give the recursion a way out"
    return ""


def fits(schema: Mapping[str, Any], value: Any) -> bool:
    """Whether ``value`` is valid; one nested too deeply to be looked through is not."""
    try:
        return bool(_validator(schema).is_valid(value))
    except RecursionError:
        return False  # `fault` has shown that the schema ends
