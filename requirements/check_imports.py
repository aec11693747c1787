"""Import what an install can get wrong, and say what to do where it does not work."""

from __future__ import annotations

import importlib
import sys

START_AGAIN = "run `make clean`, then install again"
CHECK_DETECTRON2 = "check the DETECTRON2 requirement given to make"
# In the order of need: whatever fails first explains what would fail after it.
REMEDIES = {
    "torch": START_AGAIN,
    "torchvision": START_AGAIN,
    "cv2": START_AGAIN,
    "faster_coco_eval": START_AGAIN,
    "detectron2.model_zoo": CHECK_DETECTRON2,
    "detectron2.modeling": CHECK_DETECTRON2,
}


def main() -> int:
    """Return 0 if every module imports, else 1 after naming the first that fails and its remedy."""
    for name, remedy in REMEDIES.items():
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"{name} does not import: {error}\n{remedy}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
