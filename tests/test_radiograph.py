"""A file becomes the same picture whatever it was written as, or a stated reason why not."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.canonical import canonical
from cxrsearch.imaging.radiograph import MAX_FILE_BYTES, Radiograph
from cxrsearch.imaging.read import read
from cxrsearch.imaging.tone import stretch
from indexer.phantoms import draw, write_dicom

PHANTOM = draw("Pneumonia", 7, size=120)


def read_one(path: Path, keywords: tuple[str, ...] = ()) -> Radiograph:
    (image,) = read(path, keywords)
    return image


def reason_of(path: Path) -> Reason:
    with pytest.raises(ImageError) as caught:
        read_one(path)
    assert len(str(caught.value).splitlines()) == 1
    return caught.value.reason


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("window", [True, False], ids=["window", "no window"])
@pytest.mark.parametrize(
    ("bits", "syntax"),
    [
        (8, None),
        (10, None),
        (12, None),
        (16, None),
        (12, RLELossless),
        (8, RLELossless),
        (12, JPEG2000Lossless),
        (12, JPEGLSLossless),
    ],
)
def test_every_way_to_write_a_dicom_gives_one_picture(
    tmp_path: Path, photometric: str, window: bool, bits: int, syntax: pydicom.uid.UID | None
) -> None:
    path = tmp_path / "image.dcm"
    write_dicom(path, PHANTOM, photometric, bits, window=window)
    if syntax is not None:
        dataset = pydicom.dcmread(path)
        dataset.compress(syntax)
        dataset.save_as(path)
    image = read_one(path, ("PatientID", "ViewPosition", "AccessionNumber"))
    assert image.format == "dicom"
    assert image.header == {"PatientID": "PH", "ViewPosition": "PA"}
    expected = PHANTOM if window else stretch(PHANTOM)
    assert np.abs(image.pixels - expected).max() < 0.012  # 8 bits, and percentiles on quantised values


def test_jpeg_lossless_is_read_bit_exactly(tmp_path: Path) -> None:
    """Process 14, selection value 1: what most computed radiography of the 2000s is stored as."""
    import imagecodecs
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLosslessSV1

    plain, path = tmp_path / "plain.dcm", tmp_path / "lossless.dcm"
    write_dicom(plain, PHANTOM, bits=12)
    dataset = pydicom.dcmread(plain)
    stream = imagecodecs.jpeg8_encode(dataset.pixel_array, lossless=True, predictor=1, bitspersample=12)
    dataset.PixelData = encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset.save_as(path)
    np.testing.assert_array_equal(read_one(path).pixels, read_one(plain).pixels)
    dataset.PixelData = encapsulate([stream[: len(stream) // 2]])
    dataset.save_as(path)
    assert reason_of(path) is Reason.TRUNCATED


def test_twelve_bit_jpeg_is_read(tmp_path: Path) -> None:
    """JPEG extended, process 4: lossy, of twelve bits, which Pillow and GDCM do not read."""
    import imagecodecs
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGExtended12Bit

    path = tmp_path / "extended.dcm"
    write_dicom(path, PHANTOM, bits=12, window=True)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(dataset.pixel_array, level=98, bitspersample=12)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    dataset.save_as(path)
    assert np.abs(read_one(path).pixels - PHANTOM).max() < 0.03


def test_padding_neither_counts_nor_shows(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    write_dicom(path, PHANTOM * np.float32(0.9), bits=12)
    dataset = pydicom.dcmread(path)
    stored = dataset.pixel_array.copy()
    stored[:, :20] = 4000
    dataset.add_new("PixelPaddingValue", "US", 4000)
    dataset.PixelData = stored.tobytes()
    dataset.save_as(path)
    pixels = read_one(path).pixels
    assert (pixels[:, :20] == 0).all()
    assert np.abs(pixels[:, 20:] - stretch(PHANTOM)[:, 20:]).max() < 0.05


@pytest.mark.parametrize(
    "change",
    [
        lambda d: setattr(d, "WindowWidth", "0"),
        lambda d: setattr(d, "WindowCenter", "99999"),
        lambda d: setattr(d, "RescaleSlope", None),
        lambda d: setattr(d, "VOILUTFunction", "SIGMOID"),
        lambda d: setattr(d, "WindowCenter", ["2048", "1000"]),
        lambda d: delattr(d, "PatientID"),
    ],
)
def test_odd_tone_attributes_still_give_a_picture(tmp_path: Path, change: Callable[[pydicom.Dataset], None]) -> None:
    path = tmp_path / "image.dcm"
    write_dicom(path, PHANTOM, bits=12, window=True)
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    pixels = read_one(path).pixels
    assert np.isfinite(pixels).all()
    assert np.corrcoef(pixels.ravel(), PHANTOM.ravel())[0, 1] > 0.95


def test_pixels_taller_than_wide_are_made_square(tmp_path: Path) -> None:
    path = tmp_path / "image.dcm"
    write_dicom(path, PHANTOM)
    dataset = pydicom.dcmread(path)
    dataset.PixelAspectRatio = ["2", "1"]
    dataset.save_as(path)
    image = read_one(path)
    assert (image.height, image.width) == (2 * PHANTOM.shape[0], PHANTOM.shape[1])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "I;16", "1"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff"])
def test_every_kind_of_picture_is_gray_on_0_to_1(tmp_path: Path, mode: str, kind: str) -> None:
    writable = {"png": {"L", "RGB", "RGBA", "P", "I;16", "1"}, "jpeg": {"L", "RGB", "CMYK"}}
    if mode not in writable.get(kind, {mode}):
        pytest.skip(f"{kind} cannot hold {mode}")
    path = tmp_path / f"image.{kind}"
    gray = Image.fromarray((PHANTOM * 255).astype(np.uint8))
    picture = Image.fromarray((PHANTOM * 4095).astype(np.uint16)) if mode == "I;16" else gray.convert(mode)
    picture.save(path)
    image = read_one(path)
    assert image.format == kind
    assert image.pixels.dtype == np.float32
    assert image.pixels.shape == PHANTOM.shape
    assert 0 <= image.pixels.min() < 0.1
    assert 0.9 < image.pixels.max() <= 1
    if mode != "1":
        assert np.corrcoef(image.pixels.ravel(), PHANTOM.ravel())[0, 1] > 0.99


def test_what_a_file_is_does_not_depend_on_its_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.dcm"
    Image.fromarray((PHANTOM * 255).astype(np.uint8)).save(path, "PNG")
    assert read_one(path).format == "png"


def test_a_camera_turned_on_its_side_is_turned_back(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    picture = Image.fromarray((PHANTOM * 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(path, exif=exif)
    assert read_one(path).pixels.shape == PHANTOM.shape


def test_bad_files_give_their_reason(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.fromarray((PHANTOM * 255).astype(np.uint8)).save(png, "PNG")
    dicom = tmp_path / "good.dcm"
    write_dicom(dicom, PHANTOM)
    frames = [Image.new("L", (8, 8), shade) for shade in (0, 200)]
    gif = io.BytesIO()
    frames[0].save(gif, "TIFF", save_all=True, append_images=frames[1:])
    blank = io.BytesIO()
    Image.new("L", (20, 20), 7).save(blank, "PNG")
    cases = {
        Reason.EMPTY: b"",
        Reason.NOT_AN_IMAGE: b"patient,finding\n1,COVID-19\n",
        Reason.CINE: gif.getvalue(),
        Reason.BLANK: blank.getvalue(),
    }
    for reason, content in cases.items():
        (tmp_path / "bad").write_bytes(content)
        assert reason_of(tmp_path / "bad") is reason
    for whole in (png.getvalue(), dicom.read_bytes()):
        (tmp_path / "bad").write_bytes(whole[: len(whole) * 2 // 3])
        assert reason_of(tmp_path / "bad") in (Reason.TRUNCATED, Reason.NO_PIXELS)
    assert reason_of(tmp_path / "nowhere.png") is Reason.MISSING
    assert reason_of(tmp_path) is Reason.MISSING


def test_a_decompression_bomb_is_refused_before_it_is_decompressed(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 100_000
    assert reason_of(path) is Reason.TOO_LARGE
    write_dicom(tmp_path / "bomb.dcm", PHANTOM)
    dataset = pydicom.dcmread(tmp_path / "bomb.dcm")
    dataset.Rows = dataset.Columns = 60_000
    dataset.save_as(tmp_path / "bomb.dcm")
    assert reason_of(tmp_path / "bomb.dcm") is Reason.TOO_LARGE


def test_a_file_too_large_to_be_a_radiograph_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.dcm"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert reason_of(path) is Reason.TOO_LARGE


def test_no_header_value_is_in_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.dcm"
    write_dicom(path, PHANTOM, facts={"patient": "SECRET-4711"})
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 30
    dataset.save_as(path)
    with pytest.raises(ImageError) as caught:
        read_one(path)
    assert "4711" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.sampled_from([32, 160, 224]))
def test_canonical_keeps_the_aspect_and_pads_with_black(height: int, width: int, size: int) -> None:
    square = canonical(Radiograph(np.ones((height, width), np.float32), "", "png"), size)
    assert square.shape == (size, size)
    assert square.dtype == np.float32
    rows, columns = np.flatnonzero(square.any(axis=1)), np.flatnonzero(square.any(axis=0))
    assert max(len(rows), len(columns)) == size
    scale = size / max(height, width)
    assert abs(len(rows) - height * scale) <= 1
    assert abs(len(columns) - width * scale) <= 1
    assert abs(rows[0] - (size - 1 - rows[-1])) <= 1
    assert set(np.unique(square)) <= {0.0, 1.0}
