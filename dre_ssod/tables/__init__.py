"""Tables of runs: which runs a table needs, how the missing ones are run, and what they tell.

``definition`` reads the YAML, ``identity`` says when a result may be used again and what runs may
share, ``filed`` keeps results, ``plan`` says what is missing; ``schedule`` runs it by
``processes``; ``statistics``, ``report`` and ``plot`` tell what came out; ``running`` is all of it.

This room may use every floor, and nothing may use it. It trains nothing: a run is the program that
it is given, started as a user would start it.
"""
