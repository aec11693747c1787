"""What can be said about the datasets of a run before it starts.

``files`` checks image files, ``sets`` holds records and figures, ``findings`` looks for problems,
``kinds`` is the table of what can be wrong and what to do, ``report`` prints; ``audit`` joins them.

The audit reads sets as training does, through ``sources``. It changes nothing, and whatever a
dataset holds becomes a finding, not an exception.
"""
