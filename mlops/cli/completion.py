"""Print a script that completes commands, options and targets in a shell.

mlops completion bash >> ~/.bashrc
mlops completion zsh >> ~/.zshrc
mlops completion fish > ~/.config/fish/completions/mlops.fish
"""

from __future__ import annotations

from collections.abc import Sequence

from mlops.cli import stage
from mlops.cli.commands import COMMANDS

__all__ = ["main"]

_BASH = r"""_mlops() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=
  if [ "$COMP_CWORD" -eq 1 ]; then
    words='@COMMANDS@'
  elif [ "$before" = --target ]; then
    words=$(sed -nE 's/^\[targets\.([A-Za-z0-9_-]+)\].*/\1/p' pipeline.toml 2>/dev/null)
  elif [ "${word#-}" != "$word" ]; then
    words=$(mlops "${COMP_WORDS[1]}" --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*' | sort -u)
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _mlops mlops
"""
"""Options come from the command's own help, so they can't be out of date. Without a suggestion, the shell completes names of files."""

_FISH = r"""complete -c mlops -n __fish_use_subcommand -f -a '@COMMANDS@'
function __mlops_targets
  sed -nE 's/^\[targets\.([A-Za-z0-9_-]+)\].*/\1/p' pipeline.toml 2>/dev/null
end
function __mlops_options
  mlops (commandline -opc)[2] --help 2>/dev/null | string match -ra -- '--[a-z][a-z-]*' | sort -u
end
complete -c mlops -n 'not __fish_use_subcommand' -l target -x -a '(__mlops_targets)'
complete -c mlops -n 'not __fish_use_subcommand' -a '(__mlops_options)'
"""

SHELLS = {"bash": _BASH, "zsh": f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{_BASH}", "fish": _FISH}
"""Shell → its script. zsh runs that of bash."""


def main(argv: Sequence[str]) -> int:
    """Print the script."""
    parser = stage.bare_parser(__doc__ or "", prog="mlops completion")
    parser.add_argument("shell", choices=SHELLS)
    arguments = parser.parse_args(argv)
    script = SHELLS[arguments.shell].replace("@COMMANDS@", " ".join(COMMANDS)).rstrip()
    return stage.finish(lambda: stage.Answer(script, script), as_json=arguments.json)
