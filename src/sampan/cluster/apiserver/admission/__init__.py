"""Admission by others than the server itself: webhooks and policies. `gate.py` is where the pipeline meets them.

Nothing but the gate is imported until a configuration exists, and a write without one costs a look at an empty table.
"""
