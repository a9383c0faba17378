"""Command lines that medvit refuses: at least one for each command; the first of each is also checked for loaded
modules.

``{absent}`` is a path where nothing is, ``{empty}`` an empty folder, ``{scan}`` a small NIfTI, ``{scans}`` its folder and ``{out}`` a folder to write to.
"""

from __future__ import annotations

from pathlib import Path

MISTAKES: dict[str, dict[str, str]] = {
    "segment": {
        "absent source": "{absent} -o {out}",
        "empty folder": "{empty} -o {out}",
        "unknown bundle": "{scan} -o {out} -b no_such_bundle",
        "bundle of another task": "{scan} -o {out} -b ct_denoise_restore_rwkv",
        "bundle not fetched": "{scan} -o {out} -b abdomen_ct_swin_unetr_btcv",
        "unknown label": "{scan} -o {out} -rs no_such_label",
        "unknown output type": "{scan} -o {out} -ot no_such_type",
        "DICOM objects of a NIfTI": "{scan} -o {out} -ot dicom-seg",
        "unknown device": "{scan} -o {out} -d no_such_device",
        "unknown backend": "{scan} -o {out} --backend no_such_backend",
        "unknown precision": "{scan} -o {out} --precision no_such_precision",
        "unknown geometry": "{scan} -o {out} --geometry no_such_form",
        "unknown way with irregular stacks": "{scan} -o {out} --on-irregular no_such_way",
        "no amount of memory": "{scan} -o {out} --memory-limit plenty",
        "image above the memory limit": "{scan} -o {out} --memory-limit 1KB",
        "output is a file": "{scan} -o {scan}",
        "no output": "{scan}",
        "two sources": "{scan} {scan} -o {out}",
    },
    "restore": {
        "absent source": "{absent} -o {out}",
        "unknown bundle": "{scan} -o {out} -b no_such_bundle",
        "bundle of another task": "{scan} -o {out} -b headneck_ct_swin_unetr",
        "unknown output type": "{scan} -o {out} -ot no_such_type",
    },
    "reconstruct": {
        "absent views": "--ap {absent} --lat {absent} -o {out}",
        "one view": "--ap {absent} -o {out}",
        "bundle of another task": "--ap {scan} --lat {scan} -o {out} -b headneck_ct_swin_unetr",
        "a volume as a view": "--ap {scan} --lat {scan} -o {out} --pixel-spacing 1",
    },
    "inspect": {
        "absent source": "{absent}",
        "empty folder": "{empty}",
        "unknown geometry": "{scan} --geometry no_such_form",
    },
    "convert": {
        "absent source": "{absent} -o {out}",
        "absent grid": "{scan} -o {out} --like {absent}",
        "unknown output type": "{scan} -o {out} -ot no_such_type",
    },
    "train": {
        "unknown bundle": "no_such_bundle",
        "unknown recipe": "headneck_ct_swin_unetr --recipe no_such_recipe",
        "absent data list": "headneck_ct_swin_unetr --data {absent}",
        "published recipe of another kind": "headneck_ct_swin_unetr --recipe pretrain --publish",
        "adapters without a start": "headneck_ct_swin_unetr --adapters 4",
    },
    "evaluate": {
        "unknown bundle": "no_such_bundle",
        "absent data list": "headneck_ct_swin_unetr --data {absent}",
        "unknown split": "headneck_ct_swin_unetr --split no_such_split",
    },
    "drr": {
        "absent source": "{absent} -o {out}",
        "unknown preset": "{scan} -o {out} --preset no_such_preset",
        "unknown output type": "{scan} -o {out} -ot no_such_type",
        "no angle": "{scan} -o {out} --views front",
    },
    "doctor": {"an argument": "{scan}"},
    "benchmark": {
        "bundle without a case": "-b headneck_ct_swin_unetr",
        "no run": "--runs 0",
    },
    "bundles export": {
        "unknown bundle": "no_such_bundle -o {out}",
        "unknown format": "headneck_ct_swin_unetr -o {out} --format no_such_format",
        "bundle not fetched": "abdomen_ct_swin_unetr_btcv -o {out}",
    },
    "bundles import nnunet": {
        "absent source": "{absent}",
        "folder without plans": "{empty}",
        "unknown checkpoint": "{empty} --checkpoint no_such_checkpoint",
    },
    "bundles list": {"an argument": "{scan}"},
    "bundles show": {"unknown bundle": "no_such_bundle"},
    "bundles verify": {"unknown bundle": "no_such_bundle", "bundle not fetched": "abdomen_ct_swin_unetr_btcv"},
    "bundles gate": {"unknown bundle": "no_such_bundle --case {scan}"},  # the earlier name of the next command
    "bundles precision-check": {
        "unknown bundle": "no_such_bundle --case {scan}",
        "absent case": "headneck_ct_swin_unetr --case {absent}",
    },
    "bundles fetch": {
        "unknown bundle": "no_such_bundle --yes",
        "absent file": "abdomen_ct_swin_unetr_btcv --yes --from {absent}",
    },
    "bundles remove": {"unknown bundle": "no_such_bundle", "bundle not fetched": "abdomen_ct_swin_unetr_btcv"},
    "batch run": {
        "absent archive": "{absent} -o {out} -b headneck_ct_swin_unetr",
        "empty archive": "{empty} -o {out} -b headneck_ct_swin_unetr",
        "unknown bundle": "{scans} -o {out} -b no_such_bundle",
        "absent rules": "{scans} -o {out} --rules {absent}",
        "unreadable selection": "{scans} -o {out} -b headneck_ct_swin_unetr --select )",
        "no worker": "{scans} -o {out} -b headneck_ct_swin_unetr --workers -1",
    },
    "batch watch": {"absent inbox": "{absent} -o {out} -b headneck_ct_swin_unetr"},
    "batch retry": {"not a batch": "{empty}", "absent batch": "{absent}"},
    "batch status": {"not a batch": "{empty}", "absent batch": "{absent}"},
    "batch report": {"not a batch": "{empty}", "absent batch": "{absent}"},
    "dicom listen": {
        "peer that is no address": "-o {out} -b headneck_ct_swin_unetr --send-to nowhere",
        "unknown log format": "-o {out} --log-format no_such_format",
    },
    "dicom query": {
        "peer that is no address": "nowhere",
        "nobody at the address": "NOBODY@127.0.0.1:9 --timeout 2",
    },
    "label start": {
        "absent studies": "--studies {absent}",
        "absent token": "--studies {scans} --token-file {absent}",
    },
    "label check": {"absent studies": "--studies {absent}"},
    "label versions": {"no project": "headneck_ct_swin_unetr --studies {scans}"},
    "label rollback": {"no project": "headneck_ct_swin_unetr --studies {scans}"},
    "label users add": {"no password": "somebody --users {out}/users.json", "unknown role": "somebody --users {out}/users.json --role no_such_role"},
    "label users list": {"absent file": "--users {absent}"},
    "label users remove": {"absent file": "somebody --users {absent}"},
    "": {
        "no arguments": "",
        "version": "--version",
        "unknown command": "no_such_command",
        "unknown option": "--no-such-option",
        "group of commands": "bundles",
        "help of a group": "batch --help",
    },
}  # fmt: skip


def lines(command: str, where: dict[str, Path]) -> dict[str, list[str]]:
    """Make the argument lists of one command's mistakes, preceded by its words."""
    filled = {label: words.format_map(where) for label, words in MISTAKES[command].items()}
    return {label: [*command.split(), *words.split()] for label, words in filled.items()}


def places(top: Path) -> dict[str, Path]:
    """Make the files that the command lines name, in a folder."""
    import nibabel as nib
    import numpy as np

    made = {name: top / name for name in ("absent", "empty", "out")} | {"scans": top / "scans"}
    made["scan"] = made["scans"] / "scan.nii.gz"
    made["empty"].mkdir()
    made["scans"].mkdir()
    nib.save(nib.Nifti1Image(np.zeros((12, 12, 12), np.int16), np.eye(4)), made["scan"])
    return made
