from .prepared_scan import PreparedScan as PreparedScan
from .prepared_scan import open_for as open_for
from .result import LabelResult as LabelResult
from .result import TaskResult as TaskResult
from .save import check_folder as check_folder
