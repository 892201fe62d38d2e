"""What a model has seen of the images that it is judged on, as far as its card and its training run tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cxrsearch.model_card import ModelCard
from trainer.config import Config, learnt_datasets
from trainer.data import splits
from trainer.data.claim import claimed, configuration_in
from trainer.data.images import Images


@dataclass(frozen=True)
class Seen:
    """own: it was trained by this configuration, and never saw the patients that are searched for.
    leak: in what way its figures flatter it; empty where nothing is known against it.
    note: all that has to be said: the leak, that it is its own configuration, or that nobody knows."""

    own: bool
    leak: str
    note: str


def seen(config: Config, images: Images, folder: Path, card: ModelCard, name: str, everything: bool) -> Seen:
    """What a model has seen of these images. everything: all are searched for, not the held-out ones alone."""
    own, began = card.described, card.described.get("based_on") or {}
    datasets = list(dict.fromkeys(Path(one.mapping).stem for one in config.data))
    shared = [one for one in datasets if one in own.get("trained_on", [])]
    shared_before = [one for one in datasets if one in began.get("trained_on", [])]
    if not everything and not shared_before and is_own(config, images, folder, card):
        words = "was trained by this configuration: it learnt from the archive, not from the patients searched"
        return Seen(True, "", f"{name} {words}")
    leak = ""
    if claimed(folder.parent, images):
        leak = f"{name} learnt from these very images, or held some of them out: its figures flatter it"
    elif shared:
        leak = f"{name} learnt from images of {', '.join(shared)}: its figures on them flatter it"
    if leak or (own.get("trained_on") and (not began or began.get("trained_on"))):
        return Seen(False, leak, leak)
    return Seen(False, "", f"{name}: its card does not say all that it learnt from; these images may be among that")


def is_own(config: Config, images: Images, folder: Path, card: ModelCard) -> bool:
    """Whether a model was trained by this configuration as it is now, whose held-out patients it then never saw.

    The run that a model still lies in says so to the image. Of a model on its own, its card says by which datasets and
    classes it was trained, and how many images were in which part, which a change of what is held out changes too.
    """
    own = card.described
    if (card.name, own.get("seed")) != (config.name, config.seed):
        return False
    run = configuration_in(folder.parent)
    if run is not None:
        held_out = config.held_out.model_dump(mode="json")
        return (run.get("seed"), run.get("held_out")) == (config.seed, held_out) and claimed(folder.parent, images)
    parts = splits.run_parts(images, config.held_out, config.seed)
    masks = {"train": parts.learnt, "validation": parts.validation, "test": parts.test}
    sizes, datasets = own.get("images") or {}, learnt_datasets(config)
    return (
        all(sizes.get(name) == int((mask & images.labelled).sum()) for name, mask in masks.items())
        and own.get("classes") == config.classes
        and list(dict.fromkeys(own.get("trained_on", [])))[-len(datasets) :] == datasets
    )
