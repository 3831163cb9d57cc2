# Sourced by the other scripts: a virtual environment in .venv with the package and the extras named in $1, at the
# versions of constraints.txt. Does nothing when it is there and nothing it was made from has changed.
#   PYTHON=/path/to/python   the interpreter; else python3.12, python3.11 or python3, the first that runs
#   TORCH_INDEX=address      a package index for torch alone, such as PyTorch's CPU index (see pytorch.org)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -n "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then
  version='import sys; print(sys.version_info[:2])'
  if [ "$("$PYTHON" -c "$version")" != "$(.venv/bin/python -c "$version")" ]; then
    echo "PYTHON=$PYTHON is another version than .venv has; remove .venv or leave PYTHON out" >&2
    exit 1
  fi
fi
wanted=$(cat pyproject.toml constraints.txt | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
stamp=".venv/installed-${1:-base}-$wanted"
if [ ! -e "$stamp" ]; then
  echo "== installing stableft${1:+ with extra $1} into .venv"
  if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); else candidates=(python3.12 python3.11 python3); fi
  for python in "${candidates[@]}"; do
    [ -x .venv/bin/pip ] && break
    # A name on the PATH need not be a Python that runs, nor one that is new enough.
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv .venv
    fi
  done
  [ -x .venv/bin/pip ] || { echo "stableft needs Python 3.11 or 3.12; PYTHON=/path/to/python names one" >&2; exit 1; }
  pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt)
  [ -z "${TORCH_INDEX:-}" ] || "${pip[@]}" --index-url "$TORCH_INDEX" torch
  for old in .venv/installed-*; do [[ $old == *-"$wanted" ]] || rm -f "$old"; done # versions that this replaces
  "${pip[@]}" -e ".${1:+[$1]}"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
