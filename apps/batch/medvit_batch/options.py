"""Options of a batch, as the journal stores them, so that ``retry`` and ``watch`` can use them again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.settings import DEFAULT_BUNDLE, RunSettings, check_geometry, check_names
from medvit_batch.errors import BatchError

if TYPE_CHECKING:
    from medvit.deidentification import Privacy
    from medvit_batch.execution.batch import Batch
    from medvit_batch.execution.cluster_spec import ClusterSpec

__all__ = ["BatchOptions"]

_ON_IRREGULAR = ("fail", "resample", "split")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """Options of ``medvit batch run``, as plain values."""

    archive: str
    bundle: str | None = None
    rules: str | None = None
    select: str | None = None
    types: tuple[str, ...] = ()
    preview: bool = True
    statistics: bool = False
    per_label: bool = False
    run: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    time_limit: float = 3600.0
    stop_after: int = 10
    min_free_gb: float = 1.0
    deidentify: bool = False
    deid_key: str | None = None
    retain: tuple[str, ...] = ()
    allow_burned_in: bool = False
    with_images: bool = False
    metrics_port: int = 0
    cluster: str = ""
    job: tuple[str, ...] = ()
    issuer: str = ""

    def lasting(self) -> BatchOptions:
        """Return a copy with absolute paths, so that the options mean the same in any working folder."""
        bundle = self.bundle
        if bundle is not None and (Path(bundle) / "configs" / "metadata.json").is_file():
            bundle = str(Path(bundle).resolve())
        rules = None if self.rules is None else str(Path(self.rules).resolve())
        key = None if self.deid_key is None else str(Path(self.deid_key).resolve())
        return replace(self, archive=str(Path(self.archive).resolve()), bundle=bundle, rules=rules, deid_key=key)

    def command(self) -> dict[str, Any]:
        """Return the options as the journal stores them."""
        return asdict(self)

    @classmethod
    def again(cls, command: dict[str, Any]) -> BatchOptions:
        """Return the options of an earlier run."""
        several = {name: tuple(command.get(name, ())) for name in ("types", "retain", "job")}
        return cls(**{**command, **several})

    def privacy(self, make_key: bool = True) -> Privacy | None:
        """Return the de-identification settings; None if results are not de-identified.

        Args:
            make_key: True to write a new key file if there is none; otherwise a temporary key is used.

        Raises:
            BatchError: options contradict each other, or the key is not valid.
        """
        from medvit.deidentification import RETAINABLE, Privacy, read_key

        if not self.deidentify:
            if self.deid_key or self.retain or self.allow_burned_in or self.with_images:
                raise BatchError(
                    "--deid-key, --retain, --allow-burned-in or --with-images without --deidentify",
                    "they apply to de-identification only",
                    "Add --deidentify, or leave them out.",
                )
            return None
        wrong = [name for name in self.retain if name not in RETAINABLE]
        if wrong:
            raise BatchError(
                f"--retain {wrong[0]}",
                f"it must be one of {', '.join(RETAINABLE)}",
                "Correct it, or leave it out to retain nothing.",
            )
        if self.deid_key is None:
            raise BatchError(
                "--deidentify without --deid-key",
                "a project's secret is needed, from which new UIDs are made, the same in each run",
                "Name a file outside the results with --deid-key: where there is none, a key is made.",
            )
        key, _ = read_key(Path(self.deid_key), make_key)
        return Privacy(
            key=key, retain=tuple(sorted(self.retain)), burned_in=self.allow_burned_in, images=self.with_images
        )

    def _where(self, out: Path) -> ClusterSpec | None:
        """Return the description of the cluster; None for local processes.

        Raises:
            BatchError: options contradict each other.
        """
        from medvit_batch.execution.cluster_spec import STARTED, ClusterSpec
        from medvit_batch.execution.slurm import read_job

        if self.job and self.cluster != "slurm":
            raise BatchError(
                "--job without --cluster slurm",
                "it sets the resources of SLURM jobs",
                "Add --cluster slurm, or leave --job out.",
            )
        if not self.cluster:
            return None
        if self.workers > 1 and (self.cluster not in STARTED or self.cluster == "cuda"):
            own = "there is one for each GPU" if self.cluster == "cuda" else "a cluster has workers of its own"
            raise BatchError(f"both --workers and --cluster {self.cluster}", own, "Leave --workers out.")
        return ClusterSpec(self.cluster, self.workers, read_job(self.job), out)

    def batch(self, out: Path, make_key: bool = True) -> Batch:
        """Validate the options and return everything that a session needs.

        Args:
            out: folder for the results.
            make_key: see ``privacy``.

        Raises:
            BatchError: options contradict each other, or a number is out of range.
            BackendError: an unknown backend or precision. GeometryError: an unknown geometry.
            RulesError, ExpressionError: rules or a selection with a mistake.
        """
        from medvit.restoration import RESTORED_TYPES
        from medvit.segmentation import OUTPUT_TYPES
        from medvit_batch.cases import RunOptions
        from medvit_batch.execution.batch import Batch, Limits
        from medvit_batch.selection.plan import Plan
        from medvit_batch.selection.rules import one_bundle, read_rules

        if self.rules is not None and self.bundle is not None:
            raise BatchError("both -b and --rules", "rules name the bundles themselves", "Leave one out.")
        for name, value, least in (
            ("--workers", self.workers, 1), ("--stop-after", self.stop_after, 1), ("--time-limit", self.time_limit, 0.001),
            ("--min-free-gb", self.min_free_gb, 0),
        ):  # fmt: skip
            if not value >= least:
                raise BatchError(f"{name} {value:g}", f"at least {least:g} is needed", "Correct it.")
        known = tuple(dict.fromkeys((*OUTPUT_TYPES, *RESTORED_TYPES)))
        wrong = [name for name in self.types if name not in known]
        if wrong:
            raise BatchError(f"output type {wrong[0]!r}", f"it must be one of {', '.join(known)}", "Correct -ot.")
        run = {**self.run, "roi_subset": tuple(self.run.get("roi_subset", ()))}
        if run.get("on_irregular", "fail") not in _ON_IRREGULAR:
            raise BatchError(
                f"--on-irregular {run['on_irregular']}", f"it must be one of {', '.join(_ON_IRREGULAR)}", "Correct it."
            )
        check_names(run.get("backend", "auto"), run.get("precision", "fp32"))
        check_geometry(run.get("geometry"))
        rules = (
            one_bundle(self.bundle or DEFAULT_BUNDLE, self.select)
            if self.rules is None
            else read_rules(Path(self.rules), self.select)
        )
        work = RunOptions(
            run=RunSettings(**run),
            types=self.types,
            preview=self.preview,
            statistics=self.statistics,
            per_label=self.per_label,
            privacy=self.privacy(make_key),
        )
        limits = Limits(
            workers=self.workers,
            time_limit=self.time_limit,
            stop_after=self.stop_after,
            min_free_gb=self.min_free_gb,
            metrics_port=self.metrics_port,
            where=self._where(out),
        )
        return Batch(
            archive=Path(self.archive),
            out=out,
            plan=Plan(rules, work, self.issuer),
            limits=limits,
            command=self.command(),
        )
