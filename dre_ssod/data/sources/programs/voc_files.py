"""XML files as PASCAL VOC has them, beside their images or in a folder of their own."""

from __future__ import annotations

from dre_ssod.data.remarks import Remarks
from dre_ssod.data.sources.folder import list_files
from dre_ssod.data.sources.programs.labels import Entry, ImageFiles, Labels, Options
from dre_ssod.data.sources.voc import read_annotation, read_label_map, read_object, size_in
from dre_ssod.errors import SourceError
from dre_ssod.stores import Place


def read_voc_files(folder: Place, images: ImageFiles, options: Options, remarks: Remarks) -> Labels:
    """Labels of the XML files under ``folder``, each of the image that has its name.

    The classes are those of ``labelmap.txt`` in the folder, if there is one.

    Raises:
        SourceError: if there is no such file, or one cannot be read.
    """
    names = list_files(folder, (".xml",))
    if not names:
        raise SourceError(
            f"{folder}: there is no XML file here or below; name the folder that has them, as in "
            "voc://images?annotations=annotations"
        )
    entries = []
    for name, image in images.of_labels(folder, names).items():
        path = folder / name
        if image is None:
            entries.append(Entry(str(path), None, None, []))
            continue
        tree = read_annotation(path)
        objects = [
            read_object(item, path, options.first_pixel, remarks) for item in tree.findall("object")
        ]
        entries.append(Entry(str(path), image, size_in(tree, path), objects))
    return Labels(entries, read_label_map(folder / "labelmap.txt"))
