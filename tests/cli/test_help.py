"""`--help` in both languages: every text of the catalogue is shown, nothing is cut off, and errors speak it too."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from rich.cells import cell_len
from typer.main import get_command
from typer.models import OptionInfo

import rushlight
from rushlight.cli import main
from rushlight.cli.app import app
from rushlight.options import options_reference
from rushlight.texts import LANGUAGES, read_room

COMMANDS = sorted(get_command(app).commands)  # type: ignore[attr-defined]
CHINESE_PANELS = ["参数", "学习", "数据", "模型", "速度与精度", "运行"]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command in a language, on a page of some width; return what it printed."""

    def run(code: str, width: int, *arguments: str) -> str:
        monkeypatch.setenv("RUSHLIGHT_LANGUAGE", code)
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as left:
            main(list(arguments))
        said = capsys.readouterr()
        assert left.value.code in (0, None, 2)
        return said.out + said.err

    return run


def test_an_option_whose_placeholder_is_its_own_name_states_its_flag() -> None:
    """Else some versions of typer (0.27) take the placeholder for the flag: --PORT."""
    for command in app.registered_commands:
        assert command.callback is not None
        for name, parameter in inspect.signature(command.callback).parameters.items():
            for option in getattr(parameter.annotation, "__metadata__", ()):
                is_own = isinstance(option, OptionInfo) and (option.metavar or "").lower() == name
                assert not is_own or option.param_decls, f"{command.name or command.callback.__name__}: {name}"


def texts_in(entry: object) -> list[str]:
    """Every text in a part of the catalogue."""
    return [entry] if isinstance(entry, str) else [text for inner in entry.values() for text in texts_in(inner)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("code", LANGUAGES)
def test_every_text_is_shown_whole_on_a_page_of_any_width(say: Callable[..., str], code: str, width: int) -> None:
    pages = [say(code, width, *command, "--help") for command in ([], *([name] for name in COMMANDS))]
    for line in "\n".join(pages).splitlines():
        assert cell_len(line) <= width
    pages += [say(code, width, "train", "--epochs", "many"), say(code, width, "train", "--lr", "high")]
    pages += [options_reference(code), rushlight.train.__doc__ if code == "en" else ""]
    shown = "".join("".join(pages).replace("│", "").split())
    for text in texts_in(read_room(code, "help")):
        bare = text.replace("[bold]", "").replace("[/bold]", "").replace("|", "\\|")
        for piece in bare.replace("{{value}}", "\n").replace("{{", "{").replace("}}", "}").split("\n"):
            assert "".join(piece.split()) in shown, text


@pytest.mark.parametrize("width", [80, 120])
def test_the_panels_come_in_the_order_that_a_beginner_needs(say: Callable[..., str], width: int) -> None:
    page = say("zh", width, "train", "--help")
    assert [line.split()[1] for line in page.splitlines() if line.startswith("╭")] == CHINESE_PANELS


@pytest.mark.parametrize(
    ("arguments", "english", "chinese"),
    [
        (["trian"], 'There is no command "trian". Did you mean "train"?', "没有叫“trian”的命令。你是不是想写“train”？"),
        (["train", "--epoch", "3"], 'no option --epoch. Did you mean "--epochs"?', "没有选项 --epoch。你是不是想写“--epochs”？"),
        (["save", "latest"], "rushlight save needs PATH.", "rushlight save 需要 PATH。"),
        (["save", "model.pth"], "for example: rushlight save latest PATH", "例如用最新的一次训练：rushlight save latest PATH"),
        (["predict", "a.csv"], "for example: rushlight predict latest FILE…", "rushlight predict latest FILE…"),
        (["train", "--epochs", "x"], "rushlight train --epochs: it takes a whole number.", "rushlight train --epochs：要写一个整数。"),
        (["train", "--epochs"], "rushlight train --epochs: something is missing after it.\nWrite: --epochs VALUE", "请写：--epochs VALUE"),
        (["serve", "--write", "docker"], "Write: --write KIND DIR", "请写：--write KIND DIR"),
        (["tune", "--trials", "x"], "rushlight tune --trials: it takes a whole number.", "rushlight tune --trials：要写一个整数。"),
        (["tune", "--hours", "x"], "rushlight tune --hours: it takes a number.", "rushlight tune --hours：要写一个数。"),
        (["tune", "--processes", "2"], "no option --processes. Here it is called --jobs.", "没有选项 --processes。在这里它叫 --jobs。"),
        (["train", "a", "b", "c"], "See: rushlight train --help", "请看：rushlight train --help"),
        (["train", "a", "b", "c"], "rushlight train does not know what to do with: c.\nWrite: rushlight train MODEL DATA", "rushlight train 不知道怎么处理：c。\n请写：rushlight train MODEL DATA"),
        (["env", "now"], "rushlight env does not know what to do with: now.\nWrite: rushlight env,", "请写：rushlight env，"),
        (["train", "a", "b", "--ray", "head"], "ray=head is no address of a Ray cluster.", "ray=head"),
        (["train", "a", "b", "--ray", "ray://head:10001"], "ray=ray://head:10001 is no address of a Ray cluster.", "ray=ray://head:10001"),
        (["train", "a", "b", "--shard", "2"], 'rushlight train --shard takes no value; it was given "2".\nWrite --shard alone', "rushlight train --shard 不带值；给它的是“2”。"),
        (["train", "--shard=2"], 'rushlight train --shard takes no value; it was given "2".', "请只写 --shard"),
        (["eject", "latest", "--force=yes"], 'rushlight eject --force takes no value; it was given "yes".', "请只写 --force"),
    ],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_told_as_any_other(
    say: Callable[..., str], arguments: list[str], english: str, chinese: str
) -> None:
    said = say("en", 200, *arguments)
    assert said.startswith("error: ")
    assert english in said
    assert chinese in say("zh", 200, *arguments)
