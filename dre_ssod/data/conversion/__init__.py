"""Labeled datasets written in another form.

``coco_content`` has any dataset, or the parts of its split, as the content of COCO files;
``convert`` writes the COCO, YOLO and VOC ``layouts``, and what labeling ``programs`` read, after a
``plan``; ``packing`` writes tar files.

What is written here is read back by ``sources`` as the same classes, images and boxes in the same
order; what a form has no place for is counted, never lost in silence. Outlines that ``sources``
read as boxes, as those of YOLO files and labeling programs, are boxes here: nothing knows them.
"""
