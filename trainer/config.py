"""A training configuration: the TOML that ``cxrsearch train`` and ``cxrsearch evaluate`` are given.

Described for its users in docs/how-to/training.md; trainer/configs/ has the ones whose figures we publish.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cxrsearch.errors import InputError
from cxrsearch.model_card import find_model, installed_models, read_card
from cxrsearch.text import clean, nearest
from cxrsearch.validation import first_problem

# What begins a value of network.pretrained that names an encoder.
MODEL = "model:"

Part = Annotated[float, Field(ge=0, lt=0.5)]
Positive = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingDataset(_Strict):
    """A dataset: a mapping (TOML path or shipped name) and the folder its images are in.

    labelled: False for images that are learnt from without labels, and tell whose near duplicates are whose.
    judged: False for images that are learnt from and never judged on, so that their patients need not be known.
    source: the hospital or collection, where several datasets are of one; the mapping's name where it is not given.
    knows: the classes that this dataset speaks of, so that an image which it does not put in one of them is not in it;
    of other classes nothing is known. Not given: the classes that its images are in.
    leaves_open: of a value that does not say everything, such as "Pneumonia" without its cause, the classes that are
    neither present nor absent in an image which has only such values.
    leave_out: CSV files whose first column has the file names or paths of images not to be used, such as ones with
    contradicted labels.
    """

    mapping: str
    root: str | None = None
    labelled: bool = True
    judged: bool = True
    source: str | None = None
    knows: list[str] = []
    leaves_open: dict[str, list[str]] = {}
    leave_out: list[str] = []


class NetworkSettings(_Strict):
    """A tower and what is put on it.

    tower: any open_clip vision tower, or one of trainer/learning/towers.
    pretrained: an open_clip tag, a local file of weights, or "package:NAME" for an installed Python package that
    carries one; or "model:NAME", in place of a tower: an encoder that is there (its name, or its folder), with whose
    places or embedding learning begins.
    image_size: in pixels; of an encoder, its own. dimensions: D of the embedding.
    attention: False weighs all places alike.
    """

    tower: str = "cxr-RN26-w32"
    pretrained: str | None = None
    image_size: Annotated[int, Field(ge=32, le=1024)] = 224
    dimensions: Positive = 128
    attention: bool = True


class LearningSettings(_Strict):
    """How to learn.

    objective: what shapes the embedding once warm. miner: hard pairs only, for multi-similarity, else all of them.
    warm_up: a classifier of the findings alone for the first ``warm_up_part`` of the epochs and then beside the
    objective, or alone and then gone ("before"), or nothing ("none": multi-similarity loss may then collapse).
    objective_weight: of the objective against the classifier beside it.
    distillation: how strongly images that were near before learning are kept near; 0 not at all. Only sensible with
    pretrained weights.
    back_to_start: how far the weights that were learnt are taken back to those that learning began with (Wortsman et
    al., CVPR 2022), 0 not at all, 1 all the way. Only with pretrained weights.
    epochs: 0 leaves a pretrained trunk as it came and learns the projection alone, by ridge regression.
    self_supervised_epochs: over all images, labelled or not, before anything else.
    images_per_class: K of the P classes x K images in a batch.
    trunk_rate: the part of the learning rate at which a pretrained trunk learns.
    frozen: the part of a pretrained trunk, from the image on, that is left as it came: 1 for all of it.
    mirror: whether images are mirrored half the time. A radiologist tells right from left.
    decay: of the moving average of the weights, which is what is kept.
    """

    objective: Literal["multi-similarity", "triplet", "cross-entropy"] = "multi-similarity"
    miner: bool = True
    warm_up: Literal["beside", "before", "none"] = "beside"
    warm_up_part: Annotated[float, Field(ge=0, le=1)] = 0.3
    objective_weight: Annotated[float, Field(gt=0)] = 0.5
    epochs: Annotated[int, Field(ge=0)] = 60
    self_supervised_epochs: Annotated[int, Field(ge=0)] = 0
    images_per_class: Annotated[int, Field(ge=2)] = 20
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    mirror: bool = False
    trunk_rate: Annotated[float, Field(gt=0, le=1)] = 0.3
    frozen: Annotated[float, Field(ge=0, le=1)] = 0.0
    distillation: Annotated[float, Field(ge=0)] = 0.0
    back_to_start: Annotated[float, Field(ge=0, le=1)] = 0.0


class HeldOut(_Strict):
    """Parts of the patients kept from learning: ``validation`` chooses the epoch (0: the last one is taken),
    ``test`` gives the figures of the card (0: there are none)."""

    validation: Part = 0.1
    test: Part = 0.15


class Config(_Strict):
    """A whole configuration. ``classes`` maps a class to the label values in it; ``label`` and ``site`` are fields.

    Without ``classes`` every value of the label is a class. An image may be in several, and a value in several too.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    data: Annotated[list[TrainingDataset], Field(min_length=1)]
    label: str = "finding"
    site: str = "site"
    classes: dict[str, list[str]] = {}
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    network: NetworkSettings = NetworkSettings()
    learning: LearningSettings = LearningSettings()
    held_out: HeldOut = HeldOut()
    intended_use: dict[str, str] = {}  # for, not_for, data_licence: words for the card

    @classmethod
    def load(cls, path: Path) -> Config:
        """Folders and files in it become relative to where the configuration is. Raises InputError."""
        try:
            config = cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); examples are in trainer/configs/") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InputError(f"{path}: not a training configuration, which is TOML in UTF-8: {error}") from None
        except ValidationError as error:
            parts: dict[str, type[BaseModel]] = {
                "data": TrainingDataset,
                "network": NetworkSettings,
                "learning": LearningSettings,
                "held_out": HeldOut,
            }
            raise InputError(f"{path}: {first_problem(error, cls, parts)} (docs/how-to/training.md)") from None
        base = path.parent
        sources = [
            source.model_copy(
                update={
                    "root": None if source.root is None else str(base / source.root),
                    "mapping": str(base / source.mapping) if source.mapping.endswith(".toml") else source.mapping,
                    "leave_out": [str(base / path) for path in source.leave_out],
                }
            )
            for source in config.data
        ]
        network, pretrained = config.network, config.network.pretrained
        if not config.learning.epochs and (pretrained is None or config.learning.self_supervised_epochs):
            raise InputError(
                f"{path}: learning.epochs is 0, which keeps a pretrained trunk: name one (network.pretrained), and no"
                " learning.self_supervised_epochs"
            )
        if config.learning.back_to_start and pretrained is None:
            raise InputError(
                f"{path}: learning.back_to_start goes back to pretrained weights: name some (network.pretrained), or"
                " leave it out"
            )
        if pretrained is not None and pretrained.startswith(MODEL):
            network = _of_model(path, network, pretrained.removeprefix(MODEL))
        elif pretrained is not None and (base / pretrained).is_file():
            network = network.model_copy(update={"pretrained": str(base / pretrained)})
        return config.model_copy(update={"data": sources, "network": network})


def learnt_datasets(config: Config) -> list[str]:
    """The datasets that a configuration learns from, with or without labels, by the names that cards give them."""
    without_labels = config.learning.self_supervised_epochs > 0
    return list(dict.fromkeys(Path(one.mapping).stem for one in config.data if one.labelled or without_labels))


def imported_folder(config: Config) -> Path | None:
    """The folder of the encoder that a configuration begins at; None where it begins at none."""
    given = config.network.pretrained
    return Path(given.removeprefix(MODEL)) if given is not None and given.startswith(MODEL) else None


def _of_model(path: Path, network: NetworkSettings, name: str) -> NetworkSettings:
    """With the folder of the encoder, and its size of images. path: of the configuration. Raises InputError."""
    installed = {folder.name for folder in installed_models()}
    given = name if name in installed else path.parent / name
    if isinstance(given, Path) and not (name and (given / "model.json").is_file()):
        near = nearest(name, installed) or f" Installed: {', '.join(sorted(installed))}."
        raise InputError(f"{path}: network.pretrained: no installed model {clean(name)!r}, and no such folder.{near}")
    folder = find_model(given)
    size = read_card(folder).image_size
    if "tower" in network.model_fields_set:
        raise InputError(f"{path}: network.tower: {MODEL}{name} is an encoder of its own; leave the tower out")
    if "image_size" in network.model_fields_set and network.image_size != size:
        raise InputError(f"{path}: network.image_size: {MODEL}{name} takes images of {size} pixels; leave it out")
    return network.model_copy(update={"pretrained": f"{MODEL}{folder}", "image_size": size})
