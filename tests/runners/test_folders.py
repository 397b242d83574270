"""A saved folder is whole or absent, and damage to it is named."""

from pathlib import Path

import pytest

from runners.errors import RunError
from runners.records.folders import check_whole, written_whole


def fill(folder: Path, text: str) -> None:
    with written_whole(folder) as filling:
        (filling / "part").mkdir()
        (filling / "part" / "weights").write_text(text)
        (filling / "config.json").write_text("{}")


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    for text in ("first", "second"):
        fill(tmp_path / "model", text)
        assert (tmp_path / "model/part/weights").read_text() == text
        check_whole(tmp_path / "model")
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "model") as filling:
        (filling / "half").write_text("")
        raise KeyboardInterrupt
    check_whole(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_of_two_that_make_it_the_first_stays(tmp_path: Path) -> None:
    with pytest.raises(OSError), written_whole(tmp_path / "model"):
        (tmp_path / "model").mkdir()
        (tmp_path / "model/weights").write_text("of another process")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "weights"]


def test_damage_is_named_by_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fill(folder, "weights")
    (folder / "more").write_text("what was added later is nobody's damage")
    check_whole(folder)
    (folder / "part/weights").write_text("wrights")
    with pytest.raises(RunError, match="part/weights is damaged"):
        check_whole(folder)
    (folder / "part/weights").unlink()
    with pytest.raises(RunError, match="part/weights is missing"):
        check_whole(folder)
    (folder / "checksums.json").write_text("{")
    with pytest.raises(RunError, match="checksums.json is damaged"):
        check_whole(folder)


def test_a_folder_of_others_is_not_checked(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    check_whole(tmp_path)
    check_whole(tmp_path / "a-name-on-a-hub")
