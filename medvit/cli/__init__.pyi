from .option_words import command_line_words as command_line_words
from .qt_binding import installed_binding as installed_binding
from .qt_binding import known_fault as known_fault
