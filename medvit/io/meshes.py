"""Writers of surface meshes: STL, PLY and OBJ, in millimetres on RAS+ axes. Each file states SPACE=RAS, which 3D Slicer
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["MESH_WRITERS", "Surface"]


def _write_stl(path: Path, surface: Surface, words: str) -> None:
    """Write binary STL: 80 bytes of text, then the normal and the corners of each triangle."""
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
"""Functions that write a surface, by file extension; each takes the path, the surface and a text for the file's header."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh; the corners of each triangle run anticlockwise when seen from outside.

    Attributes:
        vertices: (vertex, 3) float64, RAS+ mm.
        faces: (face, 3) int64, indices into ``vertices``.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Surface
        >>> corners = np.array([[0, 0, 0], [10, 0, 0], [0, 10, 0], [0, 0, 10]], dtype=float)
        >>> tetrahedron = Surface(corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))
        >>> tetrahedron.is_closed, round(tetrahedron.volume_ml, 4)
        (True, 0.1667)
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    @property
    def is_closed(self) -> bool:
        """True where the surface has no hole and no flap: two triangles share each edge and traverse it in opposite
        directions.
        """
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        there, counts = np.unique(edges, axis=0, return_counts=True)
        back = np.unique(edges[:, ::-1], axis=0)
        return bool((counts == 1).all() and np.array_equal(there, back))

    @property
    def area_mm2(self) -> float:
        """Total area of the triangles, mm²."""
        return float(np.linalg.norm(self._normals, axis=1).sum() / 2)

    @property
    def volume_ml(self) -> float:
        """Enclosed volume in ml, computed by the divergence theorem; meaningful for a closed surface."""
        corner = self.vertices[self.faces[:, 0]] - self.vertices.mean(0)
        return float((corner * self._normals).sum() / 6) / 1000

    @property
    def _normals(self) -> NDArray[np.float64]:
        a, b, c = (self.vertices[self.faces[:, n]] for n in range(3))
        crossed: NDArray[np.float64] = np.cross(b - a, c - a)
        return crossed
