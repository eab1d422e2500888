"""Experiments: which runs make one up, in what order, and how they are carried out.

`catalogue` reads configs/experiments.yaml, `plan` makes the list of runs, `attempt` carries one out
as a process of its own, `workers` says where, `sweep` drives them all, `status` looks on.
Nothing here imports torch: the runs do.
"""
