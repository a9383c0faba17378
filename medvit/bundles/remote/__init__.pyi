from .install import FetchRequest as FetchRequest
from .install import FetchSummary as FetchSummary
from .install import fetch as fetch
from .install import remove as remove
