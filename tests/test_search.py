"""cxrsearch search, cohort, info, forget, copy: answers in the terminal."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factories import Run, image_of, write_picture

from cxrsearch.report import rows as report_rows
from indexer.phantoms import draw, write_cohort, write_dicom


def search(cxrsearch: Run, *arguments: object) -> list[dict[str, Any]]:
    ran = cxrsearch("search", *arguments, "--format", "json")
    assert ran.code == 0, ran.err
    return list(json.loads(ran.out))


def test_hits_come_best_first_without_the_query_and_its_patient(cxrsearch: Run, cohort: Path, index: Path) -> None:
    (result,) = search(cxrsearch, image_of(cohort), "--index", index, "-k", 30)
    hits = result["hits"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert result["query"]["indexed"] is True
    assert len(hits) == 30  # the patient has two images of the 32
    (own,) = result["query"]["left_out"]
    assert own not in {hit["patient"] for hit in hits}
    assert not any(key.startswith("_") or key == "image_sha256" for hit in hits for key in hit)


def test_same_patient_brings_the_image_itself_first(cxrsearch: Run, cohort: Path, index: Path) -> None:
    (result,) = search(cxrsearch, image_of(cohort), "--index", index, "--same-patient", "-k", 32)
    first = result["hits"][0]
    assert first["score"] == pytest.approx(1.0, abs=1e-4)
    assert first["path"] == image_of(cohort).relative_to(cohort.parent).as_posix()
    assert len(result["hits"]) == 32


def test_a_file_in_no_index_finds_its_like(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    path = tmp_path / "new.png"
    write_picture(path, draw("COVID-19", 4242))
    (result,) = search(cxrsearch, path, "--index", index, "-k", 5)
    assert result["query"] == {"path": str(path), "indexed": False, "left_out": []}
    assert len(result["hits"]) == 5


def test_another_visit_of_a_known_patient_leaves_that_patient_out(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    """The file is new; its DICOM header says whose it is. A dataset's namespace decides whose numbers match."""
    path = tmp_path / "new.dcm"
    write_dicom(path, draw("Pneumonia", 1), facts={"patient": "PH0003"})
    (result,) = search(cxrsearch, path, "--index", index, "-k", 32)
    (own,) = result["query"]["left_out"]
    assert len(result["hits"]) == 30
    assert own not in {hit["patient"] for hit in result["hits"]}


def test_a_filter_holds_for_every_hit(cxrsearch: Run, cohort: Path, index: Path) -> None:
    where = 'site = "South" and (age >= 40 or outcome is missing) and notes contains "opacities"'
    (result,) = search(cxrsearch, image_of(cohort), "--index", index, "--where", where)
    assert result["hits"]
    for hit in result["hits"]:
        assert hit["site"] == "South"
        assert hit["age"] >= 40 or "outcome" not in hit
        assert "opacities" in hit["notes"]


def test_several_images_and_paths_on_stdin(cxrsearch_process: Run, cohort: Path, index: Path) -> None:
    paths = [str(image_of(cohort, number)) for number in (0, 5, 9)]
    ran = cxrsearch_process(
        "search", paths[0], "-", "--index", index, "-k", 2, "--format", "jsonl", input="\n".join(paths[1:]) + "\n"
    )
    assert ran.code == 0
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert [row["query"] for row in rows] == [path for path in paths for _ in range(2)]


def test_one_bad_image_among_several_does_not_stop_the_others(cxrsearch: Run, cohort: Path, index: Path) -> None:
    ran = cxrsearch(
        "search", image_of(cohort), cohort, image_of(cohort, 3), "--index", index, "--format", "jsonl", "-k", 1
    )
    assert ran.code == 3
    assert len(ran.out.splitlines()) == 2
    assert "dataset.toml: not a DICOM, PNG" in ran.err


def test_the_vote_counts_patients_beside_the_cohort(cxrsearch: Run, cohort: Path, index: Path) -> None:
    (result,) = search(cxrsearch, image_of(cohort), "--index", index, "-k", 8, "--vote", "outcome")
    vote = result["vote"]
    assert vote["field"] == "outcome"
    assert sum(share["weight"] for share in vote["shares"]) == pytest.approx(1.0)
    assert sum(share["patients"] for share in vote["shares"]) == vote["patients"] == 20
    rows = json.loads(cxrsearch("cohort", "--index", index, "--by", "outcome", "--format", "json").out)
    known = {row["outcome"]: row["images"] for row in rows if row["outcome"] is not None}
    assert {share["value"]: share["base"] for share in vote["shares"]} == pytest.approx(
        {value: number / sum(known.values()) for value, number in known.items()}
    )
    assert vote["known"] == pytest.approx(sum(known.values()) / 32)
    assert vote["abstains"] == ["not calibrated: run cxrsearch calibrate on this index"]


def test_table_and_csv_say_the_same(cxrsearch: Run, cohort: Path, index: Path) -> None:
    table = cxrsearch("search", image_of(cohort), "--index", index, "-k", 3).out
    rows = list(
        csv.DictReader(
            io.StringIO(cxrsearch("search", image_of(cohort), "--index", index, "-k", 3, "--format", "csv").out)
        )
    )
    assert len(rows) == 3
    for row in rows:
        for column in ("site", "finding", "outcome", "path"):
            assert row[column] in table
        assert f"{float(row['score']):.4f}" in table
    assert "left out" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere.dcm"], 4, "nowhere.dcm: does not exist"),
        (["{toml}"], 4, "not a DICOM, PNG, JPEG"),
        (["{image}", "--where", "stie = 1"], 2, "Did you mean 'site'?"),
        (["{image}", "--where", "site = 'Noth'"], 2, "no image has site = 'Noth'. Did you mean 'North'?"),
        (["{image}", "--vote", "outcom"], 2, "--vote outcom: no such field in this index. Did you mean 'outcome'?"),
        (["{image}", "--model", "{folder}"], 4, "not a model folder"),
        (["{image}", "-k", "0"], 2, "greater than or equal to 1"),
        (["{image}", "--index", "{folder}"], 5, "not a cxrsearch index"),
        (["{image}", "--index", "nowhere"], 5, "no such index"),
        (["{image}", "--index", "http://127.0.0.1"], 2, "write it as http://host:6333/collection"),
    ],
)
def test_every_mistake_has_its_message_and_code(
    cxrsearch: Run, cohort: Path, index: Path, arguments: list[str], code: int, message: str
) -> None:
    words = {"toml": str(cohort), "image": str(image_of(cohort)), "folder": str(cohort.parent)}
    given = [argument.format(**words) for argument in arguments]
    ran = cxrsearch("search", *given, *([] if "--index" in given else ["--index", index]))
    assert ran.code == code
    assert message in ran.err
    assert ran.out == ""


def test_another_model_than_the_index_was_made_by(cxrsearch: Run, cohort: Path, index: Path, other_model: Path) -> None:
    ran = cxrsearch("search", image_of(cohort), "--index", index, "--model", other_model)
    assert ran.code == 6
    assert "made by model cxr-1" in ran.err


def test_a_model_folder_that_was_changed_is_refused(
    cxrsearch: Run, cohort: Path, index: Path, other_model: Path
) -> None:
    with (other_model / "encoder.onnx").open("ab") as file:
        file.write(b"x")
    ran = cxrsearch("search", image_of(cohort), "--index", index, "--model", other_model)
    assert ran.code == 6  # its card already names another model
    (other_model / "model.json").write_text('{"format": 7}')
    assert cxrsearch("search", image_of(cohort), "--index", index, "--model", other_model).code == 4


def test_two_searches_at_once_on_one_index(cohort: Path, index: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "cxrsearch",
        "search",
        str(image_of(cohort)),
        "--index",
        str(index),
        "--format",
        "json",
    ]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0] * 4, answers
    assert len({out for out, _ in answers}) == 1


# ------------------------------------------------------------------ cohort


def counts(cxrsearch: Run, index: Path, *arguments: object) -> list[dict[str, Any]]:
    ran = cxrsearch("cohort", "--index", index, "--format", "json", *arguments)
    assert ran.code == 0, ran.err
    return list(json.loads(ran.out))


def table_of(cohort: Path) -> list[dict[str, str]]:
    with (cohort.parent / "clinical.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_counts_agree_with_the_table(cxrsearch: Run, cohort: Path, index: Path) -> None:
    table = table_of(cohort)
    for row in counts(cxrsearch, index, "--by", "site", "--by", "outcome"):
        same = [t for t in table if t["site"] == row["site"] and t["outcome"] == (row["outcome"] or "")]
        assert row["images"] == len(same)
        assert row["patients"] == len({t["patient"] for t in same})
    assert sum(row["images"] for row in counts(cxrsearch, index, "--by", "outcome")) == len(table)
    assert any(row["outcome"] is None for row in counts(cxrsearch, index, "--by", "outcome"))


def test_missing_is_counted_as_such_in_every_format(cxrsearch: Run, index: Path) -> None:
    shown = cxrsearch("cohort", "--index", index, "--by", "outcome").out
    assert "(missing)" in shown
    assert "32 images of 24 patients" in shown
    lines = cxrsearch("cohort", "--index", index, "--by", "outcome", "--format", "csv").out.splitlines()
    assert lines[0] == "outcome,images,patients,unknown_patient"
    assert any(line.startswith(",") for line in lines)


def test_without_by_the_rows(cxrsearch: Run, cohort: Path, index: Path) -> None:
    rows = counts(cxrsearch, index, "--where", "icu = true and sex = 'F'")
    expected = [row for row in table_of(cohort) if row["icu"] == "Y" and row["sex"] == "F"]
    assert sorted(row["path"] for row in rows) == sorted(row["file"] for row in expected)


def test_x_and_not_x_add_up(cxrsearch: Run, index: Path) -> None:
    with_icu = counts(cxrsearch, index, "--where", "icu = true")
    without = counts(cxrsearch, index, "--where", "not icu = true")
    assert len(with_icu) + len(without) == 32
    assert len(counts(cxrsearch, index, "--where", "icu != true")) < len(without)  # the unknown are not in it


def test_cohort_mistakes(cxrsearch: Run, index: Path) -> None:
    assert "Did you mean 'finding'?" in cxrsearch("cohort", "--index", index, "--by", "findings").err
    four = [part for name in ("site", "sex", "icu", "age") for part in ("--by", name)]
    ran = cxrsearch("cohort", "--index", index, *four)
    assert (ran.code, ran.err) == (2, "cxrsearch: --by: at most 3 fields, not 4\n")


# ------------------------------------------------------------------ forget, copy


def test_forget_by_pseudonym_or_by_the_real_identifier(cxrsearch: Run, index: Path) -> None:
    pseudonym = next(row["patient"] for row in counts(cxrsearch, index) if "PH0006" not in row["path"])
    images = len(counts(cxrsearch, index, "--where", f"patient = '{pseudonym}'"))
    ran = cxrsearch("forget", pseudonym, "--index", index)
    assert ran.out.startswith(f"deleted {images} image{'s' if images > 1 else ''};")
    assert len(counts(cxrsearch, index)) == 32 - images
    again = cxrsearch("forget", pseudonym, "--index", index)
    assert again.code == 4
    assert cxrsearch("forget", "PH0006", "--index", index).out.startswith("deleted 2 images;")
    unknown = cxrsearch("forget", "MRN-1234567", "--index", index)
    assert unknown.code == 4
    assert "1234567" not in unknown.err


def test_copy_brings_everything(cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path) -> None:
    assert cxrsearch("copy", index, tmp_path / "copy").out == "copied 32 images\n"
    for command in (["search", image_of(cohort)], ["cohort"], ["info"]):
        answers = [
            cxrsearch(*command, "--index", place, "--format", "json").out for place in (index, tmp_path / "copy")
        ]
        answers = [json.loads(answer) for answer in answers]
        if command[0] == "info":
            answers = [{**answer, "bytes": None} for answer in answers]
        assert answers[0] == answers[1]
    assert cxrsearch("copy", index, tmp_path / "copy").code == 2
    assert cxrsearch("copy", tmp_path / "nowhere", tmp_path / "x").code == 5


# ------------------------------------------------------------------ untrusted text


def test_a_semicolon_in_a_cell_begins_no_formula_in_a_spreadsheet_that_parts_cells_by_it() -> None:
    out = io.StringIO()
    cells = ["x;=1+1", "x; @SUM(A1)", 'a "b"', "a; b", ["-1", "=2"], -3.5, None, "x;-1", "plain"]
    report_rows.write_csv([{str(n): cell for n, cell in enumerate(cells)}], list(map(str, range(len(cells)))), out)
    line = out.getvalue().splitlines()[1]
    (read,) = list(csv.reader([line]))
    assert read == ["x;'=1+1", "x; '@SUM(A1)", 'a "b"', "a; b", "'-1; '=2", "-3.5", "", "x;'-1", "plain"]
    assert not [part for cell in line.split(";") for part in [cell.strip('" ')] if part.startswith(("=", "@", "+"))]


def test_text_from_a_table_is_never_markup_nor_a_formula_nor_a_terminal_command(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=6, size=96)
    evil = "[bold red]x[/red] \x1b]0;owned\x07"
    table = toml.parent / "clinical.csv"
    table.write_text(table.read_text("utf-8").replace("North", evil).replace("South", "=cmd|calc"), "utf-8")
    assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    shown = cxrsearch("search", image_of(toml), "--index", tmp_path / "index").out
    assert "[bold red]x[/red]" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
    rows = list(csv.DictReader(io.StringIO(cxrsearch("cohort", "--index", tmp_path / "index", "--format", "csv").out)))
    assert {row["site"] for row in rows} == {"[bold red]x[/red] ]0;owned", "'=cmd|calc"}


@pytest.mark.parametrize("command", ["cohort --index {index} --format csv", "search {image} --index {index}", "--help"])
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_stops_early_is_no_error(cohort: Path, index: Path, command: str, reader: str) -> None:
    """``true`` is gone before anything is written, ``head`` may be; what is written at the very end counts too."""
    given = command.format(image=image_of(cohort), index=index)
    piped = f"set -o pipefail; {sys.executable} -m cxrsearch {given} | {reader}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == (reader != "true")


def test_a_key_file_that_is_none(cxrsearch: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("hunter2")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("CXRSEARCH_KEY_FILE", str(tmp_path / "key"))
    ran = cxrsearch("index", cohort, "--index", tmp_path / "index")
    assert ran.code == 4
    assert "not a key" in ran.err
    assert "hunter2" not in ran.err
    monkeypatch.setenv("CXRSEARCH_KEY_FILE", str(tmp_path / "new" / "key"))
    assert cxrsearch("index", cohort, "--index", tmp_path / "index", "--limit", 1).code == 0
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600


def test_a_search_changes_nothing_and_a_missing_shard_is_named(
    cxrsearch_process: Run, cohort: Path, index: Path
) -> None:
    before = {path: path.read_bytes() for path in index.rglob("*") if path.is_file()}
    assert cxrsearch_process("search", image_of(cohort), "--index", index).code == 0
    assert {path: path.read_bytes() for path in index.rglob("*") if path.is_file()} == before
    shutil.rmtree(index / "shard")
    ran = cxrsearch_process("search", image_of(cohort), "--index", index)
    assert ran.code == 5
    assert "edge_config.json: missing. Restore the index from a backup" in ran.err


def test_an_empty_line_at_the_end_of_stdin_changes_nothing(cxrsearch_process: Run, cohort: Path, index: Path) -> None:
    arguments = ["search", "-", "--index", index, "--format", "json"]
    plain, empty = (cxrsearch_process(*arguments, input=f"nowhere.png{end}") for end in ("", "\n \n\n"))
    assert (plain.code, plain.err) == (empty.code, empty.err)
    assert plain.code == 4


def test_output_in_latin_1_is_no_failure_and_json_loses_nothing(cohort: Path, index: Path, tmp_path: Path) -> None:
    picture = tmp_path / "\u4eac.dcm"
    shutil.copy(image_of(cohort), picture)
    for format in ("table", "json"):
        command = [sys.executable, "-m", "cxrsearch", "search", picture, "--index", index, "--format", format]
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["query"]["path"] == str(picture)


def test_a_copy_onto_itself_says_so(cxrsearch: Run, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(index.parent)
    for target in (index.name, f"{index}/", f"./{index.name}"):
        ran = cxrsearch("copy", index.name, target)
        assert (ran.code, "is the index to copy itself" in ran.err) == (2, True), ran.err
