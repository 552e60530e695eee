"""`calib completion`: a script that completes commands, options and settings in a shell."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from calib.commands.completion_arguments import subcommands, words_of
from calib.config import SCHEMAS, keys_of

MORE = """\
examples:
  calib completion bash > ~/.local/share/bash-completion/completions/calib
  calib completion zsh  > ~/.zfunc/_calib      (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  calib completion fish > ~/.config/fish/completions/calib.fish

The script is made of the tables of this version and starts nothing when a key is pressed. Make it anew after
an update.
"""

BASH = """\
# Completion of calib {version}. Made by: calib completion {shell}
_calib() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" cur command words="" rest
  cur="${{line##*[[:space:]]}}"
  rest="${{line#*[[:space:]]}}"
  [ "$rest" = "$line" ] && return
  command="${{rest%%[[:space:]]*}}"
  if [ "$command" = "$rest" ]; then
    words="{commands}"
  else
    case "$command" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [ ${{#COMPREPLY[@]}} -eq 0 ]; then
    COMPREPLY=($(compgen -f -- "${{cur##*=}}"))
    return
  fi
  case "${{COMPREPLY[0]}}" in
    *=) type compopt >/dev/null 2>&1 && compopt -o nospace ;;
  esac
  case "$COMP_WORDBREAKS$cur" in
    *=*) [[ $cur == *=* ]] && COMPREPLY=("${{COMPREPLY[@]#"${{cur%=*}}="}}") ;;
  esac
}}
complete -o default -F _calib calib
"""
ZSH = """\
#compdef calib
autoload -U +X bashcompinit && bashcompinit
"""


def script(shell: str) -> str:
    """Return the completion script of a shell.

    Args:
        shell: bash, zsh or fish.
    """
    import calib
    from calib.commands.registry import COMMANDS

    words = {name: words_of(name, row) for name, row in COMMANDS.items()}
    below = subcommands()
    for pair, more in below.items():
        command, _, sub = pair.partition(" ")
        words[command] = sorted({*words[command], sub, *more})
    words["data"] = sorted({*words["data"], *(f"{key}=" for key in keys_of(SCHEMAS["prompt"]))})
    words["completion"] = ["--help", *SHELLS]
    if shell == "fish":
        return _fish({name: row.summary for name, row in COMMANDS.items()}, words)
    cases = "\n".join(f'      {name}) words="{" ".join(each)}" ;;' for name, each in words.items())
    made = BASH.format(version=calib.__version__, shell=shell, commands=" ".join(words), cases=cases)
    return f"{ZSH}{made}" if shell == "zsh" else made


def _fish(summaries: dict[str, str], words: dict[str, list[str]]) -> str:
    lines = ["complete -c calib -n __fish_use_subcommand -f"]
    for name, summary in summaries.items():
        told = summary.replace("'", "")
        lines.append(f"complete -c calib -n __fish_use_subcommand -a {name} -d '{told}'")
    lines += [
        f"complete -c calib -n '__fish_seen_subcommand_from {name}' -a '{' '.join(each)}'"
        for name, each in words.items()
    ]
    return "\n".join(lines) + "\n"


SHELLS = ("bash", "zsh", "fish")


def main(argv: Sequence[str]) -> int:
    """Run `calib completion`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="calib completion",
        description="Print a script that completes calib's commands, options and settings in a shell.",
        epilog=MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS)
    sys.stdout.write(script(parser.parse_args(argv).shell))
    return 0
