"""LearningSettings: sampling, towers, a whole small run, and one that is killed, collapses or is misconfigured."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import CLOUD_CONFIG, Run, configuration, write_clouds
from torch import nn

from cxrsearch.encoder import Encoder
from trainer.config import Config
from trainer.data import splits
from trainer.data.images import Images
from trainer.data.training_set import load
from trainer.learning.embed import embed
from trainer.learning.fit import fit
from trainer.learning.network import Architecture, Network
from trainer.learning.sampling import augment, class_batches

SMALL = "cxr-RN14-w8"


def one_of_each(labels: np.ndarray) -> np.ndarray:
    """(N,) class numbers -> (N, C) findings: present in one class, absent in the others."""
    return np.eye(labels.max() + 1, dtype=np.int8)[labels]


def test_a_batch_has_every_class_and_no_patient_twice_while_there_are_enough() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0] * 50 + [1] * 12)
    patients = np.array([f"a{n // 2}" for n in range(50)] + [f"b{n}" for n in range(12)])
    batches = list(class_batches(one_of_each(labels), np.full(62, "x"), patients, 6, rng))
    assert len(batches) == 6  # as many places as images: ceil(62 / 12)
    for batch in batches:
        assert sorted(labels[i] for i in batch) == [0] * 6 + [1] * 6
    first = batches[0]
    assert len({patients[i] for i in first}) == 12


def test_variation_keeps_shape_range_and_upright() -> None:
    images = torch.zeros(16, 1, 64, 64)
    images[:, :, :32] = 1.0
    varied = augment(images, torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert float(varied.min()) >= 0
    assert float(varied.max()) <= 1
    assert bool((varied[:, :, 5:20].mean(dim=(1, 2, 3)) > varied[:, :, 44:59].mean(dim=(1, 2, 3))).all())
    again = augment(images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(varied, again)


def test_of_many_groups_each_batch_has_some_and_rare_ones_more_often_than_their_size() -> None:
    labels = np.concatenate([np.repeat(np.arange(19), 10), [19, 19]])
    sources = np.where(np.arange(192) % 2 == 0, "north", "south")
    batches = list(class_batches(one_of_each(labels), sources, np.arange(192).astype(str), 5, np.random.default_rng(0)))
    assert {len(batch) for batch in batches} == {40}
    for batch in batches:
        groups = {(sources[i], labels[i]) for i in batch}
        assert len(groups) == 8  # of one source and one class each
    many = [
        label
        for seed in range(40)
        for batch in class_batches(
            one_of_each(labels), sources, np.arange(192).astype(str), 5, np.random.default_rng(seed)
        )
        for label in labels[batch]
    ]
    assert 0.3 < many.count(19) / many.count(0) < 0.8  # the images alone would give 0.2


def test_a_mirror_is_a_choice() -> None:
    images = torch.zeros(64, 1, 48, 48)
    images[..., :16] = 1.0
    sides = [
        (varied[..., :20].mean(dim=(1, 2, 3)) > varied[..., 28:].mean(dim=(1, 2, 3))).sum()
        for varied in (augment(images, torch.Generator().manual_seed(1), mirror) for mirror in (False, True))
    ]
    assert sides[0] == 64
    assert 16 < sides[1] < 48


@pytest.mark.parametrize(("tower", "size"), [(SMALL, 64), ("ViT-S-32-alt", 64), ("own-timm", 64), ("cxr-RN26-w32", 64)])
def test_gradients_reach_every_weight_of_any_tower(tower: str, size: int, own_towers: None) -> None:
    network = Network(Architecture(tower, size, 16))
    encoded = network(torch.rand(3, 1, size, size))
    assert encoded.embedding.shape == (3, 16)
    torch.testing.assert_close(encoded.places.sum(dim=(2, 3)), encoded.embedding)
    torch.testing.assert_close(encoded.attention.sum(dim=(1, 2)), torch.ones(3))
    encoded.embedding[:, 0].sum().backward()
    assert [name for name, weight in network.named_parameters() if weight.grad is None] == []
    assert any(float(weight.grad.abs().sum()) > 0 for weight in network.trunk.parameters() if weight.grad is not None)


@pytest.fixture(scope="module")
def own_towers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A small timm tower of the test's own, in open_clip's way of adding one."""
    import open_clip

    folder = tmp_path_factory.mktemp("towers")
    (folder / "own-timm.json").write_text(
        json.dumps(
            {
                "embed_dim": 32,
                "vision_cfg": {
                    "timm_model_name": "mobilenetv3_small_050",
                    "timm_model_pretrained": False,
                    "timm_pool": "avg",
                    "timm_proj": "linear",
                    "image_size": 64,
                },
                "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1},
            }
        )
    )
    open_clip.add_model_config(folder)


def test_without_attention_all_places_count_alike() -> None:
    network = Network(Architecture(SMALL, 64, 16, attention=False)).eval()
    attention = network(torch.rand(2, 1, 64, 64)).attention
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / attention[0].numel()))


def test_pretrained_weights_are_read_from_a_file(tmp_path: Path) -> None:
    import open_clip

    open_clip.add_model_config(Path(sys.modules["trainer.learning.network"].__file__ or "").parent / "towers")
    given = open_clip.create_model(SMALL)
    torch.save(given.state_dict(), tmp_path / "weights.pt")
    network = Network(Architecture(SMALL, 64, 16), str(tmp_path / "weights.pt"))
    torch.testing.assert_close(network.trunk.conv1.weight, given.visual.conv1.weight)  # type: ignore[union-attr]
    torch.testing.assert_close(network.trunk.bn1.running_mean, given.visual.bn1.running_mean)  # type: ignore[union-attr]


def test_a_file_of_weights_that_would_run_code_does_not(tmp_path: Path) -> None:
    import pickle

    from cxrsearch.errors import InputError

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match=r"pretrained .* cannot be used"):
        Network(Architecture(SMALL, 64, 16), str(tmp_path / "weights.pt"))
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Images]:
    config = Config.load(configuration(tmp_path_factory.mktemp("small"), 24, 3))
    return config, load(config)[0]


def changed(config: Config, **learning: object) -> Config:
    return config.model_copy(update={"learning": config.learning.model_copy(update=learning)})


@pytest.mark.slow
def test_a_whole_run_gives_a_model_that_indexes(cxrsearch: Run, tmp_path: Path) -> None:
    config, out = configuration(tmp_path, 45, 4), tmp_path / "run"
    ran = cxrsearch("train", config, "--out", out)
    assert ran.code == 0, ran.err
    assert "the encoder" in ran.out
    assert "32 x 32 thumbnails" in ran.out
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "curves.png",
        "embedding.png",
        "metrics.jsonl",
        "model",
    ]
    card = json.loads((out / "model" / "model.json").read_text("utf-8"))
    assert card["seed"] == 3
    assert card["images"]["train"] + card["images"]["validation"] + card["images"]["test"] == 60
    value, low, high = card["figures"]["unseen"]["the encoder"]["map_at_r"]
    assert 0 <= low <= value <= high <= 1
    encoder = Encoder(out / "model")
    assert (encoder.card.image_size, encoder.card.dimensions) == (64, 16)
    indexed = cxrsearch(
        "index", tmp_path / "set" / "dataset.toml", "--index", tmp_path / "index", "--model", out / "model"
    )
    assert indexed.out.startswith("60 indexed")
    judged = cxrsearch("evaluate", config, "--model", out / "model", "--out", tmp_path / "judged")
    assert judged.code == 0, judged.err
    again = json.loads((tmp_path / "judged" / "evaluation.json").read_text("utf-8"))
    # What the card says is what the model that was exported does on the same images.
    assert again["galleries"]["unseen"]["the encoder"]["map_at_r"]["value"] == pytest.approx(value, abs=2e-3)


def test_seeds_make_a_run_repeat(small: tuple[Config, Images]) -> None:
    config, images = small
    losses = [[line["loss"] for line in fit(config, images).history] for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    other = config.model_copy(update={"seed": 4})
    assert [line["loss"] for line in fit(other, images).history] != pytest.approx(losses[0], rel=1e-5)


def test_a_run_goes_on_from_its_checkpoint_as_if_never_stopped(small: tuple[Config, Images], tmp_path: Path) -> None:
    config, images = small
    whole = fit(config, images)

    class Killed(Exception):
        pass

    def kill(line: dict[str, float]) -> None:
        if line["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        fit(config, images, checkpoint=tmp_path / "checkpoint.pt", log=kill)
    lines: list[dict[str, float]] = []
    rest = fit(config, images, checkpoint=tmp_path / "checkpoint.pt", log=lines.append)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in rest.history] == pytest.approx([line["loss"] for line in whole.history], rel=1e-5)
    np.testing.assert_allclose(embed(rest.network, images.pixels), embed(whole.network, images.pixels), atol=1e-4)


def test_learning_without_labels_goes_on_after_a_kill(small: tuple[Config, Images], tmp_path: Path) -> None:
    config, images = small
    config = changed(config, self_supervised_epochs=3, epochs=1)
    whole = fit(config, images, unlabelled=images)

    class Killed(Exception):
        pass

    def kill(line: dict[str, float]) -> None:
        if line.get("self_supervised_epoch") == 2:
            raise Killed

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        fit(config, images, unlabelled=images, checkpoint=checkpoint, log=kill)
    lines: list[dict[str, float]] = []
    rest = fit(config, images, unlabelled=images, checkpoint=checkpoint, log=lines.append)
    assert [line.get("self_supervised_epoch") for line in lines] == [1, 2, 3, None]
    assert [line["loss"] for line in rest.history] == pytest.approx([line["loss"] for line in whole.history], rel=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    lines.clear()  # stopped after learning with labels began, it tells the epochs without them again
    fit(config, images, unlabelled=images, checkpoint=checkpoint, log=lines.append)
    assert [line.get("self_supervised_epoch") for line in lines] == [1, 2, 3, None]
    lines.clear()  # and one of before, which does not hold them, goes on without
    kept = torch.load(checkpoint, weights_only=True)
    del kept["without_labels"]
    torch.save(kept, checkpoint)
    fit(config, images, unlabelled=images, checkpoint=checkpoint, log=lines.append)
    assert [line.get("self_supervised_epoch") for line in lines] == [None]


def test_a_checkpoint_on_a_full_disk_is_the_users_error_and_the_old_one_stays(
    small: tuple[Config, Images], tmp_path: Path
) -> None:
    import resource

    from cxrsearch.errors import InputError

    config, images = small
    checkpoint = tmp_path / "checkpoint.pt"
    before, kept = resource.getrlimit(resource.RLIMIT_FSIZE), b""

    def fill(line: dict[str, float]) -> None:
        nonlocal kept
        kept = checkpoint.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) // 2, before[1]))  # no file may grow beyond this

    try:
        with pytest.raises(InputError, match=r"checkpoint\.pt: cannot be written \(File too large\)"):
            fit(config, images, checkpoint=checkpoint, log=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert checkpoint.read_bytes() == kept


def test_few_images_are_learnt_from_without_labels_too(small: tuple[Config, Images]) -> None:
    config, images = small
    lines: list[dict[str, float]] = []
    few = changed(config, self_supervised_epochs=1, epochs=1)
    fit(few, images, unlabelled=images.part(np.arange(5)), log=lines.append)
    assert np.isfinite(lines[0]["loss"])


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_when_run_again(tmp_path: Path) -> None:
    config, out = configuration(tmp_path, 24, 30), tmp_path / "run"
    command = [sys.executable, "-m", "cxrsearch", "train", str(config), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len((out / "metrics.jsonl").read_text("utf-8").splitlines())
    assert 0 < before < 30
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    epochs = [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert epochs == list(range(1, 31))
    assert not (out / "checkpoint.pt").exists()


def test_a_damaged_checkpoint_says_so(small: tuple[Config, Images], tmp_path: Path) -> None:
    from cxrsearch.errors import InputError

    config, images = small
    (tmp_path / "checkpoint.pt").write_bytes(b"PK nothing of the kind")
    with pytest.raises(InputError, match=r"not a checkpoint of this run .* delete it"):
        fit(config, images, checkpoint=tmp_path / "checkpoint.pt")


def test_a_collapse_is_noticed(small: tuple[Config, Images], monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrsearch.errors import InputError

    class Dead(nn.Module):
        """Brings every embedding to one point, as multi-similarity loss alone can."""

        def forward(self, embedding: torch.Tensor, known: object, done: float) -> torch.Tensor:
            return (embedding - torch.nn.functional.one_hot(torch.tensor(0), embedding.shape[1])).square().sum()

    config, images = small
    monkeypatch.setattr("trainer.learning.fit.Objective", lambda *_: Dead())
    with pytest.raises(InputError, match=r"collapsed at epoch \d+ .*warm_up"):
        fit(changed(config, epochs=40, learning_rate=1e-2), images)


@pytest.mark.parametrize(
    "learning",
    [
        {"objective": "triplet"},
        {"objective": "cross-entropy"},
        {"miner": False},
        {"warm_up": "before"},
        {"warm_up": "none"},
        {"self_supervised_epochs": 2},
    ],
    ids=str,
)
def test_every_way_of_learning_changes_the_network(small: tuple[Config, Images], learning: dict[str, object]) -> None:
    config, images = small
    lines: list[dict[str, float]] = []
    found = fit(changed(config, epochs=2, **learning), images, unlabelled=images, log=lines.append)
    assert len(lines) == 2 + int(str(learning.get("self_supervised_epochs", 0)))
    assert all(np.isfinite(line["loss"]) for line in lines)
    torch.manual_seed(config.seed)
    before = Network(found.network.architecture)
    assert not torch.allclose(before.trunk.conv1.weight, found.network.trunk.conv1.weight)  # type: ignore[union-attr, arg-type]


def test_the_epoch_is_chosen_by_validation_patients(small: tuple[Config, Images]) -> None:
    config, images = small
    choosing = splits.held_out(images, 0.3, 0)
    found = fit(changed(config, epochs=5), images.part(~choosing), images.part(choosing))
    scores = [line["validation_map"] for line in found.history]
    assert found.epoch == int(np.argmax(scores)) + 1


@pytest.mark.slow
def test_two_processes_learn_one_network(tmp_path: Path) -> None:
    """What several GPUs do, here as two processes on the CPU: every step sees the embeddings of both."""
    config = configuration(tmp_path, 24, 3)
    script = tmp_path / "both.py"
    script.write_text(
        f"""
import hashlib
from pathlib import Path
from accelerate import PartialState
from trainer import run

if __name__ == "__main__":
    folder = Path({str(tmp_path)!r})
    found = run.train(Path({str(config)!r}), folder / "run")
    # as the model folder has them: exporting rounds
    weights = b"".join(t.detach().half().numpy().tobytes() for t in found.fit.network.parameters())
    (folder / f"rank-{{PartialState().process_index}}").write_text(hashlib.sha256(weights).hexdigest())
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    digests = [(tmp_path / f"rank-{rank}").read_text() for rank in (0, 1)]
    assert digests[0] == digests[1]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert Encoder(tmp_path / "run" / "model").card.dimensions == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 'x'", "data: Field required"),
        ("name =", "not a training configuration"),
        (None, "cannot be read"),
        (CLOUD_CONFIG.format(epochs=1, learning="epoch = 3"), "learning.epoch: no such key. Did you mean 'epochs'?"),
        (CLOUD_CONFIG.format(epochs=0, learning=""), "learning.epochs is 0, which keeps a pretrained trunk"),
        (CLOUD_CONFIG.format(epochs=1, learning="").replace("RN14-w8", "RN14-w9"), "open_clip has no 'cxr-RN14-w9'"),
        (
            CLOUD_CONFIG.format(epochs=1, learning="").replace(
                "image_size = 64", "image_size = 64\npretrained = 'nowhere'"
            ),
            "pretrained 'nowhere' cannot be used: it is no file, and no tag of this tower (its tags: none)",
        ),
        (
            CLOUD_CONFIG.format(epochs=1, learning="").replace(
                "image_size = 64", "image_size = 64\npretrained = 'set/facts.csv'"
            ),
            "set/facts.csv' cannot be used: no file of weights",
        ),
    ],
)
def test_a_wrong_configuration_says_what(cxrsearch: Run, tmp_path: Path, text: str | None, message: str) -> None:
    write_clouds(tmp_path / "set", 20)
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    ran = cxrsearch("train", tmp_path / "config.toml", "--out", tmp_path / "run")
    assert ran.code == 4
    assert message in ran.err
    assert ran.err.startswith("cxrsearch: ")
    assert len(ran.err.strip().splitlines()) <= 2


@pytest.mark.parametrize("command", [("train",), ("evaluate", "--folds", 3)])
def test_a_tower_that_is_none_is_refused_before_images_are_read(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str | int, ...]
) -> None:
    config = configuration(tmp_path, 20, 1)
    config.write_text(config.read_text("utf-8").replace("RN14-w8", "RN14-w9"), "utf-8")
    monkeypatch.setattr("trainer.data.training_set.read", lambda *_: pytest.fail("images were read"))
    ran = cxrsearch(*command, config, "--out", tmp_path / "run")
    assert (ran.code, "open_clip has no 'cxr-RN14-w9'" in ran.err) == (4, True), ran.err


def test_without_patients_there_is_no_training_but_a_stamped_one(cxrsearch: Run, tmp_path: Path) -> None:
    config = configuration(tmp_path, 24, 1)
    toml = tmp_path / "set" / "dataset.toml"
    toml.write_text(toml.read_text("utf-8").replace('[patient]\ncolumn = "patient"\n', ""), "utf-8")
    ran = cxrsearch("train", config, "--out", tmp_path / "run")
    assert ran.code == 4
    assert re.search("fewer than two classes have images with a patient number.*--allow-leakage", ran.err, re.DOTALL)
    ran = cxrsearch("train", config, "--out", tmp_path / "run", "--allow-leakage")
    assert ran.code == 0, ran.err
    assert "LEAKAGE: images without a patient number were taken as patients of their own" in ran.out
    assert "allow-leakage" in json.loads((tmp_path / "run" / "model" / "model.json").read_text("utf-8"))["leakage"]


def test_a_run_folder_of_another_configuration_is_left_alone(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    ran = cxrsearch("train", configuration(tmp_path, 6, 1), "--out", tmp_path / "run")
    assert ran.code == 4
    assert "holds a run of another configuration" in ran.err
    assert "give another --out" in ran.err


def test_a_run_folder_belongs_to_its_images_and_to_whether_leaks_were_allowed(cxrsearch: Run, tmp_path: Path) -> None:
    config, out = configuration(tmp_path, 24, 1), tmp_path / "run"
    assert cxrsearch("train", config, "--out", out).code == 0
    ran = cxrsearch("train", config, "--out", out, "--allow-leakage")
    assert ran.code == 4
    assert "another leakage allowed" in ran.err
    table = tmp_path / "set" / "facts.csv"
    table.write_text(table.read_text("utf-8").replace("COVID-19", "No Finding", 1), "utf-8")
    ran = cxrsearch("train", config, "--out", out)
    assert ran.code == 4
    assert "another images" in ran.err
