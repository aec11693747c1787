# Prints "VERSION PATH" of the interpreter that .venv is to be made with.
# usage: sh find_python.sh [PYTHON]
# Without PYTHON: the one that .venv already has, else the newest suitable one on the PATH.

# Newest first.
suitable="3.14 3.13 3.12 3.11 3.10"
requested=$1
probe='import platform, sys
print(platform.python_version() + " " + getattr(sys, "_base_executable", sys.executable))'
seen=

try() {
    # A command that is found can still fail to run (a version manager's shim), so it is run.
    found=$("$1" -c "$probe" 2>/dev/null) || return 1
    lack=
    for version in $suitable; do
        case $found in "$version".*)
            # Debian has it in a package of its own.
            "$1" -c 'import ensurepip, venv' 2>/dev/null && echo "$found" && exit 0
            lack=", but without the module venv: install python3-venv" ;;
        esac
    done
    seen="$seen
  $1 is Python ${found%% *}$lack"
}

if [ -n "$requested" ]; then
    try "$requested"
    echo "PYTHON=$requested does not give Python 3.10 to 3.14:${seen:- it does not run}" >&2
else
    for candidate in .venv/bin/python $(printf 'python%s ' $suitable) python3 python; do
        try "$candidate"
    done
    echo "No Python 3.10 to 3.14 found. Tried python3.14 down to python3.10, python3, python.$seen" >&2
fi
echo "Install one of them, or name it: make PYTHON=/path/to/python3.13" >&2
exit 1
