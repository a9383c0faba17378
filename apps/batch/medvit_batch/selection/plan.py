"""Plan of a run: the decision for each volume of an archive, with its reason, made from headers alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial

from medvit.bundles import Bundle, open_bundle
from medvit.cli import command_line_words
from medvit.deidentification import Privacy, burned_in
from medvit.errors import BundleError, MedvitError, OutputError
from medvit.io import PICTURE_SUFFIXES
from medvit.io.dicom.preflight import SeriesVolume, candidate_volumes, choose_volume, sort_planes
from medvit.reports import RATING_RULES
from medvit.restoration import RESTORED_TYPES
from medvit.segmentation import OUTPUT_TYPES
from medvit_batch.cases import NOT_DICOM, CaseDescription, CaseLocation, Decision, RunOptions, State, json_sha256
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.catalogue.file_headers import without_values
from medvit_batch.catalogue.series_groups import ARCHIVE, Group, Image, found_in
from medvit_batch.errors import RulesError
from medvit_batch.selection.attributes import of_image, of_volume
from medvit_batch.selection.rules import Choice, Rules

__all__ = ["Plan"]


_WRITTEN_AS = {"segmentation": OUTPUT_TYPES, "restoration": RESTORED_TYPES}
"""Output types by the task of a bundle; a batch runs bundles of these tasks."""

_DISPUTES = ("several_patients", "two_versions")
"""Codes of findings that leave open which patient a result would belong to."""

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_LONGEST_UID = 64


@dataclass(frozen=True)
class Plan:
    """Plan of a run: its rules and its options.

    Attributes:
        rules: rules that assign series to bundles.
        work: options of the run.
        issuer: issuer of each PatientID without one, as stated by the user; empty if not stated.
    """

    rules: Rules
    work: RunOptions
    issuer: str = ""

    @cached_property
    def bundles(self) -> dict[str, Bundle]:
        """Bundles that the rules name, opened and verified.

        Raises:
            BundleError: a bundle is unknown, has no weights, has another task, or lacks a requested label.
        """
        opened = {name: open_bundle(name) for name in self.rules.bundles}
        roots = {bundle.name: bundle.root for bundle in opened.values()}
        for bundle in opened.values():
            if roots[bundle.name] != bundle.root:
                raise RulesError(
                    f"two bundles named {bundle.name}",
                    "results are kept by name, so each needs its own",
                    "Rename one folder.",
                )
            self._require_use(bundle)
            bundle.verify()
            for label in self.work.run.roi_subset:
                bundle.label(label)
        return opened

    def _require_use(self, bundle: Bundle) -> None:
        task = bundle.facts.task
        if task not in _WRITTEN_AS:
            raise BundleError(
                f"{bundle.name}, a bundle for {task}",
                f"a batch runs bundles for {' and '.join(_WRITTEN_AS)}, which take one series each",
                f"Use medvit {'reconstruct' if task == 'reconstruction' else f'bundles show {bundle.name}'}.",
            )
        if self.work.types and not set(self.work.types) & set(_WRITTEN_AS[task]):
            raise OutputError(
                f"no output type for {bundle.name} among {', '.join(self.work.types)}",
                f"a bundle for {task} writes {', '.join(_WRITTEN_AS[task])}",
                "Add one with -ot, or leave -ot out.",
            )

    @cached_property
    def options_hashes(self) -> dict[str, str]:
        """Hash, for each bundle, of all settings that decide a result together with the images."""
        return {bundle.name: self._options_hash(bundle) for bundle in self.bundles.values()}

    def options_hash_of(self, decision: Decision) -> str:
        """Return the hash of all settings that decide a case's result together with the images."""
        options_hash = self.options_hashes.get(decision.bundle, "")
        # a pseudonym is made from the PatientID and its issuer
        return (
            options_hash
            if self.work.privacy is None or not decision.issuer
            else json_sha256([options_hash, decision.issuer])
        )

    def root(self, name: str) -> str:
        """Return the folder of a bundle that a decision names."""
        return next(str(bundle.root) for bundle in self.bundles.values() if bundle.name == name)

    def _options_hash(self, bundle: Bundle) -> str:
        configs = [hashlib.sha256((bundle.root / "configs" / name).read_bytes()).hexdigest() for name in ("inference.json", "metadata.json")]  # fmt: skip
        return json_sha256(
            [bundle.name, bundle.version, bundle.weights_sha256, configs, RATING_RULES, self.work.deciding()]
        )

    def decide(self, catalogue: Catalogue) -> Iterator[Decision]:
        """Yield a decision for each volume and each of its bundles, one series after the other; de-identified if the
        options ask for it.
        """
        privacy, catalogue.assumed = self.work.privacy, self.issuer
        yield from (
            self._decide(catalogue) if privacy is None else map(partial(_unnamed, privacy), self._decide(catalogue))
        )

    def _decide(self, catalogue: Catalogue) -> Iterator[Decision]:
        for group in catalogue.groups():
            try:
                volumes = sort_planes(group.planes)
            except MedvitError as error:  # another copy of the series could not be read for comparison
                yield _whole(group, error)
                continue
            for volume in volumes:
                yield from self._volume(group, volumes, volume)
        for image in catalogue.images():
            yield from self._image(image)

    def _volume(self, group: Group, volumes: tuple[SeriesVolume, ...], volume: SeriesVolume) -> Iterator[Decision]:
        facts, name = _facts(volume), _names(volumes)[volume.number]
        lasting = f"{group.series}|{group.place}|{name}"
        key = CaseLocation(group.inside, group.series, volume.number)
        home = _folder(group, name)
        question = "" if group.several and self.work.privacy is None else group.question
        disputed = bool(question) or any(finding.code in _DISPUTES for finding in volume.findings)

        def decision(bundle: str, state: State, reason: str, code: str = "") -> Decision:
            named = self.bundles[bundle].name if bundle else ""
            folder = f"{home}/{named}" if bundle else home
            return Decision(
                volume=lasting, bundle=named, state=state, reason=reason, facts=facts, key=key, file_signature=group.file_signature, changed=group.changed, folder=folder, code=code, patient=group.patient, issuer=group.issuer, disputed=disputed
            )  # fmt: skip

        if volume.kind in ("localizer", "screen", "clip"):
            yield decision(
                "",
                State.SKIPPED,
                f"{volume.describe().split(', ' + (volume.series or '('))[0]}: not to be run on",
                volume.kind,
            )
            return
        if volume in candidate_volumes(volumes)[1]:
            yield decision(
                "", State.SKIPPED, "a few slices beside the volume of their series; its result says so", "stray"
            )
            return
        choice = self._choose(volume)
        if not choice.bundles:
            yield decision("", State.SKIPPED, choice.reason, "rules")
        refused = _refusal(group, volumes, volume, self.work.run.on_irregular) if choice.bundles else None
        for bundle in choice.bundles:
            misfit = self._misfit(bundle, volume.kind == "picture", facts.modality or None)
            if misfit is not None:
                yield decision(bundle, State.SET_ASIDE, *misfit)
            elif refused is not None:
                yield decision(bundle, State.SET_ASIDE, *refused)
            elif question:
                yield decision(bundle, State.SET_ASIDE, question, "PatientQuestion")
            elif (shown := self._shows_words(volume)) is not None:
                yield decision(bundle, State.SET_ASIDE, shown, "ImageError")
            else:
                yield decision(bundle, State.PENDING, choice.reason)

    def _shows_words(self, volume: SeriesVolume) -> str | None:
        """Return the reason why an image may show the patient's name in its pixels; None if it does not, or if that is
        allowed.
        """
        if self.work.privacy is None or self.work.privacy.burned_in:
            return None
        stated = of_volume(volume)("BurnedInAnnotation")
        refused = burned_in(volume.modality, stated[0] if stated else "")
        return None if refused is None else refused.sentence(command_line_words)

    def _choose(self, volume: SeriesVolume) -> Choice:
        try:
            return self.rules.choose(of_volume(volume))
        except Exception as error:  # a damaged value in the header must not end the run
            return Choice((), f"its header cannot be read for the selection ({type(error).__name__})")

    def _misfit(self, bundle: str, picture: bool, modality: str | None) -> tuple[str, str] | None:
        opened = self.bundles[bundle]
        reason = opened.facts.mismatch(opened.name, picture, modality)
        dimensions = picture != (opened.facts.dimensions == 2)
        if reason is None or (self.work.run.force and not dimensions):
            return None
        step = "Select other series with --select or a rule" + (
            "." if dimensions else ", or run all the same with --force."
        )
        return f"Found {reason}. {step}", "ImageError" if dimensions else "ModalityError"

    def _image(self, image: Image) -> Iterator[Decision]:
        choice, picture = self.rules.choose(of_image), image.path.suffix.lower() in PICTURE_SUFFIXES
        facts = CaseDescription(kind="picture" if picture else "image", file=image.alias)
        for bundle in choice.bundles or ("",):
            fits = bundle and picture == (self.bundles[bundle].facts.dimensions == 2)
            reason = (
                choice.reason
                if fits or not bundle
                else f"{'a picture' if picture else 'a volume'}, which {bundle} does not take"
            )
            state, code = (State.PENDING, "") if fits else (State.SKIPPED, "rules")
            if fits and self.work.types and not set(self.work.types) & set(NOT_DICOM):
                state, code = State.SET_ASIDE, "OutputError"
                reason = (
                    "an image file, of which no DICOM objects can be made: add -ot nifti, or run on its DICOM series"
                )
            home, named = f"image-{image.place}", self.bundles[bundle].name if bundle else ""
            yield Decision(
                volume=f"image|{image.place}", bundle=named, state=state, reason=reason, facts=facts, key=CaseLocation(image=image.path), file_signature=image.file_signature,
                changed=image.changed, folder=f"{home}/{named}" if bundle else home, code=code,
            )  # fmt: skip


def _refusal(
    group: Group, volumes: tuple[SeriesVolume, ...], volume: SeriesVolume, on_irregular: str
) -> tuple[str, str] | None:
    """Return the reason and the error's type if a run would refuse a volume whatever its pixels are; None if not."""
    try:
        choose_volume(found_in(group, volumes), str(volume.number), ARCHIVE)
    except MedvitError as error:
        return without_values(error.headline(command_line_words)), type(error).__name__
    grave = ("refused", "irregular") if on_irregular == "fail" else ("refused",)
    refused = [finding for severity in grave for finding in volume.findings if finding.severity == severity]
    if not refused:
        return None
    return without_values(" ".join(finding.sentence(command_line_words) for finding in refused)), type(
        refused[0].error()
    ).__name__


def _unnamed(privacy: Privacy, decision: Decision) -> Decision:
    """Replace UIDs, names of files and dates in a decision by pseudonyms of the project."""
    facts = decision.facts
    return replace(
        decision,
        volume=privacy.token(decision.volume),
        reason=privacy.words(decision.reason),
        folder=privacy.folder(decision.folder),
        file_signature=privacy.token(decision.file_signature),
        facts=replace(
            facts, study=privacy.uid(facts.study), series=privacy.uid(facts.series), part=privacy.words(facts.part)
        ),
    )


def _whole(group: Group, error: MedvitError) -> Decision:
    facts = CaseDescription(
        study=_uid(group.planes[0].study), series=_uid(group.series), modality=group.planes[0].modality
    )
    key, reason = CaseLocation(group.inside, group.series, 0), without_values(error.headline(command_line_words))
    return Decision(
        volume=f"{group.series}|{group.place}|", bundle="", state=State.SET_ASIDE, reason=reason, facts=facts, key=key, file_signature=group.file_signature, changed=group.changed, folder=_folder(group, ""),
        code=type(error).__name__,
    )  # fmt: skip


def _names(volumes: tuple[SeriesVolume, ...]) -> dict[int, str]:
    """Return a name for each volume's number that is unique within its series; empty for the main volume."""
    main = max(volumes, key=lambda v: (v.kind == "volume", len(v.planes), -v.number))
    counts: Counter[tuple[str, str]] = Counter()
    names = {}
    for volume in volumes:
        counts[volume.kind, volume.part] += 1
        again = counts[volume.kind, volume.part]
        names[volume.number] = (
            "" if volume is main and not volume.part else json.dumps([volume.kind, volume.part, again])
        )
    return names


def _uid(text: str) -> str:
    """Return the text if it is a valid UID, else ""; a damaged header may hold other text in its place."""
    return text if _UID.fullmatch(text) and len(text) <= _LONGEST_UID else ""


def _folder(group: Group, name: str) -> str:
    """Return the name of a series' folder: its UID, with a hash appended if the UID alone would not be unique."""
    base = _uid(group.series) or f"series-{hashlib.sha256(group.series.encode()).hexdigest()[:16]}"
    apart = hashlib.sha256(f"{group.place}|{name}".encode()).hexdigest()[:8]
    return f"{base}-{apart}" if group.place or name else base


def _facts(volume: SeriesVolume) -> CaseDescription:
    first = volume.first
    modality = first.modality if re.fullmatch(r"[A-Z]{1,16}", first.modality) else ""
    return CaseDescription(
        study=_uid(first.study), series=_uid(volume.series), part=volume.part, kind=volume.kind, modality=modality, slices=len(volume.planes), rows=first.rows, columns=first.columns,
        plane=volume.plane_name, file=first.file.name,
    )  # fmt: skip
