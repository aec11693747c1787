"""Mistakes in sources, annotations and images, and in the use of tools."""

from __future__ import annotations

from tests.bad_input import BadInput


def _train(
    group: str, mistake: str, uri: str, *says: str, more: str = "", theirs: str = ""
) -> BadInput:
    return BadInput(group, mistake, f"DATASETS.TRAIN \"('{uri}',)\"{more}", says, theirs=theirs)


def _unlabeled(group: str, mistake: str, uri: str, *says: str, more: str = "") -> BadInput:
    return BadInput(group, mistake, f"DATASETS.UNLABELED \"('{uri}',)\"{more}", says)


SOURCES = [
    _train("Sources", "an unknown scheme", "cocoo://train.json?images=train", "did you mean coco"),
    _train("Sources", "a missing file", "coco://gone.json?images=train", "gone.json", "tried"),
    _train(
        "Sources", "a missing folder of images", "coco://train.json?images=gone", "folder 'gone'"
    ),
    _train(
        "Sources", "no folder of images", "coco://train.json", "'images' is missing", "write coco"
    ),
    _train(
        "Sources", "an unknown key", "coco://train.json?image=train", "'image'", "valid: images"
    ),
    _train("Sources", "a percent sign that is no escape", "folder://50%off", "50%off", "%25"),
    _train(
        "Sources",
        "a name that is not registered",
        "coco_2017_trian",
        *("coco_2017_train", "URI"),
        theirs=r"(?<=close names: ).*?(?=\. Your own)",
    ),
    _train(
        "Sources", "images without labels as labeled", "folder://more", "folder://more", "UNLABELED"
    ),
    _unlabeled("Sources", "a missing folder", "folder://gone", "no folder 'gone'", "tried"),
    _unlabeled("Sources", "a folder without images", "folder://empty", "no image in", ".jpg"),
    _unlabeled(
        "Sources",
        "a folder of pictures that are not read",
        "folder://phone",
        *("no image in", "passed over: 2 .heic"),
    ),
    _train(
        "Sources", "a split that does not exist", "voc://voc?split=dev", "'dev'", "valid: train"
    ),
    BadInput("Sources", "no labeled set", 'DATASETS.TRAIN "()"', ("set DATASETS.TRAIN",)),
    BadInput(
        "Sources",
        "a number as the name of a set",
        'DATASETS.TEST "(1,)"',
        ("DATASETS.TEST is (1,)", "in quotes"),
    ),
    BadInput(
        "Sources",
        "no unlabeled image",
        'DATASETS.UNLABELED "()" DATASETS.LABELED_PERCENT 100',
        ("no unlabeled images", "DATASETS.UNLABELED is ()", "SSOD.ENABLED False"),
    ),
    BadInput(
        "Sources",
        "a percentage of less than one image",
        "DATASETS.LABELED_PERCENT 5",
        ("DATASETS.LABELED_PERCENT 5.0", "8 images", "12.5 percent"),
    ),
    BadInput(
        "Sources",
        "sets with different classes",
        "DATASETS.TRAIN \"('coco://train.json?images=train','coco://other.json?images=train')\"",
        ("other.json", "only the second has 'dragon'"),
    ),
]

ANNOTATIONS = [
    _train(
        "Annotations",
        "not JSON",
        "coco://broken.json?images=train",
        *("broken.json", "JSON"),
        theirs="(?<=not valid JSON: ).*",
    ),
    _train("Annotations", "no image listed", "coco://none.json?images=train", "'images' is empty"),
    _train(
        "Annotations",
        "a class that is not listed",
        "coco://category.json?images=train",
        *("category.json", "annotation 1", "category_id 77", "names [1, 2, 3]"),
    ),
    _train(
        "Annotations",
        "a box of three numbers",
        "coco://box.json?images=train",
        *("box.json", "annotation 1", "[1, 2, 3]", "[x, y, width, height]"),
    ),
    _train(
        "Annotations", "an id used twice", "coco://twice.json?images=train", "the id 1", "twice"
    ),
    _train(
        "Annotations",
        "no box of positive area",
        "coco://flat.json?images=train",
        *("none of the", "has a box", "annotations"),
        more=" DATASETS.LABELED_PERCENT 100",
    ),
    _train(
        "Annotations",
        "fractions where pixels are meant",
        "coco://fractions.json?images=train",
        *("within the first pixel", "fractions of the image's size", "multiply"),
    ),
    _train(
        "Annotations",
        "all objects marked as crowds",
        "coco://crowds.json?images=train",
        *("24 objects are crowd regions", "set 'iscrowd' to 0"),
        more=" DATASETS.LABELED_PERCENT 100",
    ),
    _train(
        "Annotations",
        "the name of a class that steers a terminal",
        "coco://escape.json?images=train",
        *("escape.json: category 1", r"'\x1b'", "rename it"),
    ),
    _train(
        "Annotations",
        "a path of a Windows machine",
        "coco://windows.json?images=train",
        *("windows.json: image 1", "Windows", "write it relative to"),
    ),
    _train(
        "Annotations",
        "label files that are called otherwise",
        "yolo://lost?split=train",
        *("none of the 1 images has a label file", "a.TXT meant", "Rename"),
    ),
    _train(
        "Annotations",
        "a list of classes in another order",
        "yolo://order",
        *(
            "order/classes.txt: class 0 is 'dog', but 'cat' by",
            "order/data.yaml",
            "correct the list",
        ),
    ),
    _train(
        "Annotations",
        "not XML",
        "voc://voc?split=train",
        *("a.xml", "cannot be read as XML"),
        theirs="(?<=read as XML: ).*",
    ),
    _train(
        "Annotations",
        "XML that grows in memory",
        "voc://bomb?split=train",
        *("a.xml", "cannot be read as XML"),
        theirs="(?<=read as XML: ).*",
    ),
]

IMAGES = [
    _train(
        "Images",
        "labeled images of no bytes",
        "coco://train.json?images=hollow",
        *("/data/hollow/", ".png", "empty", "tools/check_dataset.py"),
    ),
    _unlabeled(
        "Images",
        "one cut-off image, none allowed",
        "folder://cut",
        *("of the", "images drawn so far could not be read", "MAX_UNREADABLE_SHARE 0"),
        more=" DATALOADER.MAX_UNREADABLE_SHARE 0 DATASETS.LABELED_PERCENT 100",
    ),
    _unlabeled(
        "Images",
        "a pipe with the name of an image",
        "folder://pipe",
        *("pipe/a.jpg", "no regular file", "remove it"),
        more=" DATASETS.LABELED_PERCENT 100",
    ),
    _train(
        "Images",
        "sizes that are not those of the annotation",
        "coco://size.json?images=train",
        *("train/", ".png", "96", "640", "tools/check_dataset.py"),
    ),
    _unlabeled(
        "Images",
        "text with the name of an image",
        "folder://text",
        *("/data/text/notes.jpg", "JPEG, PNG", "tools/check_dataset.py"),
        more=" DATASETS.LABELED_PERCENT 100",
    ),
]

TOOLS = [
    BadInput(
        "Tools",
        "an analysis without a model",
        "",
        ("MODEL.WEIGHTS is empty",),
        program="tools/analyze_localization.py",
    ),
    BadInput(
        "Tools",
        "a split of less than one image",
        "'coco://train.json?images=train' --percent 1 --output split",
        ("8 images", "12.5 percent"),
        program="tools/make_split.py",
        config=None,
    ),
    BadInput(
        "Tools",
        "a conversion into a folder with files",
        "'coco://train.json?images=train' --to voc --output used",
        ("used",),
        program="tools/convert_dataset.py",
        config=None,
    ),
    BadInput(
        "Tools",
        "shards for a web server",
        "folder://more --output https://example.org/pool",
        ("https://example.org/pool", "s3://BUCKET/NAME"),
        program="tools/pack_images.py",
        config=None,
    ),
    BadInput(
        "Tools",
        "an object store as the folder of a labeling job",
        "--input more --output s3://bucket/labeled",
        ("--output", "s3://bucket/labeled", "copy it to the store when all is done"),
        program="tools/pseudo_label.py",
        config=None,
    ),
    BadInput(
        "Tools",
        "a check without a set",
        "",
        ("no set to check", "--labeled"),
        program="tools/check_dataset.py",
        config=None,
    ),
]
