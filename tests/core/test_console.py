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
    assert capsys.readouterr().out == "::error::50%25 lost%0A:\u200b:set-output name=a::b\n"


@pytest.mark.usefixtures("github")
def test_an_error_on_github_has_no_control_characters_and_no_other_command(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("a\x1b[2Jb\u2028::stop-commands::c\u2029d\x85e\r\n::f ##[error]g")
    assert capsys.readouterr().out == "::error::a [2Jb ::stop-commands::c d e %0A:\u200b:f ##\u200b[error]g\n"
    with console.step("a\n::b"):
        pass
    assert capsys.readouterr().out.splitlines()[0] == "::group::a%0A:\u200b:b"


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


class Screen(io.StringIO):
    """A terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def write(self, text: str) -> int:
        text.encode(self._encoding)
        return super().write(text)

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """What is printed, without colors, with one line for each time that a line is rewritten."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.getvalue()))]


def open_screen(monkeypatch: pytest.MonkeyPatch, columns: int = 40, encoding: str = "utf-8") -> Screen:
    """Replace stdout. Not a fixture, because pytest sets stdout between the fixtures and the test."""
    for name in ("GITHUB_ACTIONS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen(encoding)
    monkeypatch.setattr("sys.stdout", screen)
    return screen


LONG = "word " * 30
MARKUP = "[red]no[/red] [link=file:///etc]x[/link] :smile: [/nothing]"


def test_a_table_is_wrapped_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    console.table([("shown", LONG), ("of another kind", "short")], ("outcome", "why"))
    lines = screen.lines()
    assert lines[0].split() == ["outcome", "why"]
    assert max(map(len, lines)) <= 40
    assert " ".join(" ".join(lines).split()).count("word") == 30
    assert "\x1b[32mshown" in screen.getvalue()
    assert console.columns([("key", LONG)], clip=True) == "  key  word word word word word word wo…"


@pytest.mark.usefixtures("terminal")
def test_a_log_has_whole_lines_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("TTY_INTERACTIVE", "1"), ("COLUMNS", "20")):
        monkeypatch.setenv(name, value)
    console.table([("a", LONG * 9 + "."), ("b", "")], ("name", "text"))
    with console.Progress("rows", 1) as progress:
        progress.advance()
    assert capsys.readouterr().out.startswith(f"  name  text\n  a     {LONG * 9}.\n  b\n  1/1 rows (")


def test_markup_in_foreign_text_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch, 100)
    monkeypatch.setattr("sys.stderr", errors := Screen())
    console.info(MARKUP)
    console.error(MARKUP)
    with console.step(MARKUP), console.Progress(MARKUP, 2) as progress:
        progress.advance()
        console.info(f"meanwhile {MARKUP}")
    console.table([(MARKUP,), ("\x1b[31mred",)], (MARKUP,))
    lines = screen.lines()
    assert lines[:2] == [MARKUP, f"▸ {MARKUP}"]
    assert f"meanwhile {MARKUP}" in lines
    assert any(f"1/2 {MARKUP} (" in line for line in lines)
    assert lines[-4:-1] == [f"  {MARKUP}", f"  {MARKUP}", "   [31mred"]
    assert errors.lines()[0] == f"error: {MARKUP}"
    assert "\x1b]8" not in screen.getvalue() + errors.getvalue(), "a link"


@pytest.mark.parametrize("foreign", COMMANDS)
def test_no_cell_of_a_table_is_a_command_to_github(foreign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch)
    for rows in ([(foreign,)], [("", foreign)], [("word", f"{'x' * 30} {foreign}")]):
        console.table(rows)
        console.table(rows, ("", foreign)[-len(rows[0]) :])
        console.info(console.columns(rows, indent=0))
    assert commands(re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())) == []


def test_progress_is_one_line_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = open_screen(monkeypatch, 90)
    monkeypatch.setattr("sys.stderr", errors := io.StringIO())
    monkeypatch.setattr("time.monotonic", iter(range(0, 1000, 10)).__next__)
    with pytest.raises(KeyboardInterrupt), console.Progress("rows", total=3) as progress:  # noqa: PT012
        progress.advance()
        console.warning("careful")
        progress.advance(2)
        raise KeyboardInterrupt
    assert errors.getvalue() == "warning: careful\n", "the errors are a file, so they stay there"
    lines = screen.lines()
    assert any(line.endswith(" 1/3 rows (0/s, 0:00:40 left)") and "━" in line for line in lines)
    assert any(line.endswith(" 3/3 rows (0/s)") for line in lines)
    assert screen.getvalue().endswith("\x1b[?25h"), "the cursor is visible again"


def test_a_terminal_without_utf_8_gets_other_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = open_screen(monkeypatch, 60, "ascii")
    console.table([("a → b", LONG)], ("name", "text"))
    with console.step("work"), console.Progress("rows", total=2) as progress:
        progress.advance()
        console.info("1 × 2 ≥ é")
    lines = plain.lines()
    assert lines[1].startswith("  a -> b  word")
    assert "> work" in lines
    assert "1 x 2 >= \\xe9" in lines
    assert any("---" in line and "1/2 rows" in line for line in lines)


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


@pytest.mark.usefixtures("terminal")
def test_progress_says_how_much_time_is_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 5.0, 20.0, 20.0, 40.0, 50.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with console.Progress("rows", total=4000) as progress:
        progress.advance(500)
        assert capsys.readouterr().out == "", "a log has a line every ten seconds"
        progress.advance(500)
        assert capsys.readouterr().out == "  1,000/4,000 rows (50/s, 0:01:00 left)\n"
        progress.done = 4000
    assert capsys.readouterr().out == "  4,000/4,000 rows (100/s)\n"
    with console.Progress("rows"):
        pass
    assert capsys.readouterr().out == ""
