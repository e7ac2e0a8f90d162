"""A small share of the fuzzer's inputs; `make fuzz` gives it thousands."""

from tests.fuzz.__main__ import main


def test_spoilt_files_end_in_a_result_or_in_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status = main(["--inputs", "220", "--seed", "1", "--workers", "1"])
    assert status == 0, capsys.readouterr().out
