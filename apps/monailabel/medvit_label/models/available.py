"""Bundles that a project offers, each as installed or in the project's own version that serves."""

from __future__ import annotations

from collections.abc import Iterable

from medvit.bundles import Bundle, bundle_folders, open_bundle
from medvit.io.labels import clean_name
from medvit_label.errors import UnknownError
from medvit_label.images.source import LabelImage
from medvit_label.models.versions import VersionRepository

__all__ = ["TASKS", "Models"]

TASKS = {"segmentation": "segmentation", "restoration": "others", "reconstruction": "others"}
"""MONAI Label's type of each task; clients offer drawing on the image's grid only for "segmentation"."""


class Models:
    """Bundles that a project offers, with their versions.

    Args:
        names: bundles named at the start; empty for all trained ones.
        versions: repository of the project's own versions.
    """

    def __init__(self, names: tuple[str, ...], versions: VersionRepository) -> None:
        self._names, self.versions = names, versions

    def installed(self) -> dict[str, Bundle]:
        """Return the installed bundles by name: trained, of a supported task, and named at the start if any were named."""
        found = {}
        for name in self._names or tuple(bundle_folders()):
            bundle = open_bundle(name)
            if self._names:
                bundle.require_trained()
            if bundle.state in ("trained", "fetched") and bundle.facts.task in TASKS:
                found[bundle.name] = bundle
        return found

    def served(self) -> dict[str, Bundle]:
        """Return the bundles that serve, by name.

        Raises:
            BundleError: the project's version of a bundle cannot be used; no other version replaces it.
        """
        return {name: self.versions.bundle(bundle) for name, bundle in self.installed().items()}

    def find(self, name: str, number: int | None = None) -> Bundle:
        """Return a bundle by name, in the version that serves or in another one.

        Raises:
            UnknownError: the bundle is not offered. BundleError: the version cannot be used.
        """
        models = self.installed()
        if name not in models:
            offered = ", ".join(models) or "none"
            raise UnknownError(
                f"no model {name[:60]!r} on this server", f"it offers: {offered}", "Ask for one of these."
            )
        return self.versions.bundle(models[name], number)

    def for_label(self, image: LabelImage, model: str | None, names: Iterable[str] = ()) -> Bundle | None:
        """Find the bundle whose labels an annotation uses.

        Args:
            image: the labelled image.
            model: bundle that the client names; if empty, the only bundle that fits the image and has all names.
            names: names of the annotation's labels.

        Raises:
            UnknownError: there is no such model.
        """
        if model:
            return self.find(model)
        found = [
            b for b in self.served().values()
            if b.facts.task == "segmentation" and b.facts.mismatch(b.name, image.is_picture, image.modality) is None
        ]  # fmt: skip
        if len(found) > 1:
            keys = {clean_name(name, name) for name in names}
            found = [b for b in found if keys and keys <= _label_names(b)]
        return found[0] if len(found) == 1 else None


def _label_names(bundle: Bundle) -> set[str]:
    """Return the names and titles of a bundle's labels, normalised for comparison."""
    return {clean_name(text, text) for label in bundle.facts.labels for text in (label.name, label.title)}
