from .install import Card as Card
from .install import Request as Request
from .install import fetch as fetch
from .install import remove as remove
