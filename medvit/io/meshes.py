"""Surfaces as STL, PLY or OBJ, in millimetres on RAS+ axes, which each file states as 3D Slicer reads it (SPACE=RAS)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from medvit.reconstruction.surfaces import Surface

__all__ = ["MESH_WRITERS"]


def _write_stl(path: Path, surface: Surface, words: str) -> None:
    """Binary STL: 80 bytes of text, then normal and corners of each triangle."""
    corners = surface.vertices[surface.faces].astype("<f4")
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    record = np.zeros(len(corners), dtype=[("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("more", "<u2")])
    record["normal"] = normals / np.where(length > 0, length, 1)
    record["corners"] = corners
    header = f"SPACE=RAS; mm; {words}".encode()[:80].ljust(80)
    path.write_bytes(header + np.uint32(len(corners)).tobytes() + record.tobytes())


def _write_ply(path: Path, surface: Surface, words: str) -> None:
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment SPACE=RAS\ncomment mm; {words}\n"
        f"element vertex {len(surface.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(surface.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    faces = np.zeros(len(surface.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, surface.faces
    path.write_bytes(head.encode() + surface.vertices.astype("<f4").tobytes() + faces.tobytes())


def _write_obj(path: Path, surface: Surface, words: str) -> None:
    lines = ["# SPACE=RAS", f"# mm; {words}"]
    lines += [f"v {x:.4f} {y:.4f} {z:.4f}" for x, y, z in surface.vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in surface.faces + 1]
    path.write_text("\n".join(lines) + "\n")


MESH_WRITERS: Mapping[str, Callable[[Path, Surface, str], None]] = {
    "stl": _write_stl,
    "ply": _write_ply,
    "obj": _write_obj,
}
"""What writes a surface, by the file's ending."""
