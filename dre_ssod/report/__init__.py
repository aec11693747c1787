"""One HTML page about one or several runs.

``folders`` reads what run folders say, ``examined`` runs their models over their test sets,
``mistakes`` tells what the detections have found, missed and invented, ``charts`` and ``gallery``
draw, and ``page`` puts all of it into ``page.html``; ``comparison`` is a picture of what runs find.

This room may use figures, pictures and trained models, and only looks: it writes nothing into a run
folder. Names out of runs and data sets are text to it, whatever they hold.
"""
