"""Reading of the ``params`` that clients send with a request."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from medvit_label.errors import RequestError

__all__ = ["json_object", "read_flag", "read_settings"]

_Settings = TypeVar("_Settings", bound=BaseModel)


def json_object(text: str) -> dict[str, Any]:
    """Parse the JSON object that a client sends as ``params`` or ``info``; an empty text means an empty object.

    Raises:
        RequestError: the text is not a JSON object, or cannot be encoded again as JSON.
    """
    try:
        content = json.loads(text or "{}")
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        # the server sends the object to each client: NaN, infinity or a lone surrogate would make those answers invalid
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RequestError("params that hold a lone surrogate (half a character)", "send whole ones") from None
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise RequestError(f"params that are not a JSON object ({why})", "send one, or none") from None
    return content


def read_flag(content: dict[str, Any], key: str) -> bool:
    """Read a flag of a client's ``params``; forms and settings tables send it as text.

    Raises:
        RequestError: the value is neither true nor false.
    """
    value = content.get(key)
    word = value.strip().lower() if isinstance(value, str) else value
    if word in (None, False, 0, "", "false", "no", "off", "0"):
        return False
    if word in (True, 1, "true", "yes", "on", "1"):
        return True
    raise RequestError(f"params.{key} of {str(value)[:40]!r}", "true or false is needed", "Correct it or leave it out.")


def read_settings(kind: type[_Settings], content: dict[str, Any]) -> _Settings:
    """Read the settings that a client's ``params`` contain.

    Raises:
        RequestError: a value is not allowed.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"params.{first['loc'][0]}: {first['msg']}", remedy="Correct it or leave it out.") from None
