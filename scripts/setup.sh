# Sourced by the other scripts: a virtual environment in .venv with the package and the extras named in $1, at the
# versions of constraints.txt. Does nothing when it is there and nothing it was made from has changed.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
wanted=$(cat pyproject.toml constraints.txt | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
stamp=".venv/installed-${1:-base}-$wanted"
if [ ! -e "$stamp" ]; then
  echo "== installing stableft${1:+ with extra $1} into .venv"
  python=${PYTHON:-$(command -v python3.12 || command -v python3.11 || command -v python3)}
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${1:+[$1]}"
  touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
