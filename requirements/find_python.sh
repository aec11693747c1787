# Prints "VERSION PATH" of the interpreter that .venv is to be made with.
# usage: sh find_python.sh [PYTHON]
# Without PYTHON: the one that .venv already has, else the first suitable one on the PATH.

requested=$1
probe='import platform, sys
print(platform.python_version() + " " + getattr(sys, "_base_executable", sys.executable))'
seen=

try() {
    # A command that is found can still fail to run (a version manager's shim), so it is run.
    found=$("$1" -c "$probe" 2>/dev/null) || return 1
    case $found in
        3.10.* | 3.11.*) echo "$found"; exit 0 ;;
    esac
    seen="$seen
  $1 is Python ${found%% *}"
}

if [ -n "$requested" ]; then
    try "$requested"
    echo "PYTHON=$requested does not give Python 3.10 or 3.11:${seen:- it does not run}" >&2
else
    for candidate in .venv/bin/python python3.11 python3.10 python3 python; do
        try "$candidate"
    done
    echo "No Python 3.10 or 3.11 found. Tried python3.11, python3.10, python3, python.$seen" >&2
fi
echo "Install one of the two, or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
