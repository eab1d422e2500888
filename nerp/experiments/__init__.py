"""Experiments: which runs an experiment consists of, in what order, and how they are executed.

`catalogue` reads configs/experiments.yaml, `plan` makes the list of runs, `attempt` executes one as
a process of its own, `workers` says where, `sweep` drives them all, `status` reports. Nothing here
imports torch; the runs do.
"""
