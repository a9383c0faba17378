"""The language of selections: what it says, and where it points when it is not understood."""

from __future__ import annotations

import pytest
from medvit_batch.errors import ExpressionError, RulesError
from medvit_batch.selection.attributes import of_image, of_volume, proper_name
from medvit_batch.selection.expressions import parse
from medvit_batch.selection.rules import one_bundle, read_rules

from medvit.errors import MedvitError
from tests.bands import oblique_affine, phantom, write_series

VALUES = {
    "Modality": ("CT",),
    "BodyPartExamined": ("HEADNECK",),
    "SliceThickness": ("2.50",),
    "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL"),
    "Slices": ("40",),
    "SeriesDescription": ("Kopf, 'nativ'",),
}


def _true(text: str) -> bool:
    return parse(text, proper_name).true(lambda name: VALUES.get(name, ()))


@pytest.mark.parametrize(
    "text",
    [
        "Modality==CT",
        "modality == ct",
        "Modality != MR",
        "Modality in (MR, CT)",
        "Modality not in (MR, 'PT')",
        "BodyPart ~ head",
        "Description ~ \"'nativ'\"",
        "SliceThickness == 2.5",
        "SliceThickness < 3 and Slices >= 40",
        "Slices > 100 or Slices < 50",
        "not Slices > 100",
        "not (Modality == MR or Slices == 1)",
        "Modality == MR and Slices == 1 or ImageType == AXIAL",
        "Modality == CT and (Slices == 1 or ImageType ~ PRIMARY)",
        "SeriesDescription",
        "not ContrastBolusAgent",
        "ContrastBolusAgent != iodine",
    ],
)
def test_what_holds(text):
    assert _true(text)
    assert not _true(f"not ({text})")


@pytest.mark.parametrize(
    "text", ["ContrastBolusAgent == iodine", "EchoTime < 5", "Modality > 3", "BodyPart == HEAD", "ImageType == 'ORIGINAL\\PRIMARY'"]
)  # fmt: skip
def test_what_does_not_hold(text):
    assert not _true(text)


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("Modality = CT", 10, "Found '=' at character 10 of the selection; and, or, or the end is needed"),
        ("Modality == ", 12, "Found the end at character 12"),
        ("Modality == CT and", 19, "the name of an attribute, as Modality is needed"),
        ("(Modality == CT", 16, "a closing parenthesis, and, or or is needed"),
        ("Modality == CT)", 15, "and, or, or the end is needed"),
        ("Modalty == CT", 1, "an attribute of DICOM's dictionary.*Did you mean Modality"),
        ("Slices > many", 10, "Found 'many'.*a number behind > is needed. Compare words with == or ~"),
        ("Modality in CT", 13, "a list in parentheses, as in: Modality in \\(CT, MR\\)"),
        ("Modality in (CT MR)", 17, "a comma or a closing parenthesis"),
        ("Modality not CT", 14, "in, as in: Modality not in"),
        ("Description ~ 'Kopf", 15, "Close the quotation mark"),
        ("ReferencedStudySequence == x", 1, "is a sequence or holds bytes"),
        ("PixelData == 0", 1, "is a sequence or holds bytes"),
        ("__import__('os')", 1, "an attribute of DICOM's dictionary"),
        ("not " * 60 + "Slices", 201, "at most 50 levels deep"),
    ],
)
def test_a_mistake_is_pointed_at(text, at, message):
    with pytest.raises(ExpressionError, match=message) as caught:
        _true(text)
    lines = str(caught.value).splitlines()
    assert lines[-2].strip() == text.strip()
    assert lines[-1].index("^") - 2 == at - 1 or "end" in lines[0]


def test_an_empty_selection_is_refused():
    with pytest.raises(ExpressionError, match="Found an empty selection.*Leave it out to take all"):
        parse("  ", proper_name)


def test_attributes_come_from_the_series_and_its_header(tmp_path):
    from medvit.io.dicom import run_preflight

    write_series(tmp_path, phantom((12, 10, 6))[0], oblique_affine(), PatientAge="006M", BodyPartExamined="HEAD", SeriesDescription="a b")  # fmt: skip
    values = of_volume(run_preflight(tmp_path).volumes[0])
    assert values("Slices") == ("6",)
    assert values("Rows") == ("10",)
    assert values("Plane") == ("oblique axial",)
    assert values("PatientAge") == ("0.5",)
    assert values("BodyPartExamined") == ("HEAD",)
    assert values("ImageType") == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert values("ReferringPhysicianName") == ()
    assert float(values("SliceSpacing")[0]) == pytest.approx(2, abs=1e-6)
    assert of_image("Kind") == ("image",)
    assert of_image("Modality") == ()


_TOML = """
[[rules]]
name = "heads"
when = "BodyPart ~ head and Slices >= 30"
bundle = "a"

[[rules]]
when = "Modality == CT"
bundles = ["a", "b"]

[[rules]]
skip = "nothing for it"
"""
_YAML = """
rules:
  - name: heads
    when: BodyPart ~ head and Slices >= 30
    bundle: a
  - when: Modality == CT
    bundles: [a, b]
  - skip: nothing for it
"""


@pytest.mark.parametrize(("name", "content"), [("r.toml", _TOML), ("r.yaml", _YAML)])
def test_the_first_rule_that_holds_decides(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    rules = read_rules(tmp_path / name, "Slices > 2")
    assert rules.bundles == ("a", "b")

    def choose(**values: str):
        return rules.choose(lambda name: (values[name],) if name in values else ())

    assert choose(Modality="CT", Slices="40", BodyPartExamined="HEAD").bundles == ("a",)
    assert choose(Modality="CT", Slices="20", BodyPartExamined="HEAD").bundles == ("a", "b")
    assert choose(Modality="MR", Slices="20").reason == "rule 3: nothing for it"
    assert choose(Modality="CT", Slices="1").reason == "not selected by: Slices > 2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.toml", "rules = 1", "Found a mistake in r.toml, at the top|rules"),
        ("r.toml", "[[rules]]\nwhen = 'Modality == CT'", "rule 1: .*exactly one of bundle, bundles and skip is needed"),
        ("r.toml", "[[rules]]\nbundel = 'a'", "rule 1, bundel: Extra inputs are not permitted"),
        ("r.toml", "[[rules]]\nbundle = 'a'\nwhen = 'Modalty == CT'", "(?s)Found a mistake in r.toml, rule 1: 'Modalty' at character 1"),
        ("r.toml", "[[rules", "which is not TOML"),
        ("r.yaml", "rules: [", "which is not YAML"),
        ("r.yaml", "rules: !!python/object/apply:os.system ['true']", "which is not YAML"),
        ("r.yaml", "rules: []", "Found no rule in r.yaml; at least one is needed"),
        ("r.json", "{}", "rules are a .toml or .yaml file"),
    ],
)  # fmt: skip
def test_rules_that_cannot_be_used(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(RulesError, match=message):
        read_rules(tmp_path / name, None)


def test_missing_rules_are_named(tmp_path):
    with pytest.raises(RulesError, match="Found no readable rules at .*absent.toml .No such file"):
        read_rules(tmp_path / "absent.toml", None)
    with pytest.raises(MedvitError, match="character 1"):
        one_bundle("a", "Nothing == 1")
