from .view_opening import View as View
from .view_opening import ViewGeometry as ViewGeometry
from .view_opening import ViewPosition as ViewPosition
from .view_opening import open_view as open_view
from .view_opening import require_one_patient as require_one_patient
