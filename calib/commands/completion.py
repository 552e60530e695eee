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
  local line="${{COMP_LINE:0:$COMP_POINT}}" cur command words="" rest
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
# Completion of calib {version}. Made by: calib completion {shell}
_calib() {{
  local -a known open whole
  local found=1
  if (( CURRENT == 2 )); then
    known=({commands})
  else
    case "$words[2]" in
{cases}
    esac
  fi
  open=(${{(M)known:#*=}})
  whole=(${{known:#*=}})
  compadd -S '' -a open && found=0
  compadd -a whole && found=0
  if (( found )); then
    compset -P '*='
    _files && found=0
  fi
  return found
}}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _calib "$@"; else compdef _calib calib; fi
"""
FISH = """\
# Completion of calib {version}. Made by: calib completion fish
function __calib_first
  test (count (commandline -opc)) -eq 1
end
function __calib_is
  set -l words (commandline -opc)
  test (count $words) -ge 2; and test "$words[2]" = "$argv[1]"
end"""


def script(shell: str) -> str:
    """Return the completion script of a shell.

    Args:
        shell: bash, zsh or fish.
    """
    import calib
    from calib.commands.registry import COMMANDS

    words = {name: words_of(name, row) for name, row in COMMANDS.items()}
    below = subcommands()
    for name, row in COMMANDS.items():
        words[name] = sorted({*words[name], *row.forms})
    for pair, more in below.items():
        command, _, sub = pair.partition(" ")
        words[command] = sorted({*words[command], sub, *more})
    words["data"] = sorted({*words["data"], *(f"{key}=" for key in keys_of(SCHEMAS["prompt"]))})
    words["completion"] = ["--help", *SHELLS]
    if shell == "fish":
        return _fish(calib.__version__, {name: row.summary for name, row in COMMANDS.items()}, words)
    form, listed = (ZSH, "known=({})") if shell == "zsh" else (BASH, 'words="{}"')
    cases = "\n".join(f"      {name}) {listed.format(' '.join(each))} ;;" for name, each in words.items())
    return form.format(version=calib.__version__, shell=shell, commands=" ".join(words), cases=cases)


def _fish(version: str, summaries: dict[str, str], words: dict[str, list[str]]) -> str:
    lines = [FISH.format(version=version)]
    for name, summary in summaries.items():
        told = summary.replace("'", "")
        lines.append(f"complete -c calib -n __calib_first -f -a {name} -d '{told}'")
    lines += [
        f"complete -c calib -n '__calib_is {name}' -a '{' '.join(each)}'" for name, each in words.items()
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
