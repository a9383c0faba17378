"""Identifiers that tests plant into a CT, and what of its texts must be kept."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, generate_uid

NAME = "Müller^Bo=李^小东=みゅら^ぼう"
STEP = "1.2.840.10008.3.1.2.3.3"
STUDY = "1.2.840.10008.3.1.2.3.1"

TEXTS = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "BO_MUELLER"],
    "FilterType": "BONE_MULLER_2",
    "WindowCenter": ["40", "400"],
    "WindowWidth": ["400", "2000"],
    "WindowCenterWidthExplanation": ["BONE_LI", "Bo soft"],
    "ConvolutionKernel": ["B30s", "Bone"],
    "ScanOptions": "HELICAL MODE",
    "SoftwareVersions": ["syngo Bone 2012B", "for MÜLLER 12MAR1961"],
    "ManufacturerModelName": "Bosonic 64 LiHead",
    "SequenceName": "HEADBO",
    "AcquisitionProtocolName": "Neck 12. März 1961",
    "ReconstructionDescription": "soft, born 12 March 1961 or 12.03.1961 and 1961-03-12",
    "PixelSpacingCalibrationDescription": "李小东 sphere; 12 Mar 61",
    "ImageFilterDescription": "Mueller's\r\nsharp filter of ID4711B, acc. ACC 9",
    "ExposureControlModeDescription": "fixed by Ng,Li",
    "ReferenceLocationDescription": "みゅら, +49 89 1234567, bo@clinic.example",
    "InstructionText": "March 12th, 1961",
    "DetectorDescription": "MÃ¼ller tube of Rosenheim",
    "FieldOfViewDescription": "Mu\u0308ller field",
    "InstructionDescription": "Dose OBRIEN_2, O\u2019Brien and Lefebvre-OBrien; 李先生 left",
    "ProtocolPlanningInformation": "plan of 12. 3. 1961; 12 / 03 / 1961; 1961:03:12; 12.III.1961; 12 марта 1961; 12—03—1961; 20200203T101112; 03/1961",
    "InstructionPerformanceComment": "call (212) 555-0199 or tel. 089 7654321, clinic.example.org/secretmark; 192.168.7.20",
    "ProtocolDesignRationale": r"kept in \\pacs\secretmark\a and C:\secretmark x\1.dcm and /home/secretmark/1.dcm",
    "ProtocolElementPurpose": "as 1.2.826.0.1.3680043.8.498.4711471147114711 in 1.2.840.10008.1.2.4.90",
}
"""Texts of attributes that the profile has no row for, as a scanner's or a person's words stand there."""

LEFT = {
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "OTHER"],
    "FilterType": "BONE_2",
    "WindowCenter": [40, 400],
    "WindowCenterWidthExplanation": ["BONE", "soft"],
    "ConvolutionKernel": ["B30s", "Bone"],
    "ScanOptions": "HELICAL MODE",
    "SoftwareVersions": ["syngo Bone 2012B", ""],
    "ManufacturerModelName": "Bosonic 64 Head",
    "SequenceName": "HEAD",
    "AcquisitionProtocolName": "Neck",
    "PixelSpacingCalibrationDescription": "sphere",
    "ExposureControlModeDescription": "fixed",
    "FieldOfViewDescription": "field",
    "InstructionDescription": "Dose 2,and Lefebvre-left",
    "ProtocolElementPurpose": "as in 1.2.840.10008.1.2.4.90",
    "BodyPartExamined": "NECK",
    "Manufacturer": "maker",
    "KVP": 120,
}
"""Values that must be kept: technique is not removed with the name beside it."""

MARKED = (
    "PatientBirthDateInAlternativeCalendar PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest "
    "PlacerOrderNumberProcedure FillerOrderNumberProcedure PlacerOrderNumberImagingServiceRequestRetired "
    "FillerOrderNumberImagingServiceRequestRetired RequestedProcedureComments ImagingServiceRequestComments StudyComments "
    "ImageComments PatientComments RetrieveURL OtherPatientIDs"
).split()
"""Attributes that must be gone with whatever they hold."""

GONE = (
    *(keyword for keyword in MARKED if keyword != "ImageComments"),  # we write some of our own
    *"PatientAlternativeCalendar OtherPatientIDsSequence EncryptedAttributesSequence ReferencedStudySequence "
    "ReferencedPerformedProcedureStepSequence OriginalAttributesSequence".split(),
)
SHORT = re.compile(r"(?i:(?<![^\W_])(?:bo|li|ng)(?![^\W_]))|(?<=[a-z])(?:Bo|Li|Ng)(?![a-z])|(?i:bohead|headbo|lihead)")
DAY = re.compile(
    r"(?i)12(?:th|\.)?[\W_]*(?:mar|мар|iii|0?3)\w*[\W_]*(?:19)?61|mar\w*[\W_]*12|1961[\W_]*0?3[\W_]*12|03/1961|20200203"
)
LONG = (
    "muller",
    "mueller",
    "4711",
    "acc9",
    "rosenheim",
    "李",
    "小东",
    "みゅら",
    "ぼう",
    "1234567",
    "secretmark",
    "obrien",
)
LONG += ("李先生", "5550199", "7654321", "192168720", "4711471147114711")


def item(**values: object) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def plant(path: Path, issuer: str) -> None:
    """Write identifiers into a slice, wherever they were found to have stayed, and beside them what must stay."""
    d = pydicom.dcmread(path)
    d.SpecificCharacterSet = "ISO_IR 192"
    d.PatientName, d.PatientID, d.IssuerOfPatientID, d.PatientBirthDate = (
        NAME,
        "ID-4711-B",
        issuer,
        "19610312",
    )
    d.OperatorsName, d.ReferringPhysicianName, d.InstitutionName = "Ng^Li", "O'Brien^Anne^^Dr", "Klinikum Rosenheim"
    d.BodyPartExamined, d.AcquisitionDate, d.ContentDate = "NECK", "20200203", "20200203"
    d.PatientPosition = "HFS"
    for keyword, value in TEXTS.items():
        setattr(d, keyword, value)
    for keyword in MARKED:
        setattr(d, keyword, "SECRETMARK" if keyword != "RetrieveURL" else "https://pacs/SECRETMARK")
    d.PatientAlternativeCalendar = "THAI"
    d.OtherPatientIDsSequence = Sequence([item(PatientID="SECRETMARK", TypeOfPatientID="TEXT")])
    d.EncryptedAttributesSequence = Sequence(
        [item(EncryptedContentTransferSyntaxUID="1.2.840.10008.1.2", EncryptedContent=b"SECRETMARK")]
    )
    d.ReferencedStudySequence = Sequence([reference(STUDY)])
    d.ReferencedPerformedProcedureStepSequence = Sequence([reference(STEP)])
    d.ReferencedImageSequence = Sequence([reference(CTImageStorage, d.SOPInstanceUID)])
    d.ProcedureCodeSequence = Sequence(
        [
            item(CodeValue="CTN", CodingSchemeDesignator="99ROOM", CodeMeaning="CT neck for Müller, born 12.03.1961"),
            item(CodeValue="ID-4711-B", CodingSchemeDesignator="99ROOM", CodeMeaning="neck"),
            item(CodeValue="45036003", CodingSchemeDesignator="SCT", CodeMeaning="Ultrasonography of abdomen"),
        ]
    )
    d.ContributingEquipmentSequence = Sequence(
        [
            item(
                PurposeOfReferenceCodeSequence=Sequence([equipment()]),
                Manufacturer="NG_LI and MUELLERHEAD",
                SoftwareVersions=["3.1", "Bo"],
            )
        ]
    )
    private = d.private_block(0x0009, "MAKER SECRETMARK", create=True)
    private.add_new(0x01, "LO", "SECRETMARK")
    private.add_new(0x02, "UN", "Müller SECRETMARK".encode())
    d.add_new(0x00091099, "SQ", Sequence([item(PatientComments="SECRETMARK")]))
    d.save_as(path, enforce_file_format=True)


def reference(kind: str, uid: str | None = None) -> Dataset:
    return item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid or generate_uid())


def equipment() -> Dataset:
    return item(CodeValue="109101", CodingSchemeDesignator="DCM", CodeMeaning="Acquisition Equipment")
