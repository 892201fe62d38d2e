"""DICOM read rightly: against DCMTK, against pydicom's own test data, and who is let in."""

import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging.radiograph import OPEN, Gates
from cxrsearch.imaging.read import read
from indexer.phantoms import draw, write_dicom

PHANTOM = draw("COVID-19", 11, size=96)
needs_dcmtk = pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="needs DCMTK (Debian package dcmtk)")


def changed(folder: Path, change: Callable[[Any], None], **written: Any) -> Path:
    path = folder / "image.dcm"
    write_dicom(path, PHANTOM, **written)
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def restored(d: Any, values: np.ndarray[Any, Any]) -> None:
    d.PixelData = values.tobytes()


def signed(d: Any) -> None:
    values = d.pixel_array.astype(np.int16) - 2048
    d.PixelRepresentation = 1
    restored(d, values)
    d.RescaleSlope, d.RescaleIntercept = "1", "2048"


def high_bit(d: Any) -> None:
    restored(d, (d.pixel_array.astype(np.uint16) << 4))
    d.HighBit = 15


def lut(bits: int, entries: int, words: bool = True) -> Callable[[Any], None]:
    def change(d: Any) -> None:
        item = Dataset()
        curve = np.linspace(0, 1, entries) ** 0.6 * (2**bits - 1)
        item.add_new("LUTDescriptor", "US", [entries, 0, bits])
        item.add_new(
            "LUTData", "US" if words else "OW", curve.astype(int).tolist() if words else curve.astype("<u2").tobytes()
        )
        d.VOILUTSequence = Sequence([item])

    return change


def modality_lut(d: Any) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 0, 16])
    item.add_new("LUTData", "US", (np.linspace(0, 1, 4096) ** 1.5 * 60000).astype(int).tolist())
    item.ModalityLUTType = "US"
    d.ModalityLUTSequence = Sequence([item])
    d.WindowCenter, d.WindowWidth = "30000", "60000"


def setting(**values: Any) -> Callable[[Any], None]:
    return lambda d: [setattr(d, name, value) for name, value in values.items()] and None


CASES: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "linear window": (setting(), {"bits": 12, "window": True}),
    "linear exact": (setting(VOILUTFunction="LINEAR_EXACT"), {"bits": 12, "window": True}),
    "sigmoid": (setting(VOILUTFunction="SIGMOID"), {"bits": 12, "window": True}),
    "first of two windows": (setting(WindowCenter=["2000", "900"], WindowWidth=["3000", "100"]), {"bits": 12}),
    "monochrome1": (setting(), {"bits": 12, "window": True, "photometric": "MONOCHROME1"}),
    "10 bits": (setting(), {"bits": 10, "window": True}),
    "16 bits": (setting(), {"bits": 16, "window": True}),
    "8 bits": (setting(), {"bits": 8, "window": True}),
    "rescale": (setting(RescaleSlope="2", RescaleIntercept="-9", WindowCenter="3e3", WindowWidth="6e3"), {"bits": 12}),
    "signed": (signed, {"bits": 12, "window": True}),
    "high bit": (high_bit, {"bits": 12, "window": True}),
    "voi lut, 12 bits": (lut(12, 4096), {"bits": 12}),
    "voi lut, 16 bits": (lut(16, 4096), {"bits": 12}),
    "voi lut as bytes": (lut(12, 4096, words=False), {"bits": 12}),
    "modality lut": (modality_lut, {"bits": 12}),
    "rle": (lambda d: d.compress(RLELossless), {"bits": 12, "window": True}),
}


@needs_dcmtk
@pytest.mark.parametrize("case", CASES)
def test_the_picture_is_the_one_dcmtk_shows(tmp_path: Path, case: str) -> None:
    """An independent reading: dcmj2pnm applies modality and first VOI transformation, and inverts."""
    change, written = CASES[case]
    path = changed(tmp_path, change, **written)
    which = "+Wl" if "lut" in case and case != "modality lut" else "+Wi"
    command = ["dcmj2pnm", "--quiet", "+on2", which, "1", str(path), str(tmp_path / "out.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = np.asarray(Image.open(tmp_path / "out.png"), dtype=np.float32) / 65535
    (ours,) = read(path)
    assert ours.pixels.shape == shown.shape
    assert np.abs(ours.pixels - shown).max() < 0.005


def test_signed_and_high_bit_are_the_same_picture_as_plain(tmp_path: Path) -> None:
    plain = read(changed(tmp_path, setting(), bits=12, window=True))[0].pixels
    for change in (high_bit, signed):
        np.testing.assert_allclose(read(changed(tmp_path, change, bits=12, window=True))[0].pixels, plain, atol=1e-6)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "PALETTE COLOR"])
def test_color_captures_become_their_luminance(tmp_path: Path, photometric: str) -> None:
    path = tmp_path / "color.dcm"
    write_dicom(path, PHANTOM, bits=8)
    dataset = pydicom.dcmread(path)
    gray = np.rint(PHANTOM * 255).astype(np.uint8)
    dataset.PhotometricInterpretation = photometric
    if photometric == "PALETTE COLOR":
        for color in ("Red", "Green", "Blue"):
            dataset.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
            dataset.add_new(f"{color}PaletteColorLookupTableData", "OW", (np.arange(256) * 257).astype("<u2").tobytes())
    else:
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        other = gray if photometric == "RGB" else np.full_like(gray, 128)
        dataset.PixelData = np.stack([gray, other, other], axis=-1).tobytes()
    dataset.save_as(path)
    (image,) = read(path)
    assert np.abs(image.pixels - gray / 255).max() < 0.01


def frames_file(folder: Path, count: int, **more: Any) -> Path:
    def change(d: Any) -> None:
        values = d.pixel_array
        d.NumberOfFrames = count
        d.PixelData = np.stack([np.roll(values, 5 * n, axis=1) for n in range(count)]).tobytes()
        for name, value in more.items():
            setattr(d, name, value)

    return changed(folder, change, bits=12, window=True)


def test_a_file_of_several_radiographs_gives_several(tmp_path: Path) -> None:
    images = read(frames_file(tmp_path, 3))
    assert [image.frame for image in images] == [1, 2, 3]
    assert not np.array_equal(images[0].pixels, images[1].pixels)
    np.testing.assert_allclose(np.roll(images[0].pixels, 5, axis=1), images[1].pixels, atol=1e-6)


def group(sequence: str, **values: Any) -> Dataset:
    """An item of functional groups that has one group of one item."""
    item, holder = Dataset(), Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    setattr(holder, sequence, Sequence([item]))
    return holder


GROUPS: dict[str, dict[str, Any]] = {
    "FrameVOILUTSequence": {"WindowCenter": "1000", "WindowWidth": "1000", "VOILUTFunction": "LINEAR_EXACT"},
    "PixelValueTransformationSequence": {"RescaleSlope": "-1", "RescaleIntercept": "4095"},
    "PixelMeasuresSequence": {"PixelSpacing": ["0.4", "0.2"]},
}


@pytest.mark.parametrize("where", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
@pytest.mark.parametrize("sequence", GROUPS)
def test_functional_groups_mean_what_the_same_values_mean_at_the_top(tmp_path: Path, sequence: str, where: str) -> None:
    def contradict(d: Any) -> None:  # of what the groups say, the top level has something else
        d.RescaleSlope, d.RescaleIntercept, d.PixelAspectRatio = "1", "0", ["1", "1"]
        setattr(d, where, Sequence([group(sequence, **GROUPS[sequence])]))

    top = read(changed(tmp_path, setting(**GROUPS[sequence]), bits=12, window=True))[0].pixels
    (image,) = read(changed(tmp_path, contradict, bits=12, window=True))
    np.testing.assert_array_equal(image.pixels, top)
    assert top.shape != PHANTOM.shape or np.abs(top - PHANTOM).max() > 0.3  # that they do something


def test_what_a_frame_says_of_itself_wins_over_what_all_share_and_that_over_the_top(tmp_path: Path) -> None:
    def window(center: str) -> Dataset:
        return group("FrameVOILUTSequence", WindowCenter=center, WindowWidth="1000")

    def change(d: Any) -> None:
        d.NumberOfFrames, d.PixelData = 4, d.PixelData * 4
        d.SharedFunctionalGroupsSequence = Sequence([window("2000")])
        d.PerFrameFunctionalGroupsSequence = Sequence([window("1000"), group("FrameVOILUTSequence"), Dataset()])

    first, *others = [image.pixels for image in read(changed(tmp_path, change, bits=12, window=True))]
    assert len(others) == 3
    for pixels, center in [(first, "1000"), *((other, "2000") for other in others)]:
        plain = changed(tmp_path, setting(WindowCenter=center, WindowWidth="1000"), bits=12, window=True)
        np.testing.assert_array_equal(pixels, read(plain)[0].pixels)


@pytest.mark.parametrize(("count", "more"), [(3, {"FrameTime": "40"}), (9, {})], ids=["in time", "many"])
def test_a_film_is_rejected(tmp_path: Path, count: int, more: dict[str, Any]) -> None:
    assert reason(frames_file(tmp_path, count, **more)) is Reason.CINE


def reason(path: Path, gates: Gates = OPEN) -> Reason:
    with pytest.raises(ImageError) as caught:
        read(path, gates=gates)
    return caught.value.reason


@pytest.mark.parametrize(
    ("values", "expected", "opened"),
    [
        ({"Modality": "CT"}, Reason.MODALITY, Gates(frozenset({"CR", "DX", "CT"}))),
        ({"Modality": "RF"}, Reason.MODALITY, Gates(frozenset({"CR", "DX", "RF"}))),
        ({"BodyPartExamined": "HAND"}, Reason.BODY_PART, Gates(any_body_part=True)),
        ({"BodyPartExamined": "PORT CHEST"}, None, None),
        ({"BodyPartExamined": ""}, None, None),
        ({"Modality": ""}, None, None),
        ({"ViewPosition": "LL"}, None, None),
    ],
)
def test_each_gate_has_its_reason_and_its_switch(
    tmp_path: Path, values: dict[str, str], expected: Reason | None, opened: Gates | None
) -> None:
    path = changed(tmp_path, setting(**values))
    if expected is None:
        assert read(path, gates=Gates())
        return
    assert reason(path, Gates()) is expected
    assert opened is not None
    assert read(path, gates=opened)
    assert read(path)  # a person who names the file knows what it is


def test_a_text_in_modality_that_is_no_code_of_the_standard_is_not_quoted(tmp_path: Path) -> None:
    for value, words in (("MUELLER", "another modality than CR or DX"), ("MG", "modality MG, not CR or DX")):
        with pytest.raises(ImageError) as caught:
            read(changed(tmp_path, setting(Modality=value)), gates=Gates())
        assert words in str(caught.value)
        assert "MUELLER" not in str(caught.value)


def test_a_lateral_view_is_marked_and_left_out_on_request(tmp_path: Path) -> None:
    for view in ("LL", "RL", "LATERAL", "LARGE LATERAL"):
        path = changed(tmp_path, setting(ViewPosition=view))
        assert read(path)[0].projection == "lateral"
        assert reason(path, Gates(frontal_only=True)) is Reason.VIEW
    assert read(changed(tmp_path, setting(ViewPosition="AP")), gates=Gates(frontal_only=True))
    assert read(changed(tmp_path, setting(ViewPosition="")))[0].projection is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("1.2.840.10008.5.1.4.1.1.11.1", Reason.PRESENTATION_STATE),
        ("1.2.840.10008.5.1.4.1.1.88.22", Reason.REPORT),
        ("1.2.840.10008.5.1.4.1.1.104.1", Reason.DOCUMENT),
        ("1.2.840.10008.1.3.10", Reason.DIRECTORY),
    ],
)
def test_what_is_no_image_says_what_it_is(tmp_path: Path, kind: str, expected: Reason) -> None:
    assert reason(changed(tmp_path, setting(SOPClassUID=kind))) is expected


@pytest.mark.parametrize(
    "keyword", ["Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored"]
)
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_a_header_that_lacks_what_pixels_need_is_said_so_by_name(tmp_path: Path, keyword: str, empty: bool) -> None:
    def drop(d: Any) -> None:
        delattr(d, keyword)
        if empty:
            setattr(d, keyword, None)

    with pytest.raises(ImageError, match=f"no {keyword}") as caught:
        read(changed(tmp_path, drop))
    assert caught.value.reason is Reason.UNSUPPORTED


def test_a_header_without_high_bit_and_sign_and_in_lower_case_is_read(tmp_path: Path) -> None:
    def drop(d: Any) -> None:
        del d.HighBit, d.PixelRepresentation
        d.PhotometricInterpretation = "Monochrome1 "

    written = {"bits": 12, "window": True, "photometric": "MONOCHROME1"}
    plain = read(changed(tmp_path, setting(), **written))[0].pixels
    np.testing.assert_array_equal(read(changed(tmp_path, drop, **written))[0].pixels, plain)


@pytest.mark.parametrize(
    ("photometric", "samples"),
    [
        *[(name, 1) for name in ("GRAYSCALE", "MONOCHROME 2", "RGB")],
        *[(name, 3) for name in ("HSV", "YBR_PARTIAL_422", "MONOCHROME1", "PALETTE COLOR")],
        *[(name, 4) for name in ("CMYK", "ARGB")],
    ],
)
def test_a_photometric_interpretation_that_is_not_read_is_refused(
    tmp_path: Path, photometric: str, samples: int
) -> None:
    def change(d: Any) -> None:
        d.PhotometricInterpretation, d.SamplesPerPixel, d.PlanarConfiguration = photometric, samples, 0
        d.PixelData = d.PixelData * samples

    with pytest.raises(ImageError, match="PhotometricInterpretation") as caught:
        read(changed(tmp_path, change, bits=8))
    assert caught.value.reason is Reason.UNSUPPORTED


@pytest.mark.parametrize("planar", [None, 0, 1])
@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_the_planes_of_a_stream_are_its_own_and_those_of_plain_pixels_are_the_headers(
    tmp_path: Path, syntax: pydicom.uid.UID | None, planar: int | None
) -> None:
    gray = np.rint(PHANTOM * 255).astype(np.uint8)

    def change(d: Any) -> None:
        d.PhotometricInterpretation, d.SamplesPerPixel, d.PlanarConfiguration = "RGB", 3, 0
        d.PixelData = np.stack([gray] * 3, axis=0 if planar == 1 and syntax is None else -1).tobytes()
        if syntax is not None:
            d.compress(syntax)
        d.PlanarConfiguration = planar

    path = changed(tmp_path, change, bits=8)
    if syntax is None and planar is None:
        with pytest.raises(ImageError, match="no PlanarConfiguration"):
            read(path)
    else:
        assert np.abs(read(path)[0].pixels - gray / 255).max() < 0.01


def test_a_deflated_bomb_is_refused_while_it_inflates(tmp_path: Path) -> None:
    plain = tmp_path / "plain.dcm"
    write_dicom(plain, PHANTOM)
    meta_end = 144 + struct.unpack("<I", plain.read_bytes()[140:144])[0]
    head = plain.read_bytes()[:meta_end].replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.1.99")
    head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
    at = head.index(b"1.2.840.10008.1.2.1.99") - 2
    head = head[:at] + struct.pack("<H", 22) + head[at + 2 :]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    good = packer.compress(plain.read_bytes()[meta_end:]) + packer.flush()
    (tmp_path / "good.dcm").write_bytes(head + good)
    np.testing.assert_array_equal(read(tmp_path / "good.dcm")[0].pixels, read(plain)[0].pixels)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = packer.compress(bytes(400 * 2**20)) + packer.flush()
    (tmp_path / "bomb.dcm").write_bytes(head + bomb)
    assert len(bomb) < 2**20
    assert reason(tmp_path / "bomb.dcm") is Reason.TOO_LARGE


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_a_stream_of_another_size_than_its_header_is_refused(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    def lie(d: Any) -> None:
        d.compress(syntax)
        d.Rows, d.Columns = d.Rows // 2, d.Columns // 2

    assert reason(changed(tmp_path, lie, bits=12)) is Reason.TRUNCATED


def test_every_file_of_pydicoms_test_data_is_read_or_rejected_with_a_reason() -> None:
    from pydicom.data import get_testdata_files

    outcomes: dict[str, int] = {}
    paths = [Path(name) for name in get_testdata_files("*") if Path(name).is_file()]
    for path in paths:
        try:
            images = read(path)
            assert all(np.isfinite(image.pixels).all() and image.pixels.ndim == 2 for image in images)
            outcomes["read"] = outcomes.get("read", 0) + 1
        except ImageError as error:
            outcomes[error.reason] = outcomes.get(error.reason, 0) + 1
    assert sum(outcomes.values()) == len(paths) > 60
    assert outcomes["read"] > 20, outcomes


def test_a_dicomdir_is_followed_and_cannot_lead_outside(tmp_path: Path, cxrsearch: Any) -> None:
    import json

    disc = tmp_path / "disc"
    (disc / "IMAGES").mkdir(parents=True)
    write_dicom(disc / "IMAGES" / "A", PHANTOM)
    write_dicom(disc / "UNLISTED", PHANTOM)
    write_dicom(tmp_path / "SECRET", PHANTOM)
    directory = Dataset()
    records = []
    for name in (["IMAGES", "A"], ["..", "SECRET"], ["GONE"]):
        record = Dataset()
        record.DirectoryRecordType, record.ReferencedFileID = "IMAGE", name
        records.append(record)
    directory.DirectoryRecordSequence = Sequence(records)
    directory.file_meta = pydicom.dataset.FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = pydicom.uid.UID("1.2.840.10008.1.3.10")
    directory.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(disc / "DICOMDIR", directory, enforce_file_format=True)
    ran = cxrsearch("index", disc / "DICOMDIR", "--index", tmp_path / "index", "--paths", "relative")
    assert ran.code == 3
    assert ran.out.startswith("1 indexed")
    lines = (tmp_path / "index" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert {json.loads(line)["reason"] for line in lines} == {"outside-root", "missing"}
    whole = cxrsearch("index", disc, "--index", tmp_path / "index2", "--paths", "relative")
    assert whole.out.startswith("2 indexed")


def test_decoders_that_are_known_to_crash_are_not_installed() -> None:
    """Nor the one whose licence is the GPL: pydicom takes whatever it finds."""
    pinned = (Path(__file__).parent.parent / "constraints.txt").read_text("utf-8").lower()
    assert "pylibjpeg-openjpeg" in pinned
    assert [name for name in ("gdcm", "pylibjpeg-libjpeg", "pylibjpeg-rle") if name in pinned] == []
