"""Files: read, mapped, replaced as a whole."""

import os
import stat

import numpy as np
import pytest

from model_files.disk import UNFINISHED, map_file, read_file, replacing
from tests.fixtures.checkpoints import message_of


def test_only_files_of_a_sensible_size_are_read(tmp_path):
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(10**12)  # takes no room on disk
    with pytest.raises(OSError, match="huge"):
        read_file(tmp_path / "huge")


@pytest.mark.parametrize("read", [read_file, map_file])
def test_what_is_no_file_is_not_read(tmp_path, read):
    with pytest.raises(OSError, match="not a file"):
        read(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match=r"pipe.*not a file"):
            read(tmp_path / "pipe")
    with pytest.raises(OSError, match="nowhere"):
        read(tmp_path / "nowhere")


def test_a_mapped_file_is_a_plain_array_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_bytes(b"\1\2\3")
    array = map_file(tmp_path / "file")
    assert type(array) is np.ndarray and array.tolist() == [1, 2, 3]
    with pytest.raises(ValueError):
        array[0] = 0
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty"):
        map_file(tmp_path / "empty")


# ---------------------------------------------------------------- replacing


@pytest.fixture
def log(tmp_path):
    (tmp_path / "log.csv").write_text("old", encoding="utf-8")
    return tmp_path / "log.csv"


def test_a_file_is_replaced_once_it_is_written(log):
    with replacing(log) as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert log.read_text(encoding="utf-8") == "old"
        assert temporary.name.startswith(UNFINISHED) and temporary.suffix == ".csv"
    assert log.read_text(encoding="utf-8") == "new"
    assert os.listdir(log.parent) == ["log.csv"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_is_there_and_nothing_else(log, error):
    with pytest.raises(type(error)), replacing(log) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise error
    assert log.read_text(encoding="utf-8") == "old"
    assert os.listdir(log.parent) == ["log.csv"]


def test_an_error_of_the_disk_names_the_file(log):
    with pytest.raises(OSError) as error, replacing(log):
        raise OSError(28, "No space left on device", "unfinished-x")
    assert message_of(error) == f"cannot write {log}: No space left on device"
    with pytest.raises(OSError, match="log2"), replacing(log / "log2") as temporary:
        temporary.touch()


def test_two_that_write_one_file_do_not_disturb_each_other(log):
    with replacing(log) as first, replacing(log) as second:
        first.write_text("first", encoding="utf-8")
        second.write_text("second", encoding="utf-8")
    assert log.read_text(encoding="utf-8") == "first"  # the last to end
    assert os.listdir(log.parent) == ["log.csv"]


def test_a_link_is_replaced_and_not_followed(log, tmp_path):
    if os.name == "nt":
        pytest.skip("links need privileges on Windows")
    (tmp_path / "link").symlink_to(log)
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert log.read_text(encoding="utf-8") == "old"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_device_is_not_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="pipe"), replacing(pipe):
        raise AssertionError("nothing is to be written")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]
