"""Labels as labeling programs write them: files of their own, and a folder of images.

``labels`` has what all of them share: which image an entry is of, the classes, and which images are
left unlabeled. Each other file reads one program's form and gives the entries that it finds.
"""
