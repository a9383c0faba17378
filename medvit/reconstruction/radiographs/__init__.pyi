from .project import DrrSettings as DrrSettings
from .project import Radiographs as Radiographs
from .project import check_drr_settings as check_drr_settings
from .project import radiographs as radiographs
from .save import save_radiographs as save_radiographs
