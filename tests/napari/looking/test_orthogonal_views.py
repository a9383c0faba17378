"""Three linked views and comparing two images, on viewer models without a window."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")

from medvit_napari.errors import LayerError
from medvit_napari.looking.display import PLANES, DragWindow
from medvit_napari.looking.orthogonal_views import CROSSHAIR, LinkedViews
from medvit_napari.looking.swipe_compare import Swipe, swipe_layer
from napari.components import ViewerModel
from napari.layers import Image, Labels

SHAPE = (6, 8, 10)
LIES = {"scale": (3.0, 2.0, 1.0), "translate": (5.0, -4.0, 2.0), "units": ("mm",) * 3}


@pytest.fixture
def viewer(rng):
    made = ViewerModel()
    made.add_layer(Image(rng.normal(size=SHAPE).astype(np.float32), name="ct", **LIES))
    made.add_layer(Labels(np.zeros(SHAPE, np.uint8), name="labels", **LIES))
    return made


def test_every_view_goes_to_the_same_point_and_shows_the_same_layers(viewer):
    steps, active = viewer.dims.nsteps, viewer.layers.selection.active
    linked = LinkedViews(viewer)
    assert [n.name for n in viewer.layers] == ["ct", "labels", CROSSHAIR]
    assert viewer.dims.nsteps == steps and viewer.layers.selection.active is active
    for name, model in linked.others.items():
        assert [n.name for n in model.layers] == ["ct", "labels", CROSSHAIR] and model.dims.order == PLANES[name]
        assert np.shares_memory(model.layers[0].data, viewer.layers[0].data)
    viewer.dims.point = (11.0, 2.0, 6.0)  # voxel 2, 3, 4
    sagittal = linked.others["Sagittal"]
    assert sagittal.dims.point == (11.0, 2.0, 6.0)
    assert np.array_equal(sagittal.layers[0]._slice.image.view, viewer.layers[0].data[:, :, 4])
    assert np.array_equal(sagittal.layers[-1].data[0], [[0, 3, 4], [5, 0, 0]])
    sagittal.dims.point = (14.0, 4.0, 7.0)
    assert viewer.dims.point == linked.others["Coronal"].dims.point == (14.0, 4.0, 7.0)
    linked.release()
    assert [n.name for n in viewer.layers] == ["ct", "labels"]


def test_what_is_painted_and_set_is_seen_in_every_view(viewer):
    linked = LinkedViews(viewer)
    viewer.dims.point = (11.0, 2.0, 6.0)
    labels, coronal = viewer.layers["labels"], linked.others["Coronal"]
    labels.paint((2, 3, 4), 5)
    assert (coronal.layers["labels"]._slice.image.raw[2, 4]) == 5
    labels.undo()
    assert not coronal.layers["labels"]._slice.image.raw.any()
    coronal.layers["labels"].paint((2, 3, 5), 7)
    assert labels.data[2, 3, 5] == 7 and labels._slice.image.raw[3, 5] == 7
    viewer.layers["ct"].contrast_limits = (-0.5, 0.5)
    labels.visible = False
    assert list(coronal.layers["ct"].contrast_limits) == [-0.5, 0.5] and not coronal.layers["labels"].visible
    viewer.layers.move(0, 2)
    assert [n.name for n in coronal.layers][:2] == ["labels", "ct"]
    viewer.layers.remove(labels)
    assert "labels" not in [n.name for n in coronal.layers]
    viewer.layers.clear()
    assert len(coronal.layers) == 0
    linked.release()


def test_undo_is_one_for_all_views(viewer):
    """What was painted in one view is undone from another, in the order in which it was painted, and done again."""
    linked = LinkedViews(viewer)
    labels, coronal = viewer.layers["labels"], linked.others["Coronal"].layers["labels"]
    labels.brush_size = coronal.brush_size = 1
    labels.paint((2, 3, 4), 1)
    coronal.paint((2, 5, 4), 2)
    assert labels.data[2, 3, 4] and labels.data[2, 5, 4]
    labels.undo()
    assert labels.data[2, 3, 4] and not labels.data[2, 5, 4]
    linked.others["Sagittal"].layers["labels"].undo()
    assert not labels.data.any()
    coronal.redo()
    coronal.redo()
    assert labels.data[2, 3, 4] and labels.data[2, 5, 4]
    labels.data = np.zeros(SHAPE, np.uint8)  # other voxels: every view shows them, and the history is new
    assert coronal.data is labels.data
    coronal.undo()
    assert not labels.data.any()
    coronal.paint((1, 1, 1), 1)
    linked.release()
    labels.undo()
    assert not labels.data.any()


class Mouse(SimpleNamespace):
    """A mouse event as napari's callbacks get it."""

    def __init__(self, kind: str, x: float, y: float, button: int = 1, modifiers: tuple[str, ...] = ()) -> None:
        super().__init__(type=kind, pos=(x, y), button=button, modifiers=modifiers, handled=False)


def dragged(viewer, start: Mouse, *moves: tuple[float, float]) -> Mouse:
    """A drag through the callbacks of a viewer, as its canvas would call them."""
    event = start
    running = [made for call in viewer.mouse_drag_callbacks if (made := call(viewer, event)) is not None]
    running = [made for made in running if next(made, "ended") != "ended"]
    for x, y in moves:
        event.type, event.pos, event.handled = "mouse_move", (x, y), False
        running = [made for made in running if next(made, "ended") != "ended"]
    handled = event.handled
    event.type = "mouse_release"
    for made in running:
        next(made, None)
    return SimpleNamespace(handled=handled)


def test_dragging_sets_the_window_while_it_is_on(viewer):
    image, labels = viewer.layers["ct"], viewer.layers["labels"]
    image.contrast_limits_range, image.contrast_limits = (-3, 3), (-1.0, 1.0)
    drag = DragWindow(viewer, lambda: image)
    callbacks = len(viewer.mouse_drag_callbacks)
    drag.turn(True)
    drag.turn(True)
    assert len(viewer.mouse_drag_callbacks) == callbacks + 1
    assert dragged(viewer, Mouse("mouse_press", 10, 10), (160, 10), (310, 10)).handled
    assert image.contrast_limits == pytest.approx([-2, 2])  # 300 pixels to the right: twice as wide
    dragged(viewer, Mouse("mouse_press", 10, 310), (10, 10))
    assert image.contrast_limits == pytest.approx([-6, -2])  # up: the level falls, so it is brighter
    assert image.contrast_limits_range[0] <= -6
    before = list(image.contrast_limits)
    for start in (Mouse("mouse_press", 0, 0, 2), Mouse("mouse_press", 0, 0, 1, ("Shift",))):
        assert not dragged(viewer, start, (90, 90)).handled
    viewer.layers.selection.active = labels
    labels.mode = "paint"
    assert not dragged(viewer, Mouse("mouse_press", 0, 0), (90, 90)).handled
    labels.mode = "pan_zoom"
    drag.turn(False)
    assert len(viewer.mouse_drag_callbacks) == callbacks and list(image.contrast_limits) == before


def test_a_swipe_is_the_first_left_of_the_line_and_the_second_right_of_it(viewer):
    first = viewer.layers["ct"]
    second = Image(first.data + 100, name="restored", **LIES)
    data, options, kind = swipe_layer(first, second)
    assert kind == "image" and isinstance(data, Swipe) and options["scale"] == LIES["scale"]
    assert np.array_equal(data[2][:, :5], first.data[2][:, :5]) and np.array_equal(
        data[2][:, 5:], second.data[2][:, 5:]
    )
    assert np.array_equal(data[:, :, 3][:, :4], first.data[:, :4, 3])  # sagittal: the line stands across its own width
    data.share = 0
    assert np.array_equal(np.asarray(data), second.data)
    layer = viewer.add_layer(Image(data, **{k: v for k, v in options.items() if k != "name"}))
    assert np.array_equal(layer._slice.image.view, second.data[viewer.dims.current_step[0]])
    for other in (first, Image(second.data[1:], **LIES), Image(second.data)):
        with pytest.raises(LayerError, match="two grey volumes on one grid are needed"):
            swipe_layer(first, other)
