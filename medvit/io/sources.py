"""Opening of sources: a DICOM folder, file, zip or DICOMDIR, NIfTI, NRRD, MetaImage, PNG or JPEG."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import ImageError, SourceError
from medvit.io.dicom import ON_IRREGULAR, open_preflight, open_volume
from medvit.io.dicom.preflight import Preflight
from medvit.io.files import is_macos_file
from medvit.io.images import IMAGE_SUFFIXES, READABLE, is_image_name, read_image
from medvit.io.scan import Scan
from medvit.io.unread_files import NOWHERE, next_step
from medvit.io.zip_archive import image_entries, zip_errors_as_source_errors, zip_files
from medvit.progress import Progress
from medvit.settings import check_geometry

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["is_packed_image", "open_source", "require_there"]


@dataclass(frozen=True)
class _Choice:
    """The volume of a source to read, the treatment of an irregular stack, and the form of a NIfTI to use."""

    series: str | None
    on_irregular: str
    geometry: str | None = None


def open_source(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    series: str | None = None,
    progress: Progress | None = None,
    on_irregular: str = "fail",
    geometry: str | None = None,
) -> Scan:
    """Open any source that medvit reads as one checked image.

    Args:
        source: a folder with DICOM files (walked recursively), a DICOM file or DICOMDIR, a zip of either, an image
            file, or a MetaTensor (channel, i, j, k) with its affine.
        series: number of a volume as ``medvit inspect`` lists it, or SeriesInstanceUID, where a source holds several;
            "2.1" means part 1 of volume 2 under "split".
        progress: shows the progress of reading; can cancel it.
        on_irregular: treatment of a tilted or uneven stack: "fail", "resample" or "split"; see
            ``medvit.io.dicom.read.read_dicom``.
        geometry: the form of a NIfTI to use, "sform" or "qform". None uses the sform where it is stated, and sets a
            flag (``Scan.excluded``) where the qform shows other axes or the mirror image.

    Returns:
        The image, its geometry and notes.

    Raises:
        SourceError: the source does not exist, or cannot be read, or contains no image.
        SelectionError: the source holds several volumes and ``series`` names none of them.
        GeometryError: the grid is not usable.
        ImageError: the pixels are not usable.
        TooLargeError: the image would exceed the memory limit.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import open_source, write_volume
        >>> voxels = np.arange(8 * 8 * 4, dtype=np.int16).reshape(8, 8, 4)
        >>> write_volume(Path("head.nii"), voxels, np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> open_source("head.nii")
        Scan(nifti, 8 x 8 x 4, 1 x 1 x 2 mm)
    """
    progress = progress or Progress()
    if on_irregular not in ON_IRREGULAR:
        raise SourceError(
            f"on_irregular {on_irregular!r}", f"it must be one of {', '.join(ON_IRREGULAR)}", "Leave it out to fail."
        )
    if isinstance(source, Scan):
        return source.check()
    check_geometry(geometry)
    scan = _opened(source, _Choice(series, on_irregular, geometry), progress).check()
    if geometry is None or scan.kind == "nifti":
        return scan
    words = f"The choice of geometry ({geometry}) was passed over: only a NIfTI has an sform and a qform."
    return replace(scan, notes=(*scan.notes, words))


def _opened(source: str | os.PathLike[str] | MetaTensor, choice: _Choice, progress: Progress) -> Scan:
    if not isinstance(source, (str, os.PathLike)):
        return _from_tensor(source)
    path = Path(source)
    require_there(path)
    if path.is_file() and zipfile.is_zipfile(path):
        packed = _packed_image(path, choice.geometry)
        if packed is not None:
            return packed
    elif path.is_file() and is_image_name(path):
        return read_image(path, choice.geometry)
    return _from_dicom(path, choice, progress)


def require_there(path: Path) -> None:
    """Refuse a path that does not exist.

    Args:
        path: the file or folder.

    Raises:
        SourceError: the path does not exist, or is a broken link.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.io import require_there
        >>> require_there(Path("missing.nii"))
        Traceback (most recent call last):
            ...
        medvit.errors.SourceError: Found nothing at missing.nii; a file or folder is needed. Check the path.
    """
    if path.exists():
        return
    if path.is_symlink():
        raise SourceError(
            f"a link at {path} that leads nowhere", "the file or folder itself is needed", f"{next_step(NOWHERE)}."
        )
    raise SourceError(f"nothing at {path}", "a file or folder is needed", "Check the path.")


def _from_tensor(image: MetaTensor) -> Scan:
    affine = getattr(image, "affine", None)
    if affine is None:
        raise SourceError(
            f"a {type(image).__name__}",
            "a path or a MetaTensor with its affine is needed",
            "Wrap the array in MetaTensor.",
        )
    array = np.asarray(image, dtype=np.float32)
    if not ((array.ndim == 4 and array.shape[0] == 1) or (array.ndim == 3 and array.shape[0] in (1, 3))):
        raise ImageError(
            f"a MetaTensor of shape {tuple(array.shape)}",
            "(1, i, j, k) is needed, or (1 or 3, row, column) for a picture",
            "Add the channel axis first.",
        )
    if array.ndim == 3:  # a picture has no position in the patient; its affine is ignored
        return Scan(array=array, affine=np.eye(4), kind="picture")
    return Scan(array=array, affine=np.asarray(affine, dtype=np.float64), kind="array")


def is_packed_image(path: Path) -> bool:
    """Return True if a file is a zip that contains exactly one file, an image.

    Args:
        path: the file.

    Returns:
        True for such a zip, False for other files.

    Raises:
        SourceError: the zip is damaged.

    Examples:
        >>> import zipfile
        >>> from pathlib import Path
        >>> from medvit.io import is_packed_image
        >>> with zipfile.ZipFile("picture.zip", "w") as archive:
        ...     archive.writestr("picture.png", b"")
        >>> is_packed_image(Path("picture.zip"))
        True
    """
    if not zipfile.is_zipfile(path):
        return False
    with zip_errors_as_source_errors(path.name), zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(entry.filename) for entry in image_entries(archive)]
    return len(names) == 1 and names[0].name.lower().endswith(IMAGE_SUFFIXES)


def _packed_image(path: Path, geometry: str | None) -> Scan | None:
    """Read the image of a zip that contains exactly one file, an image; return None for other files."""
    if not is_packed_image(path):
        return None
    with zip_errors_as_source_errors(path.name), zipfile.ZipFile(path) as archive:
        zip_files(archive)  # raises for entries that point outside of the zip or are too large
        (entry,) = image_entries(archive)
        return _image_from_zip(archive, entry, geometry)


def _from_dicom(path: Path, choice: _Choice, progress: Progress) -> Scan:
    with open_preflight(path, progress) as found:
        if not found.volumes and not found.damaged:
            raise _nothing(found, path)
        return open_volume(found, choice.series, choice.on_irregular, path.name or str(path), progress)


def _nothing(found: Preflight, path: Path) -> SourceError:
    """Compose the error for a source without images."""
    if found.lost:
        counts = Counter(why for _, why in found.lost)
        said = ", ".join(f"{count} {why}" for why, count in counts.items())
        return SourceError(
            f"{said}, and no DICOM image in {path.name}",
            "the files themselves are needed",
            f"{next_step(counts.most_common(1)[0][0])}.",
        )
    if not found.files:
        kind = f"an empty zip ({path.name})" if path.is_file() else f"no files in {path.name}"
        return SourceError(kind, "a DICOM series or one image file is needed", "Check the export.")
    if path.is_file() and not found.objects and not _may_be_dicom(path):
        return SourceError(
            f"{path.name}, a file of a format that is not read",
            f"{READABLE} is needed",
            "Convert it, for example with SimpleITK, nibabel or dcm2niix.",
        )
    hint = "Check the export."
    if set(found.objects) & {"SEG", "RTSTRUCT"}:
        hint = (
            "It holds results of a segmentation: read them with {medvit.convert()}, or give the images they belong to."
        )
    elif found.objects:
        hint = "Give the images these objects belong to."
    elif found.packed and path.is_file() and not zipfile.is_zipfile(path):
        hint = "It is an archive that cannot be opened as a zip: copy it again, or unpack it and give what was in it."
    elif found.packed:
        hint = f"It holds the archive {found.packed[0]}: unpack it, and give what was in it."
    elif path.is_dir():
        images = sorted(p.name for p in path.iterdir() if is_image_name(p) and not is_macos_file(p.name))
        hint = f"Give one of its image files instead, for example {images[0]}." if images else hint
    kinds = f" ({', '.join(sorted(found.objects))})" if found.objects else ""
    return SourceError(
        f"no DICOM images among {found.files} file(s){kinds} in {path.name}",
        "one series is needed",
        hint,
        option="medvit.convert()",
    )


def _may_be_dicom(path: Path) -> bool:
    """Return True for a zip, and for a file that has the extension of DICOM files, none, or a number."""
    ending = path.suffix.lower().lstrip(".")
    return ending in ("", "dcm", "dicom", "dic", "ima", "zip") or ending.isdigit() or zipfile.is_zipfile(path)


def _image_from_zip(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, geometry: str | None) -> Scan:
    with tempfile.TemporaryDirectory(prefix="medvit-") as folder:
        target = Path(folder) / PurePosixPath(entry.filename).name
        with archive.open(entry) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)
        return read_image(target, geometry)
