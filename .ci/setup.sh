# Sourced by demo and test: a virtual environment in .venv, and Debian packages where we have the rights.

# The one torch that these scripts install: a newer one is a download of gigabytes on every release.
torch="torch==2.13.0"

say() { printf '== %s\n' "$*"; }

# Install Debian packages as root or by sudo without a password; fail without either.
install_packages() {
    local as_root=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    "${as_root[@]}" apt-get update -qq </dev/null &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

# Print the packages of a list that are not installed.
missing_packages() {
    local package
    if ! command -v dpkg-query >/dev/null; then  # another system: Xvfb stands for the rest
        command -v xvfb-run >/dev/null || printf '%s ' "$@"
        return
    fi
    for package in "$@"; do
        # Newer Debian and Ubuntu call some libraries NAMEt64, and apt-get knows them by the old name too.
        case $(dpkg-query -W -f '${Status};' "$package" "${package}t64" 2>/dev/null) in
            *"ok installed"*) ;;
            *) printf '%s ' "$package" ;;
        esac
    done
}

# Print a Python of at least 3.11.
find_python() {
    local python
    for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$python"
            return
        fi
    done
    say "Python 3.11 or newer is needed; none was found. Name one: PYTHON=/path/to/python3 bash .ci/..." >&2
    return 1
}

make_venv() {
    [ -x .venv/bin/pip ] && return
    local python
    python=$(find_python) || return 1
    if ! "$python" -c 'import ensurepip' 2>/dev/null && ! install_packages python3-venv; then
        say "Python's venv module is needed: apt-get install python3-venv (as root), then run this again." >&2
        return 1
    fi
    say "virtual environment .venv"
    "$python" -m venv .venv
}
