"""Contents of results: files, keys of records and tables, and the stages that a run reports, all made through the
command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tests.laws.scenes import Scenes, make_scenes
from tests.laws.scratch import invoke, scratch
from tests.laws.shapes import columns, file_shape, shape

ROOT = Path(__file__).resolve().parents[2]


def results() -> dict[str, Any]:
    """List for each run: exit code, files, shapes of their JSON, columns of their tables, and shape of the output."""
    return {name: {key: part for key, part in run.items() if key != "stages"} for name, run in _runs().items()}


def stages() -> dict[str, Any]:
    """List the stages of progress in order: as a run reports them, with totals, and as its record times them."""
    timed = {name: run["stages"] for name, run in _runs().items() if "stages" in run}
    return {"shown by the library": _shown(), "timed in run.json": timed}


@cache
def _runs() -> dict[str, dict[str, Any]]:
    """Run each command once on the scenes."""
    found = {}
    with scratch(OMP_NUM_THREADS="1") as folder:
        scenes = make_scenes(folder)
        for name, (command, with_output) in _commands(scenes).items():
            out = folder / "out" / name
            arguments = [*command, *(("-o", out) if with_output else ())]
            outcome = invoke(*arguments)
            found[name] = _found(out, outcome)
    return found


def _commands(scenes: Scenes) -> dict[str, tuple[list[object], bool]]:
    """Make the command lines, each with a flag that tells if it writes to a folder."""
    bundle = scenes.bundle
    drr = scenes.top / "out" / "drr of DICOM"
    views = ["--ap", drr / "drr_0.dcm", "--lat", drr / "drr_90.dcm"]
    made = scenes.top / "out" / "segment DICOM"
    everything = (
        "-ot nifti -ot dicom-seg -ot rtstruct -ot sr -ot sc -p -s --quality-map --per-label --json -d cpu".split()
    )
    return {
        "segment DICOM": (["segment", scenes.series, "-b", bundle("segmenting"), *everything], True),
        "segment NIfTI": (["segment", scenes.nifti, "-b", bundle("segmenting"), "-s", "--json", "-d", "cpu"], True),
        "segment with nothing found": (["segment", scenes.air, "-b", bundle("segmenting"), "-s", "--json", "-d", "cpu"], True),
        "segment with repaired headers": (["segment", scenes.unnamed, "-b", bundle("segmenting"), *"-rs mandible,larynx --repair-tags --json -d cpu".split()], True),
        "segment without repairing headers": (["segment", scenes.unnamed, "-b", bundle("segmenting"), "--json", "-d", "cpu"], True),
        "segment an uneven stack": (["segment", scenes.uneven, "-b", bundle("segmenting"), *"--on-irregular resample --roi-crop body --json -d cpu".split()], True),
        "segment a picture": (["segment", ROOT / "examples" / "nuclei.png", "-b", "nuclei_barlow_swin", *"-p -s --json -d cpu".split()], True),
        "restore DICOM": (["restore", scenes.series, "-b", bundle("restoring"), *"-p -s --maps --json -d cpu".split()], True),
        "restore NIfTI finer": (["restore", scenes.magnetic, "-b", bundle("super_resolution"), *"-p -s --json -d cpu".split()], True),
        "drr of DICOM": (["drr", scenes.bones, *"-ot png -ot dicom -ot nifti --rows 96 --columns 96 --pixel-spacing 5 --json".split()], True),
        "reconstruct": (["reconstruct", *views, "-b", bundle("reconstructing"), *"-p -s --maps --json -d cpu".split(), *"-ot nifti -ot stl -ot ply -ot obj".split()], True),
        "convert SEG": (["convert", made / "seg.dcm", "--like", scenes.series, *"-ot nifti -ot rtstruct --json".split()], True),
        "inspect DICOM": (["inspect", scenes.series, "--json"], False),
        "inspect NIfTI": (["inspect", scenes.nifti, "--json"], False),
        "inspect a picture": (["inspect", ROOT / "examples" / "nuclei.png", "--json"], False),
        "inspect an uneven stack": (["inspect", scenes.uneven, "--json"], False),
        "inspect missing headers": (["inspect", scenes.unnamed, "--json"], False),
        "bundles list": (["bundles", "list", "--json"], False),
        "bundles show": (["bundles", "show", "headneck_ct_swin_unetr", "--json"], False),
        "bundles verify": (["bundles", "verify", bundle("segmenting"), "--json"], False),
        "a mistake": (["segment", scenes.top / "absent", "-b", bundle("segmenting"), "--json"], True),
    }  # fmt: skip


def _found(out: Path, outcome: Any) -> dict[str, Any]:
    files = sorted(path for path in out.rglob("*") if path.is_file()) if out.is_dir() else []
    found: dict[str, Any] = {"exit_code": outcome.exit_code, "printed": _printed(outcome)}
    if files:
        found["files"] = sorted({re.sub(r"\d+", "#", path.relative_to(out).as_posix()) for path in files})
    for path in files:
        if path.suffix == ".json":
            found[path.name] = file_shape(path)
        if path.suffix == ".csv":
            found[path.name] = columns(path)
    if (out / "run.json").is_file():
        found["stages"] = list(json.loads((out / "run.json").read_text(encoding="utf-8")).get("seconds", {}))
    return found


def _printed(outcome: Any) -> Any:
    """Describe the JSON on standard output; text stays text."""
    try:
        return shape(json.loads(outcome.stdout))
    except ValueError:
        return f"not JSON: {outcome.stdout[-500:]} {outcome.exception!r}"


def _shown() -> dict[str, list[str]]:
    """Run each task through the library; list its reports of progress, successive equal names as one."""
    import medvit

    found = {}
    with scratch(OMP_NUM_THREADS="1") as folder:
        scenes = make_scenes(folder)
        views = folder / "views"
        invoke("drr", scenes.bones, "-o", views, *"-ot dicom --rows 96 --columns 96 --pixel-spacing 5".split())
        cpu: dict[str, Any] = {"device": "cpu"}
        runs: dict[str, Callable[[Any], Any]] = {
            "segment DICOM": lambda progress: medvit.segment(scenes.series, scenes.bundle("segmenting"), quality_map=True, progress=progress, **cpu),
            "segment NIfTI": lambda progress: medvit.segment(scenes.nifti, scenes.bundle("segmenting"), progress=progress, **cpu),
            "restore DICOM": lambda progress: medvit.restore(scenes.series, scenes.bundle("restoring"), progress=progress, **cpu),
            "restore NIfTI finer": lambda progress: medvit.restore(scenes.magnetic, scenes.bundle("super_resolution"), progress=progress, **cpu),
            "reconstruct": lambda progress: medvit.reconstruct(views / "drr_0.dcm", views / "drr_90.dcm", scenes.bundle("reconstructing"), progress=progress, **cpu),
        }  # fmt: skip
        for name, run in runs.items():
            reports: list[tuple[str, int]] = []
            run(medvit.Progress(lambda stage, done, total, reports=reports: reports.append((stage, total))))
            found[name] = _in_order(reports)
    return found


def _in_order(reports: list[tuple[str, int]]) -> list[str]:
    """Join successive reports of one stage; list the totals that they state."""
    joined: list[tuple[str, list[int]]] = []
    for stage, total in reports:
        if not joined or joined[-1][0] != stage:
            joined.append((stage, []))
        if total not in joined[-1][1]:
            joined[-1][1].append(total)
    return [f"{stage} of {', then '.join(map(str, totals))}" for stage, totals in joined]
