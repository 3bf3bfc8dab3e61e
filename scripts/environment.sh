# Sourced by the other scripts: makes .venv with the exact versions of constraints.txt and activates
# it. PYTHON names the interpreter (3.11, 3.12 or 3.13); VENV another folder.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}

is_supported() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null
}

if [ ! -x "$venv/bin/python" ]; then
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    is_supported "$python" && break
    python=
  done
  if [ -z "$python" ]; then
    echo "error: no Python 3.11, 3.12 or 3.13 with the venv module was found; install one, or name it: PYTHON=/path/to/python3" >&2
    exit 2
  fi
  "$python" -m venv "$venv"
fi
# Installed again only where what is to be installed has changed.
stamp=$(cat setup.cfg constraints.txt | cksum)
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$stamp" ]; then
  echo "installing into $venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt --editable '.[test]'
  echo "$stamp" > "$venv/installed"
fi
. "$venv/bin/activate"
