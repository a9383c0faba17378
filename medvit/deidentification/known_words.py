"""Lists of words in headers: terms of technique and anatomy, and words that occur in names but identify nobody."""

from __future__ import annotations

__all__ = ["CLINICAL", "FILLERS", "GENERIC", "PARTICLES", "TERMS"]

TERMS = frozenset(
    # Modality (PS3.3 C.7.3.1.1.1)
    "CT MR PT NM US CR DX MG RF XA RG IO PX OP OPT OT SC ES GM SM XC BI BMD ECG IVUS IVOCT HD SEG RTIMAGE RTDOSE "
    # Image Type and Frame Type of CT, MR, PET, NM, XA, enhanced images
    "ORIGINAL DERIVED MIXED PRIMARY SECONDARY AXIAL LOCALIZER OTHER NONE MPR VOLUME RESAMPLED REFORMATTED CORONAL SAGITTAL "
    "PROJECTION MIP MINIP AVERAGE SUM MAX MIN SUBTRACTION STATIC DYNAMIC GATED WHOLE_BODY WHOLEBODY TOMO RECON FLUOROSCOPY "
    "ANGIO ATTENUATION CINE DIFFUSION FUNCTIONAL M_FFE M_IR M_SE MASK MAGNITUDE PHASE REAL IMAGINARY M P R I ND NORM DIS2D DIS3D "
    "FM MFSPLIT PHASE_MAP VELOCITY_MAP ADC FA T1_MAP T2_MAP T2_STAR_MAP PERFUSION ADDITION STACK TIME SUB EMISSION TRANSMISSION "
    "CT_SOM5 SPI STD HELIX DET_DOSE BIPLANE SINGLE_PLANE PIXEL_BY_PIXEL QUANTITY ENHANCED SCOUT POSDISP MAMMO DENSITY_MAP MONO "
    "DETECTOR GENERATED SPIN_ECHO GRADIENT_ECHO CSA PRESENTATION FUSED PROCESSED VIRTUAL CPR "
    # photometric interpretation, pixel and presentation terms
    "MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT PALETTE COLOR SAMPLED DISTORTED FOR_PROCESSING "
    "FOR PRESENTATION PROCESSING HU US OD HU_MOD MGML Z_EFF ED EDW PCT Y YES N NO NORMAL LOG LIN DISP "
    # units of PET and patient positions
    "CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML PROPCNTS PROPCPS MLMINML MLML GML STDDEV "
    "HFP HFS HFDR HFDL FFDR FFDL FFP FFS LFP LFS RFP RFS AFDR AFDL PFDR PFDL SITTING "
    "L R A P H F B U RL AP FH LR PA HF "
    # Body Part Examined (PS3.16 annex L)
    "ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID "
    "CEREBELLUM CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CSPINE CTSPINE EAR ELBOW ESOPHAGUS EXTREMITY "
    "EYE FACE FEMUR FINGER FOOT FOREARM GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILIUM IAC JAW KIDNEY KNEE LARYNX LEG LIVER "
    "LSPINE LSSPINE LUMBARSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT "
    "PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RADIUS RECTUM RIB SCALP SCAPULA SCROTUM SELLA SHOULDER SINUS SKULL SPINE "
    "SPLEEN SSPINE STERNUM STOMACH TESTIS THIGH THORAX THUMB THYROID TIBIA TMJ TOE TRACHEA TSPINE TLSPINE UPRARM UTERUS WRIST ZYGOMA "
    # techniques
    "SE GR IR EP RM SK SP MTC SS TRSS MP OSP SPOILED FS PFF PFP CG PPG RG FC PFF 2D 3D HELICAL SPIRAL CONSTANT AUTOMATIC MANUAL "
    "WEDGE BUTTERFLY FLAT MEDIUM LARGE SMALL STRIP HEAD BODY CHEST".split()
)
"""Terms of code strings that the standard defines; such a value is kept even if it equals a person's name."""

CLINICAL = frozenset(
    word.casefold()
    for word in (
        *(term for term in TERMS if term.isalpha() and len(term) >= 3),
        *(
            "abdominal acquisition adult age angiography anterior apparent arterial artery attenuation average axial axis bilateral bolus "
            "bone bones born bowel cardiac cardio case cervical cerebral child chin clinic clinical coil comment contrast control convex "
            "convolution coronal coronary corrected correction cortex cranial cranium cranio cut date delay dental detector diagnosis dose dual "
            "dynamic echo edge enhanced equilibrium exam examination family female field filter finding fluid follow fossa frame frontal "
            "full given gradient hard hernia high image images imaging inferior initial inner inspiration institution intensity internal "
            "interpolation inversion inphase inplane inline input iodine iterative joint kernel lateral left length level ligament localizer low lower lumbar male map "
            "marrow mass medial median medical middle mode motion muscle name nasal native nerve new noise normal nuclear number oblique "
            "old oral original order outer pain parameter patient pause pelvic perfusion phantom phase physician pixel plain plan plane "
            "portal position post posterior pre procedure prone protocol pulmonary pulse quality radiology raw recon reconstructed reconstruction "
            "reformat region relaxation renal report request requested research resolution result right routine rotation sagittal scan scanner "
            "scans sequence series serie sharp signal single slab slice slices smooth soft spectral spin sternal stack standard start step stenosis "
            "study superior supine surface surgery table test thick thickness thin thoracic time tissue topogram transverse tumor tumour unit "
            "upper urography value vascular vein venous version vertebra vessel view volume wall water weighted whole width window with without "
            "wrist xray year zoom"
        ).split(),
    )
)
"""Words of technique and anatomy that are not names. They are recognised when joined to a name, as in "ScanMeier", and
kept whole when they happen to contain a name.
"""

PARTICLES = frozenset(
    "de der den des di da du do dos das del della van von vom zu zum zur la le les el al ul bin ibn bint ben abu st san "
    "dr prof md mr mrs ms mme mlle herr frau dipl ing med phd msc bsc rn rt jr sr ii iii iv sir".split()
)
"""Parts of names that do not identify beside other parts: particles, titles, degrees. As the only part, one counts as a
name.
"""

GENERIC = frozenset(
    "and the for der die das und of in am im at de la le el du des di hospital hospitals klinik klinikum clinic clinica clinique clinical "
    "krankenhaus hopital ospedale university universitat universitaet universite universita medical medizin medicine center centre zentrum "
    "institute institut department dept abteilung radiology radiologie radiologia imaging diagnostic diagnostics nuclear oncology therapy "
    "general city national regional central east west north south ambulance praxis practice group health care trust nhs street road "
    "strasse str avenue ave way lane square platz room raum scanner station unit ward floor building anonymous anonymized unknown none "
    "null test phantom patient name tech technician operator admin user service ct mr mri pet pt nm us cr dx mg rf xa".split()
)
"""Words of institutions, addresses and placeholder names, which identify no person."""

FILLERS = frozenset(
    "for from of by to on in at the a an and with dr prof mr mrs ms md herr frau patient pat name named born geb dob id pid mrn no nr "
    "number ref referred physician fur für von vom van vd den der ten ter zu zum zur de la le della dos das bin ibn abu".split()
)
"""Filler words around a name; a text with only such words after the removal of names is removed."""
