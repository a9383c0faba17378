from .export import export_bundle as export_bundle
from .published import load_published as load_published
