#!/bin/sh
# Create the virtual environment of a checkout, or complete it. Usage: tools/bootstrap.sh VENV [STACK]
#
# VENV is the folder (.venv); STACK is cpu or cu112, by default the one that VENV has, else cpu.
# PYTHON=... chooses the interpreter; otherwise python3.11, 3.10, 3.9, 3.8 and 3.12 are tried, then
# python3, python and pyenv's versions.
# VENV/.ready holds what the environment was made from and is written last, so an interrupted
# installation never looks ready. Exit codes: 0 ready, 1 installation failed, 2 no suitable Python.
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
ready=$venv/.ready
chosen=$venv/.python # the PYTHON=... it was made with
stack=${2:-$(sed -n '1s/ .*//p' "$ready" 2>/dev/null || true)}
stack=${stack:-cpu}

say() { printf '%s\n' "$*" >&2; }
die() { code=$1; shift; say "$*"; exit "$code"; }

case $stack in
    cpu) requirements=requirements.txt ;;
    cu112) requirements="requirements-cu112.txt" ;;
    *) die 2 "STACK=$stack: valid are cpu and cu112." ;;
esac

# Everything that the environment is made from; the folder, because it is written into it.
recipe() {
    echo "$stack $PWD"
    cksum requirements*.txt constraints.txt tools/bootstrap.sh
}
same_python() { [ -z "${PYTHON:-}" ] || [ "$PYTHON" = "$(cat "$chosen" 2>/dev/null)" ]; }
is_ready() {
    [ -x "$venv/bin/python" ] && [ "$(cat "$ready" 2>/dev/null)" = "$(recipe)" ] && same_python
}

is_ready && exit 0

# Two calls at a time (make in two windows): the second waits here and then finds it done.
if command -v flock >/dev/null 2>&1; then
    exec 9<tools/bootstrap.sh
    flock 9
    is_ready && exit 0
fi

# Print what an interpreter can do: venv, virtualenv, none MINOR (no way to make an environment),
# unfit TEXT. Prints nothing if it does not run at all (pyenv's shims of inactive versions).
probe='
import importlib.util as u, platform, sys
v = sys.version_info
fit = sys.implementation.name == "cpython" and (3, 8) <= v[:2] <= (3, 12)
place = platform.system() + " " + platform.machine()
if not fit: print("unfit", sys.version.split()[0])
elif place != "Linux x86_64": print("unfit", place)
elif u.find_spec("venv") and u.find_spec("ensurepip"): print("venv")
elif u.find_spec("virtualenv"): print("virtualenv")
else: print("none", v[1])
'

python='' maker='' lacking=''
consider() {
    answer=$("$1" -c "$probe" 2>/dev/null) || return 0
    case $answer in
        venv | virtualenv) python=$1 maker=$answer ;;
        none*) lacking=${lacking:-${answer#none }} ;;
    esac
}

if [ -n "${PYTHON:-}" ]; then
    consider "$PYTHON"
    if [ -z "$python" ] && [ -z "$lacking" ]; then
        die 2 "PYTHON=$PYTHON is not a CPython 3.8-3.12 for x86-64 Linux that runs."
    fi
else
    for name in python3.11 python3.10 python3.9 python3.8 python3.12 python3 python; do
        [ -n "$python" ] || consider "$name"
    done
    for minor in 11 10 9 8 12; do
        for path in "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/3.$minor".*/bin/python; do
            [ -n "$python" ] || consider "$path"
        done
    done
fi
if [ -z "$python" ] && [ -n "$lacking" ]; then
    die 2 "Python 3.$lacking cannot make virtual environments: apt-get install python3.$lacking-venv, then run make again."
elif [ -z "$python" ]; then
    die 2 "No suitable Python: install CPython 3.8-3.12 for x86-64 Linux (best 3.11; Debian 12: apt-get install python3 python3-venv), or name one with PYTHON=/path/to/python3.11."
fi

# No half-made environment is built upon, nor one of another interpreter or stack.
if [ ! -f "$ready" ] || [ "$(head -n 1 "$ready")" != "$stack $PWD" ] || ! same_python; then
    rm -rf "$venv"
fi
rm -f "$ready"

started=$(date +%s)
say "Setting up $venv with $("$python" --version 2>&1) ($python) from $requirements; this takes a minute or two ..."
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m "$maker" "$venv" || die 1 "$python -m $maker $venv failed (see above)."
    printf '%s\n' "${PYTHON:-}" >"$chosen"
fi

quiet=-q
[ -t 1 ] && quiet=
errors=$venv/install-errors.log
install() {
    "$venv/bin/python" -m pip --disable-pip-version-check install $quiet --only-binary :all: "$@"
}
if ! { install -r "$requirements" -r requirements-test.txt &&
    install --no-deps -r requirements-downstream.txt; } 2>"$errors"; then
    grep '^ERROR' "$errors" >&2 || tail -n 5 "$errors" >&2
    die 1 "pip could not install $requirements. Without a network, point PIP_INDEX_URL at a mirror or PIP_FIND_LINKS at a folder of wheels; then run make again (all of pip's messages: $errors)."
fi

# The checkout itself: importable from anywhere in this environment, edits take effect at once.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
printf '%s\n' "$PWD" >"$site/gluon_attn_checkout.pth"
# The command, as pip writes it where the path of a Python may have spaces.
case $venv in /*) bin=$venv/bin ;; *) bin=$PWD/$venv/bin ;; esac
cat >"$bin/gluon-attn" <<END
#!/bin/sh
'''exec' "$bin/python" "\$0" "\$@"
' '''
from gluon_attn.cli.main import main

main()
END
chmod +x "$bin/gluon-attn"

# A bare Debian lacks libraries that MXNet's wheel expects; other wheels here bring them.
"$venv/bin/python" -m gluon_attn.runtime --link-libraries >&2 || true
if ! "$venv/bin/python" -m gluon_attn.runtime >"$venv/doctor.log" 2>&1; then
    cat "$venv/doctor.log" >&2
    die 1 "The packages are installed, but the environment check failed; see the lines marked 'fail' above."
fi
recipe >"$ready.part"
mv "$ready.part" "$ready"
say "$venv is ready ($(($(date +%s) - started)) s)."
