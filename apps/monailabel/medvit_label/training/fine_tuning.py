"""From final labels to a better model: what is trained, when it is published, and how to go back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit_label.models.versions import INSTALLED
from medvit_label.training.cases import LEAST, collect
from medvit_label.training.jobs import Ended, TrainParams, read_train_params

if TYPE_CHECKING:
    from medvit_label.project import Project

__all__ = ["adopt", "roll_back", "train", "trainers", "worker_arguments"]


def trainers(service: Project) -> dict[str, Any]:
    """What ``GET /info/`` says of models that can be trained here, with the settings a client may change."""
    words = f"Fine-tunes on final labels ({LEAST} at least); the new weights serve only if they score higher on the cases held out."
    return {
        name: {"type": "segmentation", "description": words, "config": TrainParams().model_dump()}
        for name, bundle in service.models().items()
        if _untrainable(bundle) is None
    }


def _untrainable(bundle: Bundle) -> str | None:
    if bundle.facts.task != "segmentation":
        return f"a bundle for {bundle.facts.task}"
    absent = [name for name in ("train", "evaluate") if not (bundle.root / "configs" / f"{name}.json").is_file()]
    return f"no configs/{absent[0]}.json" if absent else None


def train(service: Project, model: str, content: dict[str, Any]) -> dict[str, Any]:
    """Begin to fine-tune the version that serves.

    Raises:
        UnknownError: no such model. BundleError: it cannot be trained. RequestError: too few labels. BusyError: one runs.
    """
    bundle, params = service.model(model), read_train_params(content)
    why = _untrainable(bundle)
    if why is not None:
        raise BundleError(
            f"Found {why} where {model} was to be trained; a bundle for segmentation that says how it is trained and judged is needed. "
            f"Name one of: {', '.join(trainers(service)) or 'none'}."
        )

    def prepare(folder: Path) -> dict[str, Any]:
        cases = collect(service, model, params.validation_share, folder / "data")
        names = [label.image for label in (*cases.training, *cases.validation)]
        return {
            "base": service.versions.serving(model),
            "split": cases.said(),
            "params": params.model_dump(),
            "images": names,
        }

    return service.trainings.start(model, prepare)


def worker_arguments(service: Project, row: dict[str, Any], info: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The line that a run's process gets. Where bundles lie is never read from the project's files."""
    base = service.model(row["model"], info["base"])
    return {
        "folder": str(folder.resolve()), "base": str(base.root), "device": service.settings.device,
        "version": f"{service.model(row['model'], INSTALLED).version}+project.{service.versions.next(row['model'])}",
        **info["params"],
    }  # fmt: skip


def adopt(service: Project, ended: Ended) -> int | None:
    """Publish what a run made if it scored higher than what it started from; return its number."""
    before, after = ended.outcome["before"], ended.outcome["after"]
    if not after > before:
        return None
    earlier = [row["version"] for row in service.versions.listing(ended.model) if row.get("run") == ended.run]
    if earlier:  # by a server that ended before it could write down so
        return int(earlier[0])
    number = service.versions.publish(
        ended.model, ended.candidate,
        {"run": ended.run, "from": ended.base, "metric": ended.outcome["metric"], "before": before, "after": after, "split": ended.split, "params": ended.params},
    )  # fmt: skip
    service.results.forget(ended.model)
    return number


def roll_back(service: Project, model: str, to: int | None) -> int:
    """Serve an earlier version from now on; return its number.

    Raises:
        UnknownError: no such model or version.
    """
    service.model(model, INSTALLED)
    number = service.versions.roll_back(model, to)
    service.results.forget(model)
    return number
