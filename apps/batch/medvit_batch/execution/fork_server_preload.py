"""Preload of the fork server: imports what a case needs, so that a worker forked from it starts at once.

The fork server imports this module by name when it starts; any other import of it does nothing. Afterwards the server
must be safe to fork: one Python thread, and CUDA not initialized. Native libraries (OpenBLAS, jemalloc) restart their
own threads in a child.
"""

from __future__ import annotations

import gc
import os
import threading
import warnings

from medvit_batch.execution.fork_server import IN_FORK_SERVER
from medvit_batch.parent_watch import end_with_parent

__all__: list[str] = []


def _load() -> None:
    end_with_parent()
    warnings.simplefilter("ignore")  # as in a worker: warnings may quote headers
    import monai.inferers
    import monai.transforms  # noqa: F401
    import torch

    import medvit.pipeline  # noqa: F401
    from medvit.bundles import open_bundle  # noqa: F401
    from medvit.inference import load_model  # noqa: F401
    from medvit.io.dicom import open_volume  # noqa: F401
    from medvit.restoration import save_restored  # noqa: F401
    from medvit.segmentation.save import save_result  # noqa: F401

    if torch.cuda.is_initialized() or threading.active_count() > 1:  # type: ignore[no-untyped-call]
        raise SystemExit("Found the fork server unfit to be forked: CUDA is in use, or a second thread.")
    gc.collect()
    gc.freeze()  # so that garbage collection in a child does not copy the pages it shares


if os.environ.get(IN_FORK_SERVER):
    _load()
