"""The bundles on offer: as they were installed, or the project's own version of them that serves."""

from __future__ import annotations

from medvit.bundles import Bundle, bundle_folders, open_bundle
from medvit_label.errors import UnknownError
from medvit_label.models.versions import Versions

__all__ = ["TASKS", "Models"]

TASKS = {"segmentation": "segmentation", "restoration": "others", "reconstruction": "others"}
"""MONAI Label's word for each task: what makes no labels on the image's own grid is not offered where clients draw such."""


class Models:
    """What can be asked to infer.

    Args:
        names: bundles named at the start; empty for all that are trained.
        versions: the project's own.
    """

    def __init__(self, names: tuple[str, ...], versions: Versions) -> None:
        self._names, self._versions = names, versions

    def installed(self) -> dict[str, Bundle]:
        """The bundles as they were installed: trained, for a task that is served, and named at the start if any were."""
        found = {}
        for name in self._names or tuple(bundle_folders()):
            bundle = open_bundle(name)
            if self._names:
                bundle.require_trained()
            if bundle.state in ("trained", "fetched") and bundle.facts.task in TASKS:
                found[bundle.name] = bundle
        return found

    def served(self) -> dict[str, Bundle]:
        """The bundles that answer.

        Raises:
            BundleError: the project's version of one cannot be used; nothing else answers in its place.
        """
        return {name: self._versions.bundle(bundle) for name, bundle in self.installed().items()}

    def find(self, name: str, number: int | None = None) -> Bundle:
        """The bundle of that name that answers, or another version of it.

        Raises:
            UnknownError: it is not on offer.
        """
        models = self.installed()
        if name not in models:
            offered = ", ".join(models) or "none"
            raise UnknownError(
                f"Found no model {name[:60]!r} on this server; it offers: {offered}. Ask for one of these."
            )
        return self._versions.bundle(models[name], number)
