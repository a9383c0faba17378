"""What every operator does with the backend that a caller asks for by name: take it, or say why not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medvit.errors import BackendError

__all__ = ["asked_for"]


def asked_for(operator: str, backend: str, known: Sequence[str], refusal: Callable[[str], str | None]) -> str:
    """The backend, if the operator has it and it can run.

    Args:
        operator: the operator's name, for the message.
        backend: the backend's name.
        known: all of the operator's, those that are proposed instead first.
        refusal: why a backend cannot take the tensors at hand, or None if it can.

    Raises:
        BackendError: an unknown backend, or one that cannot run.
    """
    if backend not in known:
        raise BackendError(
            f"Found {operator} backend {backend!r}; it must be one of {', '.join(known)}. Leave it out to let medvit choose."
        )
    reason = refusal(backend)
    if reason:
        able = next(name for name in known if refusal(name) is None)
        raise BackendError(
            f"The {backend!r} backend of {operator} cannot run: {reason}. Use backend={able!r} or leave it out."
        )
    return backend
