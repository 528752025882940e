# shellcheck shell=bash disable=SC2034  # the scripts that source this use its variables
# Where the private engine lives and how it is reached; sourced by start, stop and env.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
engine=${ENGINE_DIR:-$root/.engine}
bin=$engine/root/usr/bin
socket=$engine/docker.sock
# The port of the registry that runs, or is to run.
registry_port=${ENGINE_REGISTRY_PORT:-$(cat "$engine/registry.port" 2>/dev/null || echo 5005)}
# A mirror's hiccup, or another apt at work, is no reason to give up.
apt_patience=(-o Acquire::Retries=5 -o DPkg::Lock::Timeout=300)

die() {
  printf 'engine: %s\n' "$1" >&2
  exit 3
}

say() { printf 'engine: %s\n' "$1" >&2; }

# The pid in a file, if that process still runs the program it was started as (a pid may be reused).
running_pid() { # FILE PROGRAM
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 1
  [[ $(readlink "/proc/$pid/exe" 2>/dev/null) == "$engine"/root/*/"$2" ]] && echo "$pid"
}

# Waits until a command succeeds, at most SECONDS.
wait_for() { # SECONDS COMMAND…
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# Runs a command that uses the network, three times at most.
retry() { # COMMAND…
  "$@" || { sleep 5 && "$@"; } || { sleep 20 && "$@"; }
}

# An engine that somebody else runs: at least version 23, with buildx. Its settings are never touched.
other_engine_answers() {
  local version
  command -v docker >/dev/null || return 1
  # A machine that pauses is no engine that is gone: beside one that answers late another would be started.
  version=$(timeout 60 docker version --format '{{.Server.Version}}' 2>/dev/null) || return 1
  [[ ${version%%.*} =~ ^[0-9]+$ ]] && ((${version%%.*} >= 23)) && docker buildx version >/dev/null 2>&1
}

# The address of the Debian mirror that this machine uses.
debian_mirror() {
  local mirror
  mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p' \
    /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null | head -n 1) || true
  [[ -n $mirror ]] || die "no Debian mirror in /etc/apt; install Docker Engine >= 23 with buildx by hand"
  echo "$mirror"
}
