"""training/folder.py: one training at a time, nothing written over, and room for it."""

import errno
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from training.folder import check_disk, only_training_in


def two_trainings_in(folder):
    with only_training_in(folder, resume=False), only_training_in(folder, resume=False):
        pass


def test_where_a_file_system_has_no_locks_nothing_is_refused(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    two_trainings_in(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no locks on folders")
def test_a_second_one_is_refused(tmp_path):
    with pytest.raises(OSError, match="another training"):
        two_trainings_in(tmp_path)


def test_what_a_killed_one_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "unfinished-abc").mkdir()
    (tmp_path / "unfinished-abc" / "config.json").touch()
    (tmp_path / "unfinished-log.csv").touch()
    with only_training_in(tmp_path, resume=False):
        assert not list(tmp_path.iterdir())
    (tmp_path / "log.csv").touch()
    with pytest.raises(OSError, match="not empty"), only_training_in(tmp_path, resume=False):
        pass
    with only_training_in(tmp_path, resume=True):
        assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_new_folder_in_which_nothing_was_written_is_removed(tmp_path):
    with only_training_in(tmp_path / "a" / "b", resume=False):
        pass
    assert not (tmp_path / "a" / "b").exists()


def test_a_run_that_would_not_fit_is_refused(tmp_path, monkeypatch):
    params = {"wte": np.zeros(100, np.float32)}
    check_disk(tmp_path, params)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2799))
    with pytest.raises(OSError, match="2799 bytes left; a run needs 2800"):
        check_disk(tmp_path, params)
