"""A model's boxes on any number of images, for a person to correct, and what comes back.

A job on disk (``labeling_job``, ``label_manifest``) is filled by ``bulk_labeling`` and merged by
``label_merge``; ``uncertainty`` chooses what is to be labeled next, ``label_tasks`` hands it to a
labeling program, and ``corrected_labels`` joins what returns. ``simulation``
stands in for the person.
"""
