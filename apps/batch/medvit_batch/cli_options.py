"""Options shared by several commands: bundle, run and output options, and the local DICOM node."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from medvit.cli.common import Geometry, MemoryLimit, RepairTags, split_values
from medvit_batch.events import Format
from medvit_batch.network.peers import Local, Tls
from medvit_batch.options import BatchOptions

__all__ = ["LogFormat", "Out", "asks"]

Out = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; created, or gone on with.", show_default=False)]  # fmt: skip

LogFormat = Annotated[Format, typer.Option("--log-format", help="What is printed: text for people, or json, a line for each event.")]  # fmt: skip

Bundle = Annotated[str | None, typer.Option("--bundle", "-b", "--task", "-ta", help="Bundle: name or folder. Default: as medvit segment.", show_default=False)]  # fmt: skip
Rules = Annotated[str | None, typer.Option("--rules", help="TOML or YAML file that says which series goes to which bundle.", show_default=False)]  # fmt: skip
Select = Annotated[str | None, typer.Option("--select", help="Only series for which this holds, as 'Modality == CT and BodyPart ~ HEAD'.", show_default=False)]  # fmt: skip
Types = Annotated[list[str] | None, typer.Option("--output-type", "-ot", help="nifti, dicom-seg, rtstruct, sr, sc, png; dicom for a restored series; repeatable. Default: as medvit segment and restore.")]  # fmt: skip
Rois = Annotated[list[str] | None, typer.Option("--roi-subset", "-rs", help="Labels to keep, separated by commas.")]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")]
Preview = Annotated[bool, typer.Option("--preview/--no-preview", "-p", help="A picture of each result; the report shows them.")]  # fmt: skip
Statistics = Annotated[bool, typer.Option("--statistics", "-s", help="Also statistics.csv for each case.")]
Fast = Annotated[bool, typer.Option("--fast", "-f", help="The bundle's lighter overlap: faster, slightly less exact.")]
Backend = Annotated[str, typer.Option("--backend", help="How the network is run: auto, eager, compiled, openvino or cuda; as medvit segment.")]  # fmt: skip
Precision = Annotated[str, typer.Option("--precision", help="fp32, or bf16 where the bundle's gate has passed; as medvit segment.")]  # fmt: skip
PerLabel = Annotated[bool, typer.Option("--per-label", help="Also one NIfTI for each label.")]
Force = Annotated[bool, typer.Option("--force", help="Run on modalities the bundle was not made for; recorded.")]
OnIrregular = Annotated[str, typer.Option("--on-irregular", help="fail, resample or split tilted or uneven stacks.")]
Workers = Annotated[int, typer.Option("--workers", "-w", help="Processes; each keeps its own model in memory.")]
TimeLimit = Annotated[float, typer.Option("--time-limit", help="Seconds a case may take; then it has failed.")]
StopAfter = Annotated[
    int,
    typer.Option("--stop-after", help="Stop when so many cases in a row have failed; watch and listen rest and go on."),
]
MinFree = Annotated[float, typer.Option("--min-free-gb", help="Start no case when less space than this is free.")]
Deidentify = Annotated[bool, typer.Option("--deidentify", help="Results name nobody: DICOM PS3.15's Basic Profile.")]
DeidKey = Annotated[Path | None, typer.Option("--deid-key", help="File with the project's secret for --deidentify; made if it is not there.", show_default=False)]  # fmt: skip
Retain = Annotated[list[str] | None, typer.Option("--retain", help="With --deidentify, keep: shifted-dates, device, institution, characteristics; repeatable.")]  # fmt: skip
BurnedIn = Annotated[bool, typer.Option("--allow-burned-in", help="With --deidentify, also images that may have names in their pixels.")]  # fmt: skip
Cluster = Annotated[str, typer.Option("--cluster", help="Dask workers run the cases: the address of a scheduler; or local, slurm, cuda, to start --workers of them.", show_default=False)]  # fmt: skip
Jobs = Annotated[list[str] | None, typer.Option("--job", help="With --cluster slurm, name=value for each job: queue, account, walltime, cores, memory, gres, interface, prologue, python; repeatable.")]  # fmt: skip
MetricsPort = Annotated[int, typer.Option("--metrics-port", help="Serve metrics for Prometheus at this port of this machine, under /metrics; 0: nowhere.")]  # fmt: skip
Issuer = Annotated[str, typer.Option("--issuer", help="Issuer of every PatientID without IssuerOfPatientID; decides whether equal numbers mean one patient.", show_default=False)]  # fmt: skip
WithImages = Annotated[bool, typer.Option("--with-images", help="With --deidentify, also write the images, de-identified.")]  # fmt: skip


Aet = Annotated[str, typer.Option("--aet", help="Our AE title.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a peer may be silent.")]
Cert = Annotated[Path | None, typer.Option("--tls-cert", help="Our certificate (PEM).", show_default=False)]
Key = Annotated[Path | None, typer.Option("--tls-key", help="Its key (PEM).", show_default=False)]
Trust = Annotated[Path | None, typer.Option("--tls-trust", help="Certificates that are trusted (PEM).", show_default=False)]  # fmt: skip


def _asked(
    bundle: Bundle = None,
    rules: Rules = None,
    select: Select = None,
    output_type: Types = None,
    roi_subset: Rois = None,
    device: Device = "auto",
    preview: Preview = True,
    statistics: Statistics = False,
    fast: Fast = False,
    backend: Backend = "auto",
    precision: Precision = "fp32",
    per_label: PerLabel = False,
    force: Force = False,
    repair_tags: RepairTags = False,
    on_irregular: OnIrregular = "fail",
    geometry: Geometry = None,
    workers: Workers = 1,
    time_limit: TimeLimit = 3600,
    stop_after: StopAfter = 10,
    min_free_gb: MinFree = 1.0,
    deidentify: Deidentify = False,
    deid_key: DeidKey = None,
    retain: Retain = None,
    allow_burned_in: BurnedIn = False,
    with_images: WithImages = False,
    metrics_port: MetricsPort = 0,
    cluster: Cluster = "",
    job: Jobs = None,
    memory_limit: MemoryLimit = None,
    issuer: Issuer = "",
) -> BatchOptions:
    switches = {"device": device, "fast": fast, "backend": backend, "precision": precision, "force": force, "roi_subset": split_values(roi_subset), "repair_tags": repair_tags, "on_irregular": on_irregular, "geometry": geometry}  # fmt: skip
    return BatchOptions(
        archive="", bundle=bundle, rules=rules, select=select, types=split_values(output_type), preview=preview, statistics=statistics, per_label=per_label, run=switches, workers=workers, time_limit=time_limit,
        stop_after=stop_after, min_free_gb=min_free_gb, deidentify=deidentify, deid_key=None if deid_key is None else str(deid_key), retain=split_values(retain), allow_burned_in=allow_burned_in,
        with_images=with_images, metrics_port=metrics_port, cluster=cluster, job=tuple(job or ()), issuer=issuer.strip(),
    )  # fmt: skip


def _local(
    aet: Aet = "MEDVIT", timeout: Timeout = 30, tls_cert: Cert = None, tls_key: Key = None, tls_trust: Trust = None
) -> Local:
    return Local(aet, timeout, Tls(tls_cert, tls_key, tls_trust))


_GROUPS: dict[str, Callable[..., Any]] = {"asked": _asked, "local": _local}


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameters ``asked`` and ``local`` of a command by the shared options, and build both objects from
    them.

    The command itself must fill in the ``archive`` of ``asked``.
    """
    own = inspect.signature(command, eval_str=True).parameters
    groups = {name: inspect.signature(_GROUPS[name], eval_str=True).parameters for name in own if name in _GROUPS}

    @wraps(command)
    def wrapped(**values: Any) -> None:
        for name, shared in groups.items():
            values[name] = _GROUPS[name](**{option: values.pop(option) for option in shared})
        command(**values)

    merged: list[inspect.Parameter] = []
    for name, parameter in own.items():
        merged += groups[name].values() if name in groups else [parameter]
    merged = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in merged]
    wrapped.__signature__ = inspect.Signature(merged)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    del wrapped.__wrapped__
    return wrapped
