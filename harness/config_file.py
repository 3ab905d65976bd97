"""``--config``: a YAML file of option values, read as they would be typed on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefeval.records import PrefevalError


def read(path: Path) -> dict[str, Any]:
    """The top level of a configuration file, option names with ``_``; every scalar stays text.

    YAML's own reading of scalars would turn the range ``2:10`` into the number 130.

    Raises ``PrefevalError`` for a file that cannot be read or holds no ``option: value`` lines.
    """
    import yaml

    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    except OSError as error:
        raise PrefevalError(f"cannot read {path} ({error.strerror}); check --config") from error
    except UnicodeDecodeError as error:
        raise PrefevalError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise PrefevalError(f"{path} is not valid YAML{line}; write option: value lines") from error
    if not isinstance(values, dict):
        raise PrefevalError(f"{path} must hold option: value lines, e.g. beta: 0.05:0.3")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def as_option(value: Any, separator: str = ",") -> str:
    """A value as the option's text: lists and mappings become what the command line takes.

    >>> as_option(["dpo", "kto"])
    'dpo,kto'
    >>> as_option({"dpo": ["0.1", "0.3"], "simpo": "2:10"})
    'dpo=0.1/0.3,simpo=2:10'
    """
    if isinstance(value, Mapping):
        return separator.join(f"{name}={as_option(v, '/')}" for name, v in value.items())
    if isinstance(value, list):
        return separator.join(as_option(v, "/") for v in value)
    return str(value)
