"""However a radiograph was written, it is one picture.

A property: 2,400 files, each written in a way drawn from everything that scanners and archives do, are compared with
the plain picture; DCMTK, where installed, is asked about some of them. Then single faults that were seen in the field.
"""

import io
import re
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from tone_phantoms import LOSSY, NATIVE, PICTURE, Way, build, columns_of_padding, expected, possible, sample

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.read import decode

COMBINATIONS, GROUPS = 2400, 8


def deviation(way: Way, pixels: NDArray[np.float32]) -> float:
    """How far the image is from what it should be: the largest mean of a difference that a fault would raise."""
    right = expected(way)
    if way.aspect:
        whole = Image.fromarray(right.astype(np.float32))
        right = np.asarray(whole.resize((right.shape[1], 2 * right.shape[0]), Image.Resampling.BILINEAR))
    assert pixels.shape == right.shape
    assert 0 <= pixels.min() <= pixels.max() <= 1
    if edge := columns_of_padding(way):
        assert pixels[:, :edge].max() == pixels[:, -edge:].max() == 0
        right, pixels = right[:, edge:-edge], pixels[:, edge:-edge]
    return float(np.abs(pixels - right).mean())


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_every_way_to_write_a_radiograph_gives_the_plain_picture(group: int) -> None:
    wrong = {}
    for seed in range(group, COMBINATIONS, GROUPS):
        way = sample(seed)
        try:
            (image,) = decode(build(way), "phantom")
            found: object = deviation(way, image.pixels)
        except Exception as error:
            found = repr(error)
        if not isinstance(found, float) or found > (0.012 if way.syntax in LOSSY else 0.004):
            wrong[way] = found
    assert wrong == {}, "\n".join(f"{found} {way}" for way, found in list(wrong.items())[:5])


def test_the_ways_are_many_and_every_kind_is_among_them() -> None:
    ways = {sample(seed) for seed in range(COMBINATIONS)}
    assert len(ways) > 2000
    assert {way.syntax for way in ways} >= {*NATIVE, "rle", "lossless", "jpeg-ls", "jpeg-2000", "baseline", "extended"}


needs_dcmtk = pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="needs DCMTK (Debian package dcmtk)")


@needs_dcmtk
@pytest.mark.slow
def test_dcmtk_shows_the_same_picture(tmp_path: Path) -> None:
    """Of what it can show: it masks no padding, and has its own percentiles and functions."""
    compared = 0
    for seed in range(500):
        way = replace(sample(seed), padding=None, aspect=None, shape=False, overstated=False)
        if way.syntax not in ("implicit", "explicit", "big", "deflated", "rle") or (way.syntax == "rle" and way.junk):
            continue
        if way.tone in ("none", "modality", "exact", "sigmoid"):
            continue
        if way.tone == "voi" and way.vr == "SS":  # no VR of LUT Data by PS3.6; signed, DCMTK takes it
            continue
        (tmp_path / "way.dcm").write_bytes(build(way))
        which = "+Wl" if way.tone == "voi" else "+Wi"
        command = ["dcmj2pnm", "--quiet", "+on2", which, "1", str(tmp_path / "way.dcm"), str(tmp_path / "way.png")]
        subprocess.run(command, capture_output=True, check=True)
        shown = np.asarray(Image.open(tmp_path / "way.png"), dtype=np.float32) / 65535
        (image,) = decode(build(way), "way")
        assert np.abs(image.pixels - shown).mean() < 0.01, way  # it works in the pixels' own few levels
        compared += 1
    assert compared > 50


# ------------------------------------------------------------------ single faults


NAMED = {
    "VOI LUT that says 16 bits and holds 12": Way(tone="voi", overstated=True),
    "signed JPEG-LS of 16-bit words without sign extension": Way(syntax="jpeg-ls", signed=True, tone="rescale"),
    "overlay bits in a lossless JPEG": Way(syntax="lossless", junk=True),
    "high bit 15 in RLE": Way(syntax="rle", shift=4),
    "pixels twice as tall as wide by Pixel Spacing": Way(aspect="PixelSpacing"),
    "YBR_FULL in a lossless JPEG": possible(Way(syntax="lossless", photometric="YBR_FULL")),
    "first value 63488 for signed pixels": Way(signed=True, tone="voi", first="US"),
    "padding 63488 for signed MONOCHROME1": Way(signed=True, photometric="MONOCHROME1", padding="US"),
    "RGB, 12 bits in 16": possible(Way(photometric="RGB")),
    "no File Meta Information": Way(syntax="implicit", meta=False),
    "modality LUT of signed pixels": Way(signed=True, tone="modality", first="SS", vr="SS"),
    "LUT of bytes in big endian": Way(syntax="big", tone="voi", vr="OW"),
}


@pytest.mark.parametrize("way", NAMED.values(), ids=NAMED.keys())
def test_a_way_that_was_read_wrong_is_read_right(way: Way) -> None:
    (image,) = decode(build(way), "phantom")
    assert deviation(way, image.pixels) < 0.004


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    change(dataset)
    dataset.save_as(stream := io.BytesIO())
    return stream.getvalue()


def test_an_empty_item_beside_a_window_is_passed_over() -> None:
    def add(dataset: Any) -> None:
        dataset.VOILUTSequence = Sequence([Dataset()])

    (image,) = decode(changed(build(Way()), add), "phantom")
    assert deviation(Way(), image.pixels) < 0.004


@pytest.mark.parametrize("word", ["LIN OD", "NORMAL", "inverse", " INVERSE", ["INVERSE", "X"], [], "IDENTITY"])
def test_a_presentation_lut_shape_that_is_none_leaves_it_to_the_photometric_interpretation(word: Any) -> None:
    def turn(dataset: Any) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.PixelData = (4095 - dataset.pixel_array).astype("<u2").tobytes()
        dataset.add_new("PresentationLUTShape", "CS", word)

    (image,) = decode(changed(build(Way()), turn), "phantom")
    straight = image.pixels if word != "IDENTITY" else 1 - image.pixels
    assert np.corrcoef(straight.ravel(), decode(build(Way()), "phantom")[0].pixels.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("word", ["sigmoid", "Sigmoid", " SIGMOID"])
def test_a_voi_lut_function_is_known_in_any_case(word: str) -> None:
    def name(dataset: Any) -> None:
        dataset.VOILUTFunction = word

    way = Way(tone="sigmoid")
    (image,) = decode(changed(build(way), name), "phantom")
    assert deviation(way, image.pixels) < 0.004


# Bits that the descriptor says, and how entries are written.
PALETTES = {
    "8 bits in 16, which it says": ("explicit", 16, np.arange(256).astype("<u2")),
    "8 bits in 16": ("explicit", 8, np.arange(256).astype("<u2")),
    "8 bits, 4096 entries": ("explicit", 8, (np.arange(4096) // 16).astype("u1")),
    "big endian": ("big", 16, (np.arange(256) * 255 + 255).astype(">u2")),
}


@pytest.mark.parametrize("palette", PALETTES.values(), ids=PALETTES.keys())
def test_a_palette_is_as_bright_as_its_entries(palette: tuple[str, int, NDArray[Any]]) -> None:
    syntax, bits, entries = palette

    def put(dataset: Any) -> None:
        for color in ("Red", "Green", "Blue"):
            setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [len(entries), 0, bits])
            setattr(dataset, f"{color}PaletteColorLookupTableData", entries.tobytes())
        if len(entries) > 256:
            dataset.PixelData, dataset.BitsStored, dataset.HighBit = DEEP.astype("<u2").tobytes(), 12, 11

    way = possible(Way(syntax=syntax, photometric="PALETTE COLOR"))
    (image,) = decode(changed(build(way), put), "palette")
    assert deviation(way, image.pixels) < 0.004


@pytest.mark.parametrize(("bits", "largest"), [(8, 63), (16, 2**14 - 1)])
def test_a_dark_palette_stays_dark(bits: int, largest: int) -> None:
    def put(dataset: Any) -> None:
        entries = (np.arange(256) * largest // 255).astype("<u2")
        for color in ("Red", "Green", "Blue"):
            setattr(dataset, f"{color}PaletteColorLookupTableDescriptor", [256, 0, bits])
            setattr(dataset, f"{color}PaletteColorLookupTableData", entries.tobytes())

    way = possible(Way(photometric="PALETTE COLOR"))
    (image,) = decode(changed(build(way), put), "palette")
    (bright,) = decode(build(way), "palette")
    assert np.abs(image.pixels - bright.pixels * largest / (2**bits - 1)).max() < 0.02


def test_a_functional_group_that_is_none_is_passed_over() -> None:
    def damage(dataset: Any) -> None:
        dataset.add_new("SharedFunctionalGroupsSequence", "OB", b"damaged!")

    (image,) = decode(changed(build(Way()), damage), "phantom")
    assert deviation(Way(), image.pixels) < 0.004


@pytest.mark.parametrize(("signed", "first"), [(True, 64512), (True, -1024), (False, 64512), (False, -1024)])
def test_a_lookup_table_that_begins_below_zero_is_used_where_no_pixel_is(signed: bool, first: int) -> None:
    def begin_lower(dataset: Any) -> None:
        item = dataset.VOILUTSequence[0]
        entries = list(np.atleast_1d(item.LUTData))
        vr = "US" if first > 0 else "SS"
        del item[0x0028, 0x3002]
        item.add_new(0x00283002, vr, [len(entries) + 1024, first, int(item_bits)])
        item.LUTData = [0] * 1024 + entries
        if not signed:  # rescaled below zero in other images of this device
            dataset.RescaleSlope, dataset.RescaleIntercept = "1", "-1024"
            dataset.PixelData = (dataset.pixel_array.astype(np.int64) + 1024).astype("<u2").tobytes()
            dataset.BitsStored, dataset.HighBit = 16, 15

    way = Way(tone="voi", bits=12)
    item_bits = pydicom.dcmread(io.BytesIO(build(way))).VOILUTSequence[0].LUTDescriptor[2]

    def change(dataset: Any) -> None:
        begin_lower(dataset)
        if signed:
            dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15

    (image,) = decode(changed(build(way), change), "phantom")
    assert deviation(way, image.pixels) < 0.004


def test_a_lookup_table_of_signed_pixels_that_are_rescaled_above_32768_is_used() -> None:
    way = Way(tone="voi", bits=12)

    def rescale(dataset: Any) -> None:
        item = dataset.VOILUTSequence[0]
        entries, _, bits = item.LUTDescriptor
        del item[0x0028, 0x3002]
        item.add_new(0x00283002, "US", [entries, 34000, bits])
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 1, 16, 15
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "34000"

    (image,) = decode(changed(build(way), rescale), "phantom")
    assert deviation(way, image.pixels) < 0.004


@pytest.mark.parametrize("frames", [-1, 0])
def test_a_number_of_frames_that_is_none_is_one(frames: int) -> None:
    def lie(dataset: Any) -> None:
        dataset.NumberOfFrames = frames

    (image,) = decode(changed(build(Way()), lie), "phantom")
    assert deviation(Way(), image.pixels) < 0.004


@pytest.mark.parametrize(("slope", "intercept"), [("1e40", "0"), ("1e38", "0"), ("1", "1e39")])
@pytest.mark.filterwarnings("error")
def test_pixels_that_are_no_finite_numbers_are_refused(slope: str, intercept: str) -> None:
    def rescale(dataset: Any) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    with pytest.raises(ImageError) as caught:
        decode(changed(build(Way()), rescale), "phantom")
    assert caught.value.reason in (Reason.TRUNCATED, Reason.BLANK)
    far = np.linspace(0, 4000, 4096, dtype="f4").reshape(64, 64)
    far[:5], far[-5:] = -3.4e38, 3.4e38
    with pytest.raises(ImageError, match="no finite numbers"):
        decode(saved(Image.fromarray(far), "TIFF"), "far")


def test_a_deflated_file_without_group_length_is_read() -> None:
    content = build(Way(syntax="deflated"))
    assert content[132:136] == b"\x02\x00\x00\x00"
    (image,) = decode(content[:132] + content[144:], "phantom")
    assert deviation(Way(), image.pixels) < 0.004


@pytest.mark.parametrize("more", [b"\xff", b"\x00\x00\xff", bytes(300)])
@pytest.mark.parametrize("syntax", ["lossless", "baseline", "extended", "jpeg-ls"])
def test_bytes_after_the_end_marker_are_no_fault(syntax: str, more: bytes) -> None:
    way = possible(Way(syntax=syntax))

    def append(dataset: Any) -> None:
        dataset.PixelData = encapsulate([stream_of(dataset) + more])

    (image,) = decode(changed(build(way), append), "phantom")
    assert deviation(way, image.pixels) < 0.012


def stream_of(dataset: Any) -> bytes:
    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    return stream[: stream.rindex(b"\xff\xd9") + 2]


CODED_WAYS = ("rle", "lossless", "lossless-57", "jpeg-ls", "jpeg-2000", "baseline", "extended")


# Black and white beside each other, so that what a lossy stream gives leaves the range of 12 bits.
STARK = np.kron(np.random.default_rng(1).integers(0, 2, (11, 9)), np.full((4, 4), 4095)).astype(np.int16)


def stark(syntax: int, stream: bytes, signed: bool) -> NDArray[np.float32]:
    """The image of a file of 12 bits stored whose stream has 16."""

    def put(dataset: Any) -> None:
        dataset.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4.{syntax}"
        dataset.PixelData = encapsulate([stream])
        dataset.PixelRepresentation = int(signed)
        dataset.WindowCenter = "0" if signed else "2048"

    (image,) = decode(changed(build(Way(syntax="jpeg-2000")), put), "stark")
    return image.pixels


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("syntax", [81, 91], ids=["JPEG-LS near-lossless", "JPEG 2000"])
def test_white_stays_white_in_a_lossy_stream_of_more_bits_than_are_stored(syntax: int, signed: bool) -> None:
    samples = STARK - 2048 if signed else STARK.astype(np.uint16)
    if syntax == 91:
        stream = imagecodecs.jpeg2k_encode(samples, level=50, codecformat="j2k", reversible=False)
        assert imagecodecs.jpeg2k_decode(stream).max() > samples.max()
    else:
        stream = imagecodecs.jpegls_encode(samples.view(np.uint16), level=3)
    assert ((stark(syntax, bytes(stream), signed) > 0.5) == (STARK > 0)).all()


def test_signed_samples_without_sign_extension_stay_so_in_a_lossy_stream_of_more_bits() -> None:
    words = np.where(STARK > 0, 1000, 4096 - 1000).astype(np.uint16)
    pixels = stark(81, bytes(imagecodecs.jpegls_encode(words, level=3)), signed=True)
    np.testing.assert_allclose(pixels, np.where(STARK > 0, 3048, 1048) / 4095, atol=0.002)


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("syntax", CODED_WAYS)
def test_half_a_stream_is_refused_even_with_an_end_marker(syntax: str, part: float) -> None:
    def cut(dataset: Any) -> None:
        whole = next(generate_frames(dataset.PixelData, number_of_frames=1))
        begin = 64 if syntax == "rle" else header_length(whole)
        dataset.PixelData = encapsulate([whole[: begin + round((len(whole) - begin) * part)] + b"\xff\xd9"])

    with pytest.raises(ImageError) as caught:
        decode(changed(build(possible(Way(syntax=syntax))), cut), "half")
    assert caught.value.reason is Reason.TRUNCATED


def header_length(stream: bytes) -> int:
    """Up to where the coded data of a JPEG or JPEG 2000 begin."""
    return max(stream.find(b"\xff\xda") + 14, stream.find(b"\xff\x93") + 2)


GRAY = Image.fromarray(np.rint(np.kron(PICTURE, np.ones((6, 6))) * 255).astype(np.uint8))
JPEGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "restarts in rows": {"restart_marker_blocks": 3},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 2},
}


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    picture.save(stream := io.BytesIO(), kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS.keys())
def test_half_a_plain_jpeg_is_refused_wherever_it_was_cut(options: dict[str, Any], mode: str) -> None:
    whole = saved(GRAY.convert(mode), "JPEG", quality=90, **options)
    assert len(decode(whole, "whole")) == 1
    begin = header_length(whole)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)]
    for at in [*(begin + round((len(whole) - begin) * part) for part in (0.3, 0.5, 0.95)), *restarts[-1:]]:
        with pytest.raises(ImageError) as caught:
            decode(whole[:at] + b"\xff\xd9", "half")
        assert caught.value.reason is Reason.TRUNCATED


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    whole = saved(GRAY, "JPEG", progressive=True)
    for scan in [found.start() for found in re.finditer(rb"\xff\xda", whole)][1:]:
        with pytest.raises(ImageError):
            decode(whole[:scan] + b"\xff\xd9", "half")


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    whole = saved(GRAY, "JPEG", progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageError):
        decode(whole[:-2] + last * 100 + b"\xff\xd9", "scans")


@pytest.mark.parametrize("syntax", [None, "baseline", "extended"])
def test_a_size_behind_a_marker_without_length_is_the_one_that_counts(syntax: str | None) -> None:
    """TEM has no length: who takes one from it looks at the second frame header, and decodes the first."""
    if syntax is None:
        one = saved(GRAY, "JPEG")
    else:
        one = stream_of(pydicom.dcmread(io.BytesIO(build(possible(Way(syntax=syntax))))))
    frame = next(found.start() for found in re.finditer(rb"\xff[\xc0\xc1]", one))
    length = 2 + int.from_bytes(one[frame + 2 : frame + 4], "big")
    huge = bytearray(one[frame:-2])
    huge[5:9] = b"\xfd\xe8\xfd\xe8"
    taken = 2 + int.from_bytes(bytes(huge[:2]), "big")
    head = one[:frame] + b"\xff\x01" + bytes(huge)
    stream = head.ljust(frame + taken, b"\0")[: frame + taken] + one[frame : frame + length] + b"\xff\xd9"

    def put(dataset: Any) -> None:
        dataset.PixelData = encapsulate([stream])

    with pytest.raises(ImageError):
        decode(stream if syntax is None else changed(build(possible(Way(syntax=syntax))), put), "two sizes")


@pytest.mark.parametrize("kind", ["jp2", "j2k"])
def test_a_box_cannot_hide_the_size_of_a_jpeg_2000(kind: str) -> None:
    huge = imagecodecs.jpeg2k_encode(np.zeros((9000, 9000), np.uint8), codecformat=kind, level=0, reversible=True)

    def put(dataset: Any) -> None:
        dataset.PixelData = encapsulate([huge])

    with pytest.raises(ImageError):
        decode(changed(build(Way(syntax="jpeg-2000")), put), "huge")


def test_the_size_that_rows_are_stretched_to_is_checked_before_they_are_decoded() -> None:
    def stretch(dataset: Any) -> None:
        dataset.Rows = dataset.Columns = 7000
        dataset.PixelAspectRatio = ["99", "10"]
        dataset.PixelData = b""

    with pytest.raises(ImageError) as caught:
        decode(changed(build(Way()), stretch), "stretched")
    assert caught.value.reason is Reason.TOO_LARGE


# ------------------------------------------------------------------ pictures that are no DICOM


def tiff(samples: NDArray[Any], photometric: int, order: str, turned: int = 1) -> bytes:
    """TIFF 6.0 of 16 bits, or of 8 where they are signed; one strip."""
    height, width = samples.shape[:2]
    count = samples.shape[2] if samples.ndim == 3 else 1
    bits = 8 if samples.dtype == np.int8 else 16
    data = samples.astype("i1" if bits == 8 else f"{order}u2").tobytes()
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * count), (259, 3, [1]), (262, 3, [photometric])]
    tags += [(273, 4, [0]), (274, 3, [turned]), (277, 3, [count]), (278, 3, [height]), (279, 4, [len(data)])]
    if count in (2, 4):
        tags.append((338, 3, [2]))
    if bits == 8:
        tags.append((339, 3, [2]))
    at = 8 + 2 + 12 * len(tags) + 4
    more = struct.pack(f"{order}{count}H", *[16] * count) if count > 2 else b""
    out = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, values in tags:
        values = [at + len(more)] if tag == 273 else values
        if len(values) > 2:
            content = struct.pack(f"{order}I", at)
        else:
            content = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values).ljust(4, b"\0")
        out += struct.pack(f"{order}HHI", tag, kind, len(values)) + content
    return out + bytes(4) + more + data


DEEP = np.rint(PICTURE * 4095).astype(np.uint16)  # 12 bits in 16
COLORS = {
    "gray": DEEP,
    "gray and alpha": np.dstack([DEEP, np.full_like(DEEP, 65535)]),
    "RGB": np.dstack([DEEP] * 3),
    "RGBA": np.dstack([DEEP, DEEP, DEEP, np.full_like(DEEP, 65535)]),
}


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("kind", ["png", "tiff <", "tiff >", "white is zero <", "white is zero >"])
def test_sixteen_bit_pictures_are_read_at_full_depth(kind: str, color: str) -> None:
    samples = COLORS[color]
    if kind == "png":
        content = bytes(imagecodecs.png_encode(samples))
    elif kind.startswith("tiff"):
        content = tiff(samples, 2 if "RGB" in color else 1, kind[-1])
    else:
        if "RGB" in color:
            pytest.skip("white is zero is a kind of gray")
        content = tiff(
            np.dstack([4095 - DEEP, *np.dsplit(samples, samples.shape[2])[1:]])
            if samples.ndim == 3
            else 4095 - samples,
            0,
            kind[-1],
        )
    (image,) = decode(content, "deep")
    assert deviation(Way(tone="none"), image.pixels) < 0.002
    assert len(np.unique(image.pixels)) > 256


@pytest.mark.parametrize("color", ["RGB", "RGBA"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_a_deep_tiff_of_one_plane_after_another_is_one_picture(color: str, compression: str | None) -> None:
    planes = np.moveaxis(COLORS[color], -1, 0).copy()
    content = imagecodecs.tiff_encode(planes, planarconfig="separate", photometric="rgb", compression=compression)
    (image,) = decode(bytes(content), "planes")
    assert deviation(Way(tone="none"), image.pixels) < 0.002


@pytest.mark.parametrize("photometric", [0, 1])
def test_a_signed_tiff_of_8_bits_does_not_wrap(photometric: int) -> None:
    signed = (DEEP // 16).astype(np.int16) - 128
    content = tiff((-1 - signed if photometric == 0 else signed).astype(np.int8), photometric, "<")
    (image,) = decode(content, "signed")
    assert deviation(Way(tone="none"), image.pixels) < 0.004


@pytest.mark.parametrize(("photometric", "samples"), [(5, 4), (6, 3), (8, 3)])
def test_a_deep_tiff_of_other_colors_is_not_taken_for_red_green_and_blue(photometric: int, samples: int) -> None:
    """Inks, of which much is dark; brightness beside two differences of color; CIELab."""
    with pytest.raises(ImageError, match="colors that are not red, green and blue"):
        decode(tiff(np.dstack([DEEP] * samples), photometric, "<"), "colors")


def test_what_is_beside_the_gray_of_a_deep_tiff_is_left_out() -> None:
    content = tiff(np.dstack([DEEP, *[np.full_like(DEEP, 65535)] * 3]), 1, "<")
    (image,) = decode(content, "gray")
    assert deviation(Way(tone="none"), image.pixels) < 0.002


@pytest.mark.parametrize("kind", ["float", "big"])
def test_a_tiff_whose_white_is_zero_is_no_negative(kind: str) -> None:
    dark = (4095 - DEEP).astype(np.float32)
    if kind == "float":
        content = saved(Image.fromarray(dark), "TIFF", tiffinfo={262: 0})
    else:
        content = saved(Image.fromarray(dark.astype(np.uint16)), "TIFF", tiffinfo={262: 0}, big_tiff=True)
        assert content[:4] == b"II+\0"
    (image,) = decode(content, "white")
    assert np.corrcoef(image.pixels.ravel(), DEEP.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "deep PNG", "deep TIFF"])
def test_an_orientation_is_obeyed_wherever_it_is_written(kind: str, turned: int) -> None:
    upright = np.asarray(GRAY, dtype=np.float32) / 255
    # What an orientation undoes: of rows and columns as they are stored (EXIF 2.3, 4.6.4 A).
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud}
    undo |= {5: np.transpose, 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].T, 8: lambda a: np.rot90(a, -1)}
    stored = np.ascontiguousarray(undo[turned](np.asarray(GRAY)))
    exif = Image.Exif()
    exif[274] = turned
    deep = np.dstack([stored.astype(np.uint16) * 257] * 3)
    if kind == "deep TIFF":
        content = tiff(deep, 2, "<", turned)
    elif kind == "deep PNG":
        plain, chunk = bytes(imagecodecs.png_encode(deep)), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        end = plain.rindex(b"IEND") - 4
        content = plain[:end] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        content += plain[end:]
    else:
        more = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
        content = saved(Image.fromarray(stored), kind, exif=exif, **more)
    (image,) = decode(content, "turned")
    assert image.pixels.shape == upright.shape
    assert np.abs(image.pixels - upright).mean() < 0.02


def test_the_preview_after_a_cameras_picture_is_no_second_picture() -> None:
    main, preview = saved(GRAY, "JPEG", quality=95), saved(GRAY.resize((30, 40)), "JPEG")
    content = saved(GRAY, "MPO", quality=95, save_all=True, append_images=[GRAY.resize((30, 40))])
    for one in (content, main + preview):
        (image,) = decode(one, "camera")
        assert np.abs(image.pixels - np.asarray(GRAY, dtype=np.float32) / 255).mean() < 0.01
