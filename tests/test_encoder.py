"""The exported encoder: what its outputs are, and that it is the network that was trained."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cxrsearch.encoder import Encoder
from cxrsearch.imaging.canonical import canonical
from cxrsearch.imaging.radiograph import Radiograph
from cxrsearch.imaging.read import read
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from indexer.phantoms import FINDINGS, draw


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(DEFAULT_MODEL)


def phantoms(size: int) -> list[NDArray[np.float32]]:
    drawn = [draw(finding, body, size=200) for body in range(3) for finding in FINDINGS]
    return [canonical(Radiograph(pixels, "", "png"), size) for pixels in drawn]


def test_the_embedding_is_the_sum_of_its_places(encoder: Encoder) -> None:
    pictures = phantoms(encoder.card.image_size)
    encoded = encoder.encode(pictures)
    count, dimensions, height, width = encoded.places.shape
    assert (count, dimensions) == (9, encoder.card.dimensions)
    np.testing.assert_allclose(encoded.places.sum(axis=(2, 3)), encoded.embedding, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(encoded.embedding, axis=1), 1, atol=1e-5)
    assert encoded.attention.shape == (count, height, width)
    assert (encoded.attention >= 0).all()
    np.testing.assert_allclose(encoded.attention.sum(axis=(1, 2)), 1, atol=1e-5)
    # So a score is a sum over the places of either image.
    score = float(encoded.embedding[0] @ encoded.embedding[1])
    by_place = np.einsum("dhw,d->hw", encoded.places[0], encoded.embedding[1])
    assert by_place.sum() == pytest.approx(score, abs=1e-5)


def test_a_batch_changes_nothing_and_embed_is_encode(encoder: Encoder) -> None:
    pictures = phantoms(encoder.card.image_size)
    together = encoder.embed(pictures)
    alone = np.concatenate([encoder.embed([picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(together, encoder.encode(pictures).embedding, atol=1e-5)


def test_exposure_does_not_change_the_embedding(encoder: Encoder) -> None:
    pictures = phantoms(encoder.card.image_size)
    dimmed = [(0.2 + 0.5 * picture).astype(np.float32) for picture in pictures]
    cosines = (encoder.embed(pictures) * encoder.embed(dimmed)).sum(axis=1)
    assert cosines.min() > 0.998


def test_onnx_and_torch_agree_on_phantoms(encoder: Encoder) -> None:
    assert_agree(encoder, phantoms(encoder.card.image_size))


@pytest.mark.data
def test_onnx_and_torch_agree_on_real_radiographs(encoder: Encoder, data: Path) -> None:
    paths = (
        sorted((data / "covid-chestxray" / "images").iterdir())[::10] + sorted((data / "covid-cxnet").iterdir())[::40]
    )
    pictures = [canonical(read(path)[0], encoder.card.image_size) for path in paths]
    assert len(pictures) > 60
    assert_agree(encoder, pictures)


def assert_agree(encoder: Encoder, pictures: list[NDArray[np.float32]]) -> None:
    import torch

    from trainer.learning.export import load_network

    network = load_network(DEFAULT_MODEL)
    with torch.inference_mode():
        expected = network(torch.from_numpy(np.stack(pictures)).unsqueeze(1))
    found = encoder.encode(pictures)
    cosines = (found.embedding * expected.embedding.numpy()).sum(axis=1)
    assert cosines.min() >= 0.9999
    np.testing.assert_allclose(found.attention, expected.attention.numpy(), atol=1e-4)
    np.testing.assert_allclose(found.places, expected.places.numpy(), atol=1e-4)


def test_the_model_that_ships_is_small_and_says_what_it_is() -> None:
    card = read_card(DEFAULT_MODEL)
    assert sum(path.stat().st_size for path in DEFAULT_MODEL.iterdir()) < 25_000_000
    assert card.described["trained_on"] == [
        "nih",
        "nih-of-darkcovidnet",
        "rsna-normal",
        "covid-chestxray",
        "covid-chestxray-more",
    ]
    assert card.described["command"].startswith("cxrsearch train ")
    figures = card.described["figures"]
    assert figures["queries"] > 100
    assert {"the encoder", "32 x 32 thumbnails", "ImageNet trunk, frozen"} <= set(figures["unseen"])
    assert "CPU cores" in figures["hardware"]
    assert set(card.described["intended_use"]) == {"for", "not_for", "data_licence"}
