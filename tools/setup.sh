# shellcheck shell=bash
# What run, test, check and build share: the project's own virtual environment and its compiled modules.
#
# Theory. Two stamps say what is in place: .venv/.stamp names the pins that were installed, build/.stamp
# the sources that were compiled. Equal stamps are the whole fast path: a few digests, no Python. While a
# step runs its mark (.unfinished) stands beside its stamp; a mark found at the start means that the step
# was killed halfway, and it is done again from nothing. A step that fails by itself takes its mark away:
# pip and the compiler leave nothing half done then, and an environment that worked still does.
# One lock keeps two of these apart. Everything said goes to stderr: stdout belongs to the command.
set -euo pipefail

root=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
environment=$root/.venv
python=$environment/bin/python
pins=$root/tools/requirements.txt

# Debian's names of what pip cannot bring. libc6-dev is only a recommendation of gcc.
packages_build=(gcc libc6-dev libssl-dev python3 python3-dev python3-venv)
commands_test=(chromium:chromium curl:curl node:nodejs npm:npm openssl:openssl strace:strace)  # command:package, of what the tests call

say() { printf 'otagate: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# -- the machine -----------------------------------------------------------------------------------

# Says why this interpreter cannot be used; nothing if it can. Runs it: a pyenv shim may be there and dead.
# Looks for the headers of this very interpreter, and for ensurepip: Debian has `venv` without it.
python_defect() {
    local verdict
    verdict=$("$1" - 2>/dev/null <<'PYTHON'
import os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
    print("is not CPython 3.11 or newer")
elif not os.path.exists(header):
    print("has no headers:", header, "is missing")
else:
    try:
        import ensurepip, venv
    except ImportError:
        print("cannot make virtual environments: no ensurepip")
    else:
        print("good")
PYTHON
    ) || verdict="does not run"
    [[ $verdict == good ]] || printf '%s\n' "${verdict:-is no Python}"
}

# Prints the interpreter to use: $OTAGATE_PYTHON, or the first good one on the PATH.
choose_python() {
    local name candidate
    if [[ -n ${OTAGATE_PYTHON-} ]]; then
        printf '%s\n' "$OTAGATE_PYTHON"
        return
    fi
    for name in python3.13 python3.12 python3.11 python3; do
        while read -r candidate; do
            if [[ -z $(python_defect "$candidate") ]]; then
                printf '%s\n' "$candidate"
                return
            fi
        done < <(type -aP "$name")
    done
    return 1
}

compiler_works() { printf '#include <stdlib.h>\n#include <openssl/evp.h>\n' | gcc -E -x c - >/dev/null 2>&1; }

# Installs Debian packages as root; otherwise names them and stops.
install_packages() {
    command -v apt-get >/dev/null || die "missing on this machine, by Debian's names: $*"
    ((EUID == 0)) || die "missing on this machine; as root: apt-get install $*"
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update </dev/null >&2 || die "apt-get update failed"
    apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@" \
        </dev/null >/dev/null || die "apt-get could not install $*"
}

need_build_packages() {
    local defect=''
    [[ -z ${OTAGATE_PYTHON-} ]] || defect=$(python_defect "$OTAGATE_PYTHON")
    [[ -z $defect ]] || die "OTAGATE_PYTHON=$OTAGATE_PYTHON $defect"
    if ! compiler_works || ! { environment_usable || choose_python >/dev/null; }; then
        install_packages "${packages_build[@]}"
        compiler_works || die "gcc does not find openssl/evp.h, although libssl-dev is installed"
    fi
}

need_test_commands() {
    local pair missing=()
    for pair in "${commands_test[@]}"; do
        command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
    done
    ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}

# -- steps: lock, mark, stamp ----------------------------------------------------------------------

# locked FUNCTION: runs it in a subshell that holds the lock; its children hold it too, so that an orphaned
# pip or gcc still keeps the next one waiting. An interrupt ends the step with its mark standing.
locked() {
    mkdir -p "$root/build"
    (
        flock 9
        trap 'exit 130' INT TERM HUP
        "$1" >&2
    ) 9>"$root/build/.lock"
}

digest() { sha256sum | cut -d ' ' -f 1; }

# -- the environment -------------------------------------------------------------------------------

# Made in this very folder (a moved one still points to the old), with the wanted Python, and alive.
environment_usable() {
    [[ ! -e $environment/.unfinished && -x $python ]] || return 1
    [[ $(sed -n 's/^command = .* -m venv //p' "$environment/pyvenv.cfg") == "$environment" ]] || return 1
    [[ -z ${OTAGATE_PYTHON-} || $(home_of "$OTAGATE_PYTHON") == $(home_of "$python") ]] || return 1
    [[ -z $(python_defect "$python") ]]
}

# The folder of the interpreter behind it, which two environments of one Python share.
home_of() { "$1" -c 'import os, sys; print(os.path.dirname(sys._base_executable))' 2>/dev/null; }

environment_wanted() { { cat "$pins" && printf '%s\n' "$environment"; } | digest; }

# The second line of the stamp is the OTAGATE_PYTHON it was made with: another one wants another environment.
environment_current() {
    local wanted=$1 installed='' chosen=''
    [[ -x $python && ! -e $environment/.unfinished && -e $environment/.stamp ]] || return 1
    { read -r installed && read -r chosen; } <"$environment/.stamp" || true
    [[ $installed == "$wanted" && (-z ${OTAGATE_PYTHON-} || $OTAGATE_PYTHON == "$chosen") ]]
}

make_environment() {
    local wanted base
    wanted=$(environment_wanted)
    ! environment_current "$wanted" || return 0
    need_build_packages
    if ! environment_usable; then
        base=$(choose_python) || die "no CPython 3.11 or newer with headers and venv; name one in OTAGATE_PYTHON"
        say "making .venv with $base (once; under a minute)"
        rm -rf "$environment"
        mkdir "$environment"
        touch "$environment/.unfinished"
        "$base" -m venv "$environment" || die "$base could not make a virtual environment"
    fi
    touch "$environment/.unfinished"
    if ! "$python" -m pip install -qq --no-input --disable-pip-version-check --no-deps -r "$pins"; then
        rm "$environment/.unfinished"
        die "pip could not install what tools/requirements.txt names"
    fi
    install_project
    printf '%s\n%s\n' "$wanted" "${OTAGATE_PYTHON-}" >"$environment/.stamp"
    rm "$environment/.unfinished"
}

# The project is used where it stands: its src/ on the path, and the command beside the interpreter.
install_project() {
    local site
    site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' "$root/src" >"$site/otagate.pth"
    cat >"$environment/bin/otagate" <<'COMMAND'
#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/python" -P -m otagate "$@"
COMMAND
    chmod +x "$environment/bin/otagate"
}

# -- the compiled modules --------------------------------------------------------------------------

# Two lines: a change of the first (how it is compiled) forces all, of the second only what is newer.
build_wanted() {
    cd "$root"
    {
        cat setup.py
        grep -i '^cython==' "$pins"
        grep '^version' "$environment/pyvenv.cfg"
        printf '%s\n' "${OTAGATE_ASAN-}" "${OTAGATE_TRACE-}"
    } | digest
    find pyproject.toml ext -type f ! -name '*.c' ! -name '*.html' -print0 | LC_ALL=C sort -z |
        xargs -0 sha256sum | digest
}

build_current() {
    local source
    [[ ! -e $root/build/.unfinished && -e $root/build/.stamp ]] || return 1
    [[ $(<"$root/build/.stamp") == "$1" ]] || return 1
    while read -r source; do
        compgen -G "$root/src/${source%.pyx}.cpython-*.so" >/dev/null || return 1
    done < <(find "$root/ext" -name '*.pyx' -printf '%P\n')
}

build_if_changed() { build_current "$(build_wanted)" || build; }

# What no .pyx stands behind any more would shadow the Python module of that name.
remove_orphans() {
    local module stem
    while read -r module; do
        stem=${module%%.cpython-*}
        [[ -e $root/ext/$stem.pyx ]] || rm -v "$root/src/$module"
    done < <(find "$root/src" -name '*.cpython-*.so' -printf '%P\n')
}

build() {
    local wanted force=()
    need_build_packages
    cd "$root"
    wanted=$(build_wanted)
    if [[ -e build/.unfinished || ! -e build/.stamp || $(head -n 1 build/.stamp) != "${wanted%%$'\n'*}" ]]; then
        force=(--force)
        export CYTHON_FORCE_REGEN=1
    fi
    say "compiling"
    touch build/.unfinished
    remove_orphans
    if ! "$python" setup.py -q build_ext --inplace --parallel "$(nproc)" ${force[@]+"${force[@]}"}; then
        rm build/.unfinished
        die "the modules in ext/ could not be compiled"
    fi
    printf '%s\n' "$wanted" >build/.stamp
    rm build/.unfinished
}

# -- what the tools call ---------------------------------------------------------------------------

ensure_environment() { environment_current "$(environment_wanted)" || locked make_environment; }

ensure_built() {
    ensure_environment
    build_current "$(build_wanted)" || locked build_if_changed
}

# The WebSocket client of npm that drives the gateway in tests, in build/npm. It works if a copy of the lock
# stands beside it: that is the last thing to come.
npm_from=$root/tests/end_to_end/npm
npm_to=$root/build/npm

install_npm_packages() {
    rm -rf "$npm_to"
    mkdir -p "$npm_to"
    cp "$npm_from"/package.json "$npm_from"/package-lock.json "$npm_to"
    (cd "$npm_to" && npm ci --silent --no-audit --no-fund --ignore-scripts) || die "npm ci failed"
    cp "$npm_from/package-lock.json" "$npm_to/.installed"
}

ensure_npm_packages() {
    cmp -s "$npm_from/package-lock.json" "$npm_to/.installed" || locked install_npm_packages
}

check_style_and_types() {
    cd "$root"
    "$environment/bin/ruff" check --quiet .
    "$environment/bin/ruff" format --quiet --check . || die "not formatted; do: .venv/bin/ruff format ."
    "$environment/bin/mypy" --no-error-summary
}
