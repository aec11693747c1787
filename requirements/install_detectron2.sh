# Installs Detectron2 beside a PyTorch that is already there.
# usage: sh install_detectron2.sh VENV_PYTHON [REQUIREMENT]

set -e
python=$1
requirement=$2
here=$(dirname "$0")

# Two distributions carry the same package, so what an earlier call installed goes first. Their
# scripts of the name `tools` go too: as a package in site-packages they would hide the project's own.
"$python" -m pip uninstall --quiet --quiet --yes sal-detectron2 detectron2
site_packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

if [ -n "$requirement" ]; then
    # Detectron2's setup.py imports torch, which an isolated build would not see.
    "$python" -m pip install $PIP_FLAGS --no-build-isolation \
        --constraint "$here/base.txt" --constraint "$here/dev.txt" \
        --constraint "$here/detectron2.txt" "$requirement"
else
    # The wheel is labelled for CPython 3.10, but its Python code runs on later ones as well; the
    # compiled operators inside load on none, and none of them is needed here. It asks for numpy<2, but
    # runs with the pinned version: hence no dependencies.
    "$python" -m pip install $PIP_FLAGS --target "$site_packages" --upgrade --python-version 3.10 \
        --only-binary=:all: --no-deps sal-detectron2==0.7.2
fi
rm -rf "$site_packages/tools"
