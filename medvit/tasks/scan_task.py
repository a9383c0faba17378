"""Steps that the tasks with one scan as their input share, up to the prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from medvit.bundles import Bundle
from medvit.io import Scan
from medvit.progress import Progress
from medvit.settings import RunSettings, check_geometry, check_names, thread_count
from medvit.tasks.prepared_scan import PreparedScan, open_scans, prepare_scan
from medvit.tasks.protocol import Input

__all__ = ["ScanTask"]


class ScanTask:
    """Base of a task with one scan as its input; see ``medvit.tasks.Task``.

    Examples:
        >>> from medvit.segmentation import SegmentationTask
        >>> from medvit.tasks import ScanTask
        >>> issubclass(SegmentationTask, ScanTask), ScanTask.inputs
        (True, ('image',))
    """

    name: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("image",)
    settings = RunSettings
    opened = Scan

    def check(self, bundle: Bundle, settings: RunSettings) -> None:
        """Refuse a bundle of another task, and unknown backends and geometries.

        Args:
            bundle: the bundle to run.
            settings: settings of the run.

        Raises:
            BundleError: the bundle is of another task.
            BackendError: the backend or the precision is unknown, or the number of threads is below 1.
            GeometryError: the geometry is unknown.
        """
        bundle.require_task(self.name)
        check_names(settings.backend, settings.precision)
        check_geometry(settings.geometry)
        thread_count(settings.threads)

    def open(
        self, inputs: Mapping[str, Input | Scan], bundle: Bundle, settings: RunSettings, progress: Progress
    ) -> dict[str, Scan]:
        """Open the source as a scan; check a scan that is already open."""
        return open_scans(inputs, settings, progress)

    def prepare(self, opened: Mapping[str, Scan], bundle: Bundle, settings: RunSettings) -> PreparedScan:
        """Check that the scan suits the bundle; repair its UIDs if requested."""
        return prepare_scan(opened, bundle, settings)
