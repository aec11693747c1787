"""How a program starts, talks to its processes, and ends.

``program`` turns errors that a user can put right into a paragraph and an exit code, ``processes``
starts the processes of a run or joins those of torchrun, ``signals`` notes what a run is asked to
do, ``slurm`` has programs run in jobs that are requeued.

This room may use the errors and the allocator. It knows no config and nothing of what a program
does: that is a function that it calls.
"""
