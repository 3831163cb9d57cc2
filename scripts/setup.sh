# Sourced by the other scripts: a virtual environment in .venv with the package and the extras named in $1, at the
# versions of constraints.txt. Does nothing when it is there and nothing it was made from has changed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wanted=$(cat pyproject.toml constraints.txt | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
stamp=".venv/installed-${1:-base}-$wanted"
if [ ! -e "$stamp" ]; then
  echo "== installing stableft${1:+ with extra $1} into .venv"
  for python in "${PYTHON:-python3.12}" python3.11 python3; do
    [ -x .venv/bin/pip ] && break
    # A name on the PATH need not be a Python that runs, nor one that is new enough.
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv .venv
    fi
  done
  [ -x .venv/bin/pip ] || { echo "stableft needs Python 3.11 or 3.12; PYTHON=/path/to/python names one" >&2; exit 1; }
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${1:+[$1]}"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
