"""Options shared by several commands: bundle, run and output options, and the local DICOM node."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from medvit.cli.common import Geometry, MemoryLimit, RepairTags, Threads, split_values
from medvit_batch.events import Format
from medvit_batch.network.peers import Local, Tls
from medvit_batch.options import BatchOptions

__all__ = ["LogFormat", "Out", "asks"]

Out = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; created, or continued if a batch wrote it.", show_default=False)]  # fmt: skip

LogFormat = Annotated[Format, typer.Option("--log-format", help="Output: text for people, or json, one line for each event.")]  # fmt: skip

Bundle = Annotated[str | None, typer.Option("--bundle", "-b", "--task", "-ta", help="Bundle: name or folder. Default: as medvit segment.", show_default=False)]  # fmt: skip
Rules = Annotated[str | None, typer.Option("--rules", help="TOML or YAML file with rules that choose the bundle of each series.", show_default=False)]  # fmt: skip
Select = Annotated[str | None, typer.Option("--select", help="Only series for which this condition holds, such as 'Modality == CT and BodyPart ~ HEAD'.", show_default=False)]  # fmt: skip
Types = Annotated[list[str] | None, typer.Option("--output-type", "-ot", help="nifti, dicom-seg, rtstruct, sr, sc, png; dicom for a restored series; repeatable. Default: as medvit segment and restore.")]  # fmt: skip
Rois = Annotated[list[str] | None, typer.Option("--roi-subset", "-rs", help="Labels to keep, separated by commas.")]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")]
Preview = Annotated[bool, typer.Option("--preview/--no-preview", "-p", help="Write a picture of each result, which the report shows.")]  # fmt: skip
Statistics = Annotated[bool, typer.Option("--statistics", "-s", help="Also write statistics.csv for each case.")]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast", "-f", help="Less overlap between windows, as the bundle states it: faster, slightly less exact."
    ),
]
Backend = Annotated[str, typer.Option("--backend", help="Backend of the network: auto, eager, compiled, openvino or cuda. See medvit doctor.")]  # fmt: skip
Precision = Annotated[str, typer.Option("--precision", help="fp32, or bf16 or int8 if the bundle passed medvit bundles precision-check in it.")]  # fmt: skip
PerLabel = Annotated[bool, typer.Option("--per-label", help="Also write one NIfTI for each label.")]
Force = Annotated[
    bool, typer.Option("--force", help="Run on modalities that the bundle is not made for; recorded in run.json.")
]
OnIrregular = Annotated[
    str, typer.Option("--on-irregular", help="What to do with a tilted or uneven stack: fail, resample or split.")
]
Workers = Annotated[
    int, typer.Option("--workers", "-w", help="Number of processes; each keeps its own model in memory.")
]
TimeLimit = Annotated[float, typer.Option("--time-limit", help="Seconds that a case may take; a longer one fails.")]
StopAfter = Annotated[
    int,
    typer.Option(
        "--stop-after", help="End the run after so many failures in a row; watch and listen pause and continue."
    ),
]
MinFree = Annotated[float, typer.Option("--min-free-gb", help="Free disk space in GB below which no case starts.")]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="De-identify the results: Basic Profile of DICOM PS3.15.")
]
DeidKey = Annotated[Path | None, typer.Option("--deid-key", help="File with the secret of the project for --deidentify; made if it does not exist.", show_default=False)]  # fmt: skip
Retain = Annotated[list[str] | None, typer.Option("--retain", help="With --deidentify, keep: shifted-dates, device, institution, characteristics; repeatable.")]  # fmt: skip
BurnedIn = Annotated[bool, typer.Option("--allow-burned-in", help="With --deidentify, also take images that may have names in their pixels.")]  # fmt: skip
Cluster = Annotated[str, typer.Option("--cluster", help="Run the cases on Dask workers: the address of a scheduler; or local, slurm or cuda to start --workers of them.", show_default=False)]  # fmt: skip
Jobs = Annotated[list[str] | None, typer.Option("--job", help="With --cluster slurm, NAME=VALUE for each job: queue, account, walltime, cores, memory, gres, interface, prologue or python; repeatable.")]  # fmt: skip
MetricsPort = Annotated[int, typer.Option("--metrics-port", help="Serve metrics for Prometheus at this port, on this machine only, under /metrics. 0 serves none.")]  # fmt: skip
Issuer = Annotated[str, typer.Option("--issuer", help="Issuer of every PatientID without IssuerOfPatientID. Equal numbers of one issuer are one patient.", show_default=False)]  # fmt: skip
WithImages = Annotated[bool, typer.Option("--with-images", help="With --deidentify, also write the images, de-identified.")]  # fmt: skip


Aet = Annotated[str, typer.Option("--aet", help="AE title of this node.")]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that a peer may be silent.")]
Cert = Annotated[Path | None, typer.Option("--tls-cert", help="Certificate of this node (PEM).", show_default=False)]
Key = Annotated[Path | None, typer.Option("--tls-key", help="Key of that certificate (PEM).", show_default=False)]
Trust = Annotated[Path | None, typer.Option("--tls-trust", help="Certificates to trust (PEM); peers must then show one.", show_default=False)]  # fmt: skip


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
    threads: Threads = None,
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
