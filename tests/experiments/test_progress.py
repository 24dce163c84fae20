"""The bar: on stderr only, honest counts, and silent about what it does not know."""

import pytest

from experiments.progress import bar


def test_the_last_line_tells_label_count_unit_and_note(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with bar("large", 20, "steps") as advance:
        for step in range(4):
            advance(5, f"loss {step}")
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip("\n").splitlines()[-1]
    assert last.startswith("large")
    assert "20/20" in last
    assert "steps/s" in last
    assert last.rstrip().endswith("loss 3")


def test_outside_a_terminal_it_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with bar("score", 1_000, "queries") as advance:
        for _ in range(100):
            advance(10, "")
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_unfinished_bar_shows_how_far_it_came_and_lets_the_error_pass(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def work() -> None:
        with bar("base", 10, "steps") as advance:
            advance(3, "")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    err = capsys.readouterr().err
    assert "3/10" in err
    assert "10/10" not in err


def test_a_bar_that_never_moved_has_no_rate(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with bar("idle", 10, "steps"):
        pass
    assert "steps/s" not in capsys.readouterr().err


def test_text_that_looks_like_markup_is_shown_as_it_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    with bar("score [large]", 1, "queries") as advance:
        advance(1, "[red]")
    err = capsys.readouterr().err
    assert "score [large]" in err
    assert "[red]" in err
