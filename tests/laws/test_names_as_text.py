"""Names that code compares as text, or reads under an earlier spelling: a rename in only one place fails here."""

import json
import shutil
import sqlite3
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from medvit.bundles import open_bundle
from medvit.bundles.metadata import PrecisionCheck
from medvit.bundles.precision_check import record_precision_check, require_precision_check
from medvit.inference import SliceWise
from medvit.inference.loaded_bundle import load_model
from medvit.inference.streaming import steps_of
from medvit.interop import published
from medvit.restoration.preconditions import is_slice_wise
from medvit.transforms import ArgmaxOnSourceGridd, KeepLargestComponentLogitsd, SaveImagePNGd, ZeroFillUpsampled


def _config(inferer: type, *steps: type) -> SimpleNamespace:
    def target(kind: type) -> dict[str, str]:
        return {"_target_": f"medvit.room.{kind.__name__}"}

    return SimpleNamespace(
        config={"inferer": target(inferer), "preprocessing": {"transforms": list(map(target, steps))}}
    )


def test_a_bundle_by_slices_is_known_by_the_names_of_its_classes() -> None:
    assert is_slice_wise(_config(SliceWise))  # type: ignore[arg-type]
    assert not is_slice_wise(_config(SliceWise, ZeroFillUpsampled))  # type: ignore[arg-type]
    assert not is_slice_wise(_config(ZeroFillUpsampled))  # type: ignore[arg-type]


def test_the_savers_of_a_config_are_left_out_of_a_run() -> None:
    config = json.loads((open_bundle("nuclei_barlow_swin").root / "configs" / "inference.json").read_text())
    assert any(
        step["_target_"].endswith(f".{SaveImagePNGd.__name__}") for step in config["postprocessing"]["transforms"]
    )
    steps = load_model("nuclei_barlow_swin", "cpu").postprocessing.transforms
    assert steps and not any(isinstance(step, SaveImagePNGd) for step in steps)


def test_the_steps_of_the_head_and_neck_bundle_are_streamed() -> None:
    steps = steps_of(load_model("headneck_ct_swin_unetr", "cpu").postprocessing)
    assert steps is not None
    assert isinstance(steps.keep, KeepLargestComponentLogitsd) and isinstance(steps.argmax, ArgmaxOnSourceGridd)


@pytest.mark.parametrize("name", published._TRANSLATORS)
def test_each_published_network_has_its_translator(name: str) -> None:
    module = published._TRANSLATORS[name]
    assert callable(import_module(module).translate)
    assert getattr(import_module(module.rpartition(".networks.")[0]), name).__name__ == name


def test_each_network_that_tensors_point_to_has_a_translator() -> None:
    assert {name for name, _ in published._TRAITS} == set(published._TRANSLATORS)


def test_precision_checks_under_their_earlier_key_are_read_and_written_under_the_new_one(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    shutil.copytree(open_bundle("headneck_ct_swin_unetr").root, root)
    metadata = root / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    entry = {**content["medvit"].pop("precision_checks")[0], "dice": {"mandible": 1.0}}
    content["medvit"]["gates"] = [entry | {"weights_sha256": open_bundle(root).weights_sha256}]
    metadata.write_text(json.dumps(content))
    assert require_precision_check(open_bundle(root), "bf16").dice == {"mandible": 1.0}
    record_precision_check(open_bundle(root), PrecisionCheck(**{**entry, "dice": {"mandible": 0.5}}))
    section = json.loads(metadata.read_text())["medvit"]
    assert "gates" not in section
    assert [check["dice"] for check in section["precision_checks"]] == [{"mandible": 0.5}]


def test_what_waits_to_be_sent_since_an_earlier_version_is_sent_still(tmp_path: Path) -> None:
    from medvit_batch.journal import Journal
    from medvit_batch.network.peers import Peer
    from medvit_batch.network.send_queue import Queue

    with closing(Journal(tmp_path, new=True).base) as base:
        base.execute("CREATE TABLE sends (id INTEGER PRIMARY KEY, folder TEXT, seal TEXT, peer TEXT, state TEXT DEFAULT 'waiting', "
                     "tries INTEGER DEFAULT 0, due REAL DEFAULT 0, reason TEXT DEFAULT '', UNIQUE (folder, seal, peer))")  # fmt: skip
        base.execute("INSERT INTO sends (folder, seal, peer) VALUES ('cases/1', 's', 'PACS@here:1')")
    journal = Journal(tmp_path)
    due = Queue(journal, tmp_path, Peer(name="PACS@here:1", aet="PACS", host="here", port=1)).due(1.0)
    journal.close()
    assert due is not None and (due.folder, due.run_sha256) == ("cases/1", "s")


def test_assignments_of_an_earlier_version_are_known(tmp_path: Path) -> None:
    from medvit_label.journal import Journal
    from medvit_label.labels.activity import ActivityRepository

    Journal(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite")) as base:
        base.execute("ALTER TABLE assignments RENAME TO picks")
        base.execute("INSERT INTO picks VALUES ('a', 'first', 'me', 10.0)")
        base.commit()
    journal = Journal(tmp_path)
    assert ActivityRepository(journal).assigned_since(5.0) == {"a"}
    journal.close()
