from .generator import Synthesis as Synthesis
from .sampler import SyntheticSampler as SyntheticSampler
from .sampler import SyntheticSettings as SyntheticSettings
from .settings import Brightness as Brightness
from .settings import Pose as Pose
from .settings import ScannerArtifacts as ScannerArtifacts
