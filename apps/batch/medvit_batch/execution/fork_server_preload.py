"""Load what a case needs into the fork server, so that a worker forked from it starts at once.

The fork server imports this module by its name when it starts; elsewhere its import does nothing. The server must be fit to be forked
afterwards: one thread of Python, and CUDA untouched. Threads of native libraries (OpenBLAS, jemalloc) are restarted by those libraries
in a child.
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
    warnings.simplefilter("ignore")  # as in a worker: they may quote headers
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
    gc.freeze()  # a child's collections leave the pages that it shares as they are


if os.environ.get(IN_FORK_SERVER):
    _load()
