from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from mlops.core import console


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    return tmp_path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("github")
def test_an_error_on_github_is_one_workflow_command(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("50% lost\n::set-output name=a::b")
    assert capsys.readouterr().out == "::error::50%25 lost%0A::set-output name=a::b\n"


COMMANDS = (
    "::stop-commands::x", "  ::set-output name=verdict::PROMOTE", "\t::add-mask::a", "fine\n::error::no", "fine\r::error::no",
    "##[error]no", "before ##[add-path]/tmp", "\u2028::warning::no", "\x0b::warning::no", "\xa0::warning::no", "::::notice::no",
)  # fmt: skip


def commands(output: str) -> list[str]:
    """What GitHub's runner takes for a command: it trims each line and looks for ``::`` at its beginning, or for ``##[`` anywhere."""
    return [line for line in re.split(r"\r\n|\r|\n", output) if line.strip().startswith("::") or "##[" in line]


@pytest.mark.usefixtures("github")
@pytest.mark.parametrize("foreign", COMMANDS)
def test_foreign_text_is_never_a_command_to_github(foreign: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands(foreign.replace("\u2028", "\n").replace("\x0b", "\n")), "GitHub would run it"
    console.info(f"{foreign}")
    console.info(f"      {foreign}")
    assert commands(capsys.readouterr().out) == []
    console.error(foreign)
    (command,) = commands(capsys.readouterr().out)
    assert command.startswith("::error::")


def test_foreign_text_keeps_its_look() -> None:
    text = "std::vector<int>\n\tC::D and #1 ## [x](y)"
    assert console.neutralize(text) == text
    assert console.neutralize("::error::no").replace("\u200b", "") == "::error::no"


@pytest.mark.usefixtures("terminal")
def test_foreign_text_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.info("a\x1b[2Jb\x9b1mc\rd")
    console.error("a\x1b]0;title\x07b")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("a [2Jb 1mc d\n", "error: a ]0;title b\n")


@pytest.mark.usefixtures("terminal")
def test_an_error_elsewhere_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("lost")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "error: lost\n")


def test_an_output_can_not_smuggle_in_another(github: Path) -> None:
    console.output("verdict", "HOLD\nverdict=PROMOTE")
    first, *rest, last = (github / "output").read_text().splitlines()
    assert first == f"verdict<<{last}"
    assert rest == ["HOLD", "verdict=PROMOTE"]


def test_a_step_is_folded_and_closed_even_if_it_fails(github: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), console.step("train"):
        raise ValueError("no")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "::group::train"
    assert lines[-1] == "::endgroup::"


def test_a_summary_is_appended(github: Path) -> None:
    console.summary("# one")
    console.summary("# two")
    assert (github / "summary").read_text() == "# one\n\n# two\n\n"


@pytest.mark.usefixtures("github")
def test_a_secret_is_masked_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.mask("a\nb")
    assert capsys.readouterr().out == "::add-mask::a\n::add-mask::b\n"


def test_did_you_mean_ignores_case_and_is_silent_if_nothing_is_similar() -> None:
    assert console.did_you_mean("zzz", ["alpha"]) == ""
    assert console.did_you_mean("ALPHA1", ["Alpha", "beta"]) == " (did you mean 'Alpha'?)"


@pytest.mark.usefixtures("terminal")
def test_nothing_is_masked_outside_github(capsys: pytest.CaptureFixture[str]) -> None:
    console.mask("secret")
    assert capsys.readouterr().out == ""


def test_progress_counts(capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.Progress("rows", total=3)
    progress.advance()
    progress.advance(2)
    progress.close()
    assert "3/3 rows" in capsys.readouterr().out


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("name", "value", "colored"), [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)])
def test_each_stream_has_colors_if_it_is_a_terminal(name: str, value: str, colored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    output, errors = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stdout", output)
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr(errors, "isatty", lambda: True)
    monkeypatch.setenv(name, value)
    console.warning("careful")
    with console.step("work"):
        pass
    assert ("\033[33m" in errors.getvalue()) == colored
    assert "\033" not in output.getvalue(), "the output is a file"


def test_progress_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 20.0, 20.0, 40.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    progress = console.Progress("rows", total=4000)
    progress.advance(1000)
    assert capsys.readouterr().out == "  1,000/4,000 rows (50/s, 60 s left)\n"
    progress.done = 4000
    progress.close()
    assert capsys.readouterr().out == "  4,000/4,000 rows (100/s)\n"
