"""Films of one patient or paper fall into one group; films that have nothing to do with each other do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import DataError, UsageError
from harness.data.decoding import IMAGE_SUFFIXES
from harness.data.grouping import default_group, group_from_csv, group_from_regex, grouping_from_options

_CXR = Path(__file__).parents[4] / "shared" / "data" / "cxr"


def _groups(*names: str) -> set[str]:
    return {default_group(Path("covid") / name) for name in names}


@pytest.mark.parametrize(
    "names",
    [
        ("covid-19-pneumonia-24-day6.jpg", "covid-19-pneumonia-24-day7.jpg", "covid-19-pneumonia-24-day12.jpg"),
        ("ryct.2020200034.fig5-day0.jpeg", "ryct.2020200034.fig5-day4.jpeg"),
        ("00001281_000.png", "00001281_001.png"),
        ("1-s2.0-S0929664620300449-gr2_lrg-a.jpg", "1-s2.0-S0929664620300449-gr2_lrg-d.jpg"),
        ("1-s2.0-S1684118220300608-main.pdf-001.jpg", "1-s2.0-S1684118220300608-main.pdf-002.jpg"),
        ("1-s2.0-S1684118220300682-main.pdf-002-a1.png", "1-s2.0-S1684118220300682-main.pdf-003-b2.png"),
        ("41591_2020_819_Fig1_HTML.webp-day10.png", "41591_2020_819_Fig1_HTML.webp-day5.png"),
        ("case2a.png", "case2b.png"),
        ("patient-7-PA.png", "patient-7-lateral.png"),
    ],
    ids=lambda names: names[0],
)
def test_films_of_one_patient_or_paper_are_one_group(names: tuple[str, ...]) -> None:
    assert len(_groups(*names)) == 1


def test_films_of_different_patients_stay_apart() -> None:
    names = (
        "covid-19-pneumonia-24-day6.jpg",
        "covid-19-pneumonia-2.jpg",
        "covid-19-pneumonia-12.jpg",
        "00001281_000.png",
        "00001282_000.png",
        "01E392EE-69F9-4E33-BFCE-E5C968654078.jpg",
        "03BF7561-A9BA-4C3C-B8A0-D3E585F73F3C.jpg",
        "ryct.2020200028.fig1a.jpeg",
        "ryct.2020200034.fig5-day0.jpeg",
        "normal-0001.png",
        "normal-0002.png",
    )
    assert len(_groups(*names)) == len(names)


@pytest.mark.parametrize("name", ["a.png", "-a.png", "day1.png", "pa.png", "-.png", "f1.png", "fig-1.png"])
def test_a_name_that_is_all_suffix_still_has_a_group(name: str) -> None:
    assert default_group(Path(name)) != ""


@pytest.mark.skipif(not _CXR.is_dir(), reason="the films in ../shared/data/cxr are not here")
def test_the_949_films_at_hand_are_639_groups() -> None:
    films = [path for path in _CXR.glob("*/*") if path.suffix.lower() in IMAGE_SUFFIXES]

    assert len(films) == 949
    assert len({default_group(path) for path in films}) == 639


def test_a_regular_expression_groups_by_its_first_group_else_by_the_whole_match() -> None:
    assert group_from_regex(r"^(\d+)_(\d+)")(Path("normal/0012_003.png")) == "0012"
    assert group_from_regex(r"\d+")(Path("normal/p12_003.png")) == "12"


def test_a_name_that_the_expression_does_not_match_is_refused() -> None:
    with pytest.raises(DataError, match=r"covid/x\.png.*does not match"):
        group_from_regex(r"^(\d+)_")(Path("covid/x.png"))


@pytest.mark.parametrize("pattern", [r"^(?:(\d+)_|scan)", r"^(\d*)"], ids=["group took no part", "empty match"])
def test_a_match_that_names_no_patient_is_refused(pattern: str) -> None:
    with pytest.raises(DataError, match="--group-regex"):
        group_from_regex(pattern)(Path("covid/scan.png"))


def test_a_malformed_expression_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="not a regular expression") as caught:
        group_from_regex("(")
    assert caught.value.exit_code == 2


def _table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "groups.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_groups_by_file_name_and_by_relative_path_which_goes_first(tmp_path: Path) -> None:
    group = group_from_csv(_table(tmp_path, "group,file,age\nanna,x.png,7\nberta,covid/x.png,8\nclara,ü.png,9\n"))

    assert group(Path("normal/x.png")) == "anna"
    assert group(Path("train/covid/x.png")) == "berta"
    assert group(Path("covid/ü.png")) == "clara"


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes("\ufefffile,group\r\nx.png,anna\r\n".encode())

    assert group_from_csv(path)(Path("covid/x.png")) == "anna"


@pytest.mark.parametrize("text", ["file,group\ny.png,anna\n", "file,group\nx.png,\n", "file,group\nx.png\n"])
def test_a_film_without_a_group_in_the_table_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"covid/x\.png: not in the group table"):
        group_from_csv(_table(tmp_path, text))(Path("covid/x.png"))


@pytest.mark.parametrize("text", ["", "file,group\n", "name,patient\nx.png,anna\n"])
def test_a_table_without_the_columns_or_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match="no columns named file and group, or no rows"):
        group_from_csv(_table(tmp_path, text))


def test_a_table_that_names_one_film_twice_with_two_groups_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x\.png"):
        group_from_csv(_table(tmp_path, "file,group\nx.png,anna\nx.png,berta\n"))


def test_a_missing_table_or_one_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        group_from_csv(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="cannot be read"):
        group_from_csv(tmp_path / "binary.csv")


def test_the_options_choose_one_grouping_and_refuse_two(tmp_path: Path) -> None:
    table = _table(tmp_path, "file,group\nx.png,anna\n")

    assert grouping_from_options(None, None)(Path("00001281_001.png")) == "00001281"
    assert grouping_from_options(r"^(.)", None)(Path("x.png")) == "x"
    assert grouping_from_options(None, table)(Path("x.png")) == "anna"
    with pytest.raises(UsageError, match="exclude each other"):
        grouping_from_options("x", table)
