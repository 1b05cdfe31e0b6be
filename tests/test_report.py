import pytest

from tests.commands import call
from tests.reporting import made


def test_a_report_of_one_run_and_of_two(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folders = [str(made.run(tmp_path / name)) for name in "ab"]
    assert call(monkeypatch, "report", folders[0], "--images=0") == (0, f"report: {folders[0]}/report.html\n", "")
    assert call(monkeypatch, "report", "--images=0", *folders) == (0, "report: report.html\n", "")
    assert "2 runs" in (tmp_path / "report.html").read_text()
    status, _, error = call(monkeypatch, "report", *folders, "--output=c.html")
    assert status == 0
    assert error.startswith(f"note: No pictures of a: no checkpoint in {folders[0]}/checkpoints/best")
    assert (tmp_path / "c.html").is_file()


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "a report must be told of which runs"),
    (["nowhere"], "no run in nowhere: RUN must be a folder"),
    (["gs://bucket/run"], "RUN must be a path on a mounted file system, not a URL"),
    (["--images=-1", "."], "images"),
    ([".", "--output=no/such/page.html"], "--output must be a file in a folder that is there; got no/such/page.html"),
    ([".", "--output=."], "--output must be a file in a folder that is there; got ."),
])
def test_wrong_arguments_are_one_line(monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, error = call(monkeypatch, "report", *arguments)
    assert status == 2
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1
