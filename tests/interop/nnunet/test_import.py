"""``medvit bundles import nnunet``: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import medvit
from medvit.bundles import bundle_folders, open_bundle
from medvit.bundles.store import bundles_home, read_manifest
from medvit.cli.main import app
from medvit.errors import BundleError, CheckpointError, FetchError, ImageError
from medvit.interop.nnunet import ImportRequest, import_nnunet
from medvit.io import write_volume
from tests.interop.nnunet import models


def _run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def _scan(folder, shape=(20, 18, 6)):
    values = np.random.default_rng(0).integers(0, 200, shape).astype(np.int16)
    write_volume(folder / "scan.nii.gz", values, np.diag([1.0, 1.0, 2.0, 1.0]))
    return folder / "scan.nii.gz"


def test_an_import_says_what_it_made_and_the_bundle_runs_by_its_name(tmp_path, store):
    models.write_model(tmp_path, folds=("0", "1"))
    made = _run("bundles", "import", "nnunet", tmp_path / "Dataset007_Toy", "--licence", "CC-BY-4.0")
    assert made.exit_code == 0, made.output
    for line in (
        "Name: dataset007_toy_3d_fullres",
        "Labels: 2 (left_ear, nose)",
        "Folds: 0, 1",
        "Mirroring: 8 runs for each window",
        "Modality: MR",
        "Licence: CC-BY-4.0",
        "s for one window of one fold here",
        "Note: 2 labels have no standard code",
        "Run it: medvit segment SCAN -b dataset007_toy_3d_fullres -o OUT",
    ):
        assert line in made.output
    bundle = open_bundle("dataset007_toy_3d_fullres")
    assert bundle.verify() == bundle.weights_sha256
    label = bundle.facts.labels[0]
    assert (label.name, label.title, label.expected) == ("left_ear", "Left Ear", "optional")
    assert (label.type.scheme, label.category.value) == ("99MEDVIT", "123037004")
    assert bundle.facts.imported.folds == ("0", "1")
    assert "nnUNetTrainer__nnUNetPlans__3d_fullres" in bundle.metadata["data_source"]
    ran = _run("segment", _scan(tmp_path), "-b", bundle.name, "-o", tmp_path / "out", "-d", "cpu", "--no-mirroring")
    assert ran.exit_code == 0, ran.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["settings"]["mirrored"] is False
    assert _run("bundles", "remove", bundle.name).exit_code == 0
    assert bundle.name not in bundle_folders()
    assert read_manifest().bundles == {}


def test_the_same_name_again_needs_overwrite(tmp_path, store):
    models.write_model(tmp_path)
    again = "bundles", "import", "nnunet", tmp_path, "--name", "toy", "--json"
    first = _run(*again)
    assert first.exit_code == 0, first.output
    row = json.loads(first.stdout)
    assert (row["name"], row["folds"], row["mirror_axes"]) == ("toy", ["0"], [0, 1, 2])
    refused = _run(*again)
    assert refused.exit_code == 1
    assert "Found a bundle named toy in the store; bundles are never replaced silently" in refused.output
    assert "add --overwrite" in refused.output
    assert _run(*again, "--overwrite").exit_code == 0
    listed = json.loads(_run("bundles", "list", "--json").stdout)
    assert [row["state"] for row in listed if row["name"] == "toy"] == ["imported"]
    with pytest.raises(BundleError, match="a bundle named nuclei_barlow_swin outside the store"):
        import_nnunet(ImportRequest(source=tmp_path, name="nuclei_barlow_swin", overwrite=True))


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_a_zip_gives_the_bundle_of_its_folder(kind, tmp_path, store):
    models.write_model(tmp_path / "model", models.plans(kind))
    archive = shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "model")
    import_nnunet(ImportRequest(source=tmp_path / "model", name="folder"))
    import_nnunet(ImportRequest(source=tmp_path / "model.zip", name="zip"))
    assert archive.endswith("model.zip")
    assert open_bundle("folder").weights_sha256 == open_bundle("zip").weights_sha256
    assert open_bundle("folder").config == open_bundle("zip").config


def test_plans_without_architecture_describe_the_same_network(tmp_path, store):
    old = models.plans()
    settings = old["configurations"]["3d_fullres"]
    given = settings.pop("architecture")["arch_kwargs"]
    settings |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 32,
        "n_conv_per_stage_encoder": given["n_conv_per_stage"],
        "n_conv_per_stage_decoder": given["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": given["kernel_sizes"],
        "pool_op_kernel_sizes": given["strides"],
    }
    models.write_model(tmp_path / "new")
    models.write_model(tmp_path / "old", old)
    import_nnunet(ImportRequest(source=tmp_path / "new", name="new"))
    import_nnunet(ImportRequest(source=tmp_path / "old", name="old"))
    assert open_bundle("new").config["network_def"] == open_bundle("old").config["network_def"]
    assert open_bundle("new").weights_sha256 == open_bundle("old").weights_sha256


def test_labels_get_names_codes_and_colours_from_a_table(tmp_path, store):
    about = models.dataset(labels={"background": 0, "Größe": 1, "grosse": 2, "GROSSE": 3})
    models.write_model(tmp_path, None, about, heads=4)
    table = {"3": {"name": "large", "color": [1, 2, 3], "expected": "always"}}
    (tmp_path / "labels.json").write_text(json.dumps(table))
    made = import_nnunet(ImportRequest(source=tmp_path, table=tmp_path / "labels.json"))
    assert [label.name for label in made.bundle.facts.labels] == ["groe", "grosse_2", "large"]
    assert made.bundle.facts.labels[2].color == (1, 2, 3)
    assert [label.expected for label in made.bundle.facts.labels] == ["optional", "optional", "always"]
    (tmp_path / "labels.json").write_text(json.dumps({"9": {}}))
    with pytest.raises(BundleError, match="label id 9 in the table of labels; the model has 1, 2, 3"):
        import_nnunet(ImportRequest(source=tmp_path, table=tmp_path / "labels.json", overwrite=True))


def test_an_unknown_modality_and_a_trainer_of_a_lab_are_accepted_with_a_note(tmp_path, store):
    about = models.dataset(channel_names={"0": "scanner"})
    models.write_model(tmp_path, None, about, trainer_name="nnUNetTrainerOurs")
    made = import_nnunet(ImportRequest(source=tmp_path, name="toy"))
    assert made.bundle.facts.modalities == ()
    assert any("names no modality" in note for note in made.notes)
    assert any("trainer nnUNetTrainerOurs is not nnU-Net's own; every tensor fits" in note for note in made.notes)
    result = medvit.segment(_scan(tmp_path), bundle="toy", device="cpu", no_mirroring=True)
    assert "The modality that toy was made for is not known." in result.notes


def test_numbered_folds_are_the_default_and_all_is_taken_by_name(tmp_path, store):
    models.write_model(tmp_path, folds=("0", "2", "all"))
    made = import_nnunet(ImportRequest(source=tmp_path))
    assert made.folds == ("0", "2")
    assert any("fold_all, trained on all data, was left out" in note for note in made.notes)
    assert import_nnunet(ImportRequest(source=tmp_path, folds=("all",), overwrite=True)).folds == ("all",)
    with pytest.raises(BundleError, match=r"no fold '1' in .*; there are 0, 2, all"):
        import_nnunet(ImportRequest(source=tmp_path, folds=("1",)))


def test_a_fold_with_only_the_best_checkpoint_is_taken_with_a_note(tmp_path, store):
    root = models.write_model(tmp_path)
    (root / "fold_0" / "checkpoint_final.pth").rename(root / "fold_0" / "checkpoint_best.pth")
    made = import_nnunet(ImportRequest(source=tmp_path))
    assert "Fold 0 has no checkpoint_final.pth; checkpoint_best.pth was taken." in made.notes
    with pytest.raises(BundleError, match=r"no checkpoint_final.pth in fold_0; the fold has checkpoint_best.pth"):
        import_nnunet(ImportRequest(source=tmp_path, checkpoint="final"))


def _edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_folders_that_are_no_trained_nnunet_are_refused(tmp_path, store):
    root = models.write_model(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        BundleError, match=r"no fold with a checkpoint and no plans.json in empty; a trained nnU-Net has"
    ):
        import_nnunet(ImportRequest(source=tmp_path / "empty"))
    with pytest.raises(BundleError, match=r"no folder at .*nowhere"):
        import_nnunet(ImportRequest(source=tmp_path / "nowhere"))
    plans = (root / "plans.json").read_text()
    (root / "plans.json").unlink()
    with pytest.raises(BundleError, match=r"no readable plans.json in nnUNetTrainer__"):
        import_nnunet(ImportRequest(source=tmp_path))
    (root / "plans.json").write_text(plans)
    shutil.rmtree(root / "fold_0")
    with pytest.raises(BundleError, match=r"no fold with a checkpoint in "):
        import_nnunet(ImportRequest(source=tmp_path))
    (tmp_path / "empty" / "plans.pkl").touch()
    with pytest.raises(BundleError, match="nnU-Net v1 in empty; models of nnU-Net v2 are imported"):
        import_nnunet(ImportRequest(source=tmp_path / "empty"))
    assert not bundles_home().exists()


def test_two_models_in_one_folder_are_a_question(tmp_path, store):
    models.write_model(tmp_path)
    two = models.plans()
    two["configurations"]["3d_lowres"] = two["configurations"]["3d_fullres"]
    models.write_model(tmp_path / "more", two, configuration="3d_lowres")
    with pytest.raises(BundleError, match=r"2 trained models in .*; one is imported at a time; there are .*3d_lowres"):
        import_nnunet(ImportRequest(source=tmp_path))
    assert import_nnunet(ImportRequest(source=tmp_path, configuration="3d_lowres")).bundle.name.endswith("3d_lowres")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"architecture": {"network_class_name": "lab.nets.Primus", "arch_kwargs": {}}},
            "network class 'lab.nets.Primus'",
        ),
        ({"normalization_schemes": ["OursNormalization"]}, "the normalisation 'OursNormalization' in plans.json"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "the resampling 'resample_torch_fornnunet' in plans.json"),
        ({"previous_stage": "3d_lowres"}, "the second stage of a cascade; cascades cannot be imported yet"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, words, tmp_path, store):
    root = models.write_model(tmp_path)
    plans = json.loads((root / "plans.json").read_text())
    plans["configurations"]["3d_fullres"] |= changes
    (root / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(BundleError, match=words):
        import_nnunet(ImportRequest(source=tmp_path))
    assert not bundles_home().exists()


def test_weights_that_do_not_fit_the_plans_are_refused(tmp_path, store):
    root = models.write_model(tmp_path)
    plans = json.loads((root / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6]
    (root / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(BundleError, match=r"weights of fold_0 that do not fit the plans: \d+ tensors, the first is "):
        import_nnunet(ImportRequest(source=tmp_path))


class _Forbidden:
    def __reduce__(self):
        return (print, ("a pickle ran",))


def test_checkpoints_that_are_cut_short_or_could_run_code_are_refused(tmp_path, store, capsys):
    root = models.write_model(tmp_path)
    path = root / "fold_0" / "checkpoint_final.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"checkpoint_final.pth, which is damaged or incomplete"):
        import_nnunet(ImportRequest(source=tmp_path))
    torch.save({"network_weights": {}, "init_args": {"plans": _Forbidden()}}, path)
    with pytest.raises(CheckpointError, match=r"a pickle that asks for .*print"):
        import_nnunet(ImportRequest(source=tmp_path))
    path.write_bytes(pickle.dumps({"network_weights": _Forbidden()}))
    with pytest.raises(CheckpointError, match=r"checkpoint_final.pth"):
        import_nnunet(ImportRequest(source=tmp_path))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="holds no 'network_weights' and 'init_args'"):
        import_nnunet(ImportRequest(source=tmp_path))
    assert "a pickle ran" not in capsys.readouterr().out
    assert not bundles_home().exists()


def test_a_copy_of_a_tensor_that_differs_is_refused(tmp_path, store):
    root = models.write_model(tmp_path)
    path = root / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=True)
    name = next(name for name in content["network_weights"] if name.startswith("decoder.encoder."))
    content["network_weights"][name] = content["network_weights"][name] + 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="which differs from the tensor that it repeats"):
        import_nnunet(ImportRequest(source=tmp_path))


@pytest.mark.parametrize("name", ["../../evil/plans.json", "/plans.json", "a\\..\\plans.json"])
def test_a_zip_with_paths_that_climb_out_is_refused(name, tmp_path, store):
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("Dataset007_Toy/plans.json", "{}")
        archive.writestr(name, "{}")
    with pytest.raises(FetchError, match="which leaves the folder, in the zip of a model; only plain files"):
        import_nnunet(ImportRequest(source=tmp_path / "model.zip"))
    (tmp_path / "cut.zip").write_bytes((tmp_path / "model.zip").read_bytes()[:60])
    with pytest.raises(FetchError, match=r"a damaged zip"):
        import_nnunet(ImportRequest(source=tmp_path / "cut.zip"))


def test_a_full_disk_leaves_nothing_of_an_import(tmp_path, store):
    models.write_model(tmp_path)
    # a limit on the size of files ends a write as a full disk does; the weights are larger than it
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "from medvit.cli.main import app; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
        f"app(['bundles', 'import', 'nnunet', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "in the bundle store" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(store.rglob("*.safetensors"))
    assert not any((store / "bundles").glob("*"))


def test_pictures_and_four_dimensions_are_refused_and_small_images_run(tmp_path, store):
    models.write_model(tmp_path)
    import_nnunet(ImportRequest(source=tmp_path, name="toy"))
    small = medvit.segment(_scan(tmp_path, (5, 4, 3)), bundle="toy", device="cpu")
    assert small.array.shape == (5, 4, 3)
    from PIL import Image

    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "picture.png")
    with pytest.raises(ImageError, match="a 2-D picture, where toy takes volumes"):
        medvit.segment(tmp_path / "picture.png", bundle="toy", device="cpu")
    import nibabel as nib

    nib.save(nib.Nifti1Image(np.arange(432, dtype=np.int16).reshape(6, 6, 6, 2), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(medvit.MedvitError, match=r"6 x 6 x 6 x 2|four|4"):
        medvit.segment(tmp_path / "four.nii.gz", bundle="toy", device="cpu")
