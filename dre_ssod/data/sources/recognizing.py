"""Which labeling program a file is of that was named as a COCO file."""

from __future__ import annotations

from typing import Any

from dre_ssod.data.sources.uri import URI_FORMS

_STARTS = {"<annotations": "cvat", "<annotation": "voc"}
"""Root elements of XML files, the longer one first."""


def scheme_of_text(text: str) -> str | None:
    """The scheme that reads a file which is no JSON; None if it is not known."""
    if not text.lstrip().startswith("<"):
        return None
    return next((scheme for start, scheme in _STARTS.items() if start in text), None)


def scheme_of_json(content: Any) -> str | None:
    """The scheme that reads a file with this content; None for COCO's and what is not known."""
    if isinstance(content, list):
        tasks = [item for item in content if isinstance(item, dict)]
        exported = any("data" in item or "annotation_id" in item for item in tasks)
        return "labelstudio" if exported else None
    if not isinstance(content, dict) or "images" in content:
        return None
    if "shapes" in content and "imagePath" in content:
        return "labelme"
    images = content.get("_via_img_metadata", content)
    entries = images.values() if isinstance(images, dict) else ()
    is_via = any(
        isinstance(item, dict) and {"filename", "regions"} <= item.keys() for item in entries
    )
    return "via" if is_via else None


def advice(scheme: str | None) -> str:
    """What to add to a message: the URI that reads the file; nothing if it is not known."""
    return "" if scheme is None else f". It looks like one for {URI_FORMS[scheme]}"
