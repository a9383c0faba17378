"""The one check that chooses an operator's backend and that explains why a backend asked for by name cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medvit.errors import BackendError

__all__ = ["select_backend"]


def select_backend(
    operator: str, backend: str | None, known: Sequence[str], unsupported_reason: Callable[[str], str | None]
) -> str:
    """The backend asked for if it can run, the first that can if none is asked for.

    Args:
        operator: the operator's name, for the message.
        backend: the backend's name, or None.
        known: all of the operator's, the one to be preferred first.
        unsupported_reason: why a backend cannot take the tensors at hand, or None if it can.

    Raises:
        BackendError: an unknown backend, or one that cannot run.
    """
    if backend is None:
        return _able(operator, known, unsupported_reason)
    if backend not in known:
        raise BackendError(
            f"Found {operator} backend {backend!r}; it must be one of {', '.join(known)}. Leave it out to let medvit choose."
        )
    reason = unsupported_reason(backend)
    if reason:
        able = _able(operator, known, unsupported_reason)
        raise BackendError(
            f"The {backend!r} backend of {operator} cannot run: {reason}. Use backend={able!r} or leave it out."
        )
    return backend


def _able(operator: str, known: Sequence[str], unsupported_reason: Callable[[str], str | None]) -> str:
    for name in known:
        if unsupported_reason(name) is None:
            return name
    reasons = "; ".join(f"{name}: {unsupported_reason(name)}" for name in known)
    raise BackendError(f"No backend of {operator} can run: {reasons}. Move the tensors to the CPU with .cpu().")
