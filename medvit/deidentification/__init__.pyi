from .headers import burned_in as burned_in
from .headers import deidentified_scan as deidentified_scan
from .image_copies import add_images as add_images
from .pseudonyms import Privacy as Privacy
from .pseudonyms import read_key as read_key
from .rules_e1 import RETAINABLE as RETAINABLE
