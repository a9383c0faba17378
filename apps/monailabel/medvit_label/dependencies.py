"""Check for packages that the server and its self-test need beside the core."""

from __future__ import annotations

from importlib.util import find_spec

from medvit.errors import BackendError

__all__ = ["require_client", "require_server"]


def _require(names: tuple[str, ...], what: str, step: str) -> None:
    absent = [name for name in names if find_spec(name) is None]
    if absent:
        raise BackendError(f"no {', '.join(absent)} installed", f"{what} needs it", step)


def require_server() -> None:
    """Refuse to start without the packages of the extra ``label``."""
    _require(
        ("fastapi", "uvicorn", "python_multipart", "dicomweb_client"),
        "the label server",
        "Run: pip install 'medvit[label]'.",
    )


def require_client() -> None:
    """Refuse to start without MONAI Label's client."""
    _require(("monailabel", "requests"), "the self-test through MONAI Label's own client", "Run: make label.")
