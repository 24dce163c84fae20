"""What the command's outermost layer turns into one line and an exit code."""

import errno

import pytest

from experiments.cli import guarded
from routers.files import written


def fails(error: OSError):
    def work(arguments):
        raise error

    return work


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line(code, capsys):
    assert guarded(fails(OSError(code, "no room", "runs/big/report.html")), []) == 2
    assert capsys.readouterr().err == (
        "cascade: runs/big/report.html: could not be written (no room); "
        "make room and run the same command again\n"
    )


def test_the_file_is_named_where_the_system_does_not(tmp_path, capsys):
    def work(arguments):
        with written(tmp_path / "report.html"):
            raise OSError(errno.ENOSPC, "No space left on device")

    assert guarded(work, []) == 2
    assert f"cascade: {tmp_path}/report.html: could not be" in capsys.readouterr().err


def test_without_a_name_it_is_still_one_line(capsys):
    assert guarded(fails(OSError(errno.ENOSPC, "no room")), []) == 2
    assert capsys.readouterr().err.startswith("cascade: a file: could not be written (no room);")


def test_other_faults_of_the_system_stay_faults():
    with pytest.raises(PermissionError):
        guarded(fails(PermissionError(errno.EACCES, "denied", "x")), [])
