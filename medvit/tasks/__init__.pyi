from .prepared_scan import Ready as Ready
from .prepared_scan import open_for as open_for
from .save import check_folder as check_folder
