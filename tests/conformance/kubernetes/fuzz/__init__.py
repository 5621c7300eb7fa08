"""The differential fuzzer: the same random operations on both API servers, and every answer compared.

    python -m tests.conformance.kubernetes.fuzz --operations 100000 --seed 1

`generate.py` makes the operations, `compare.py` says when two answers are the same, `run.py` runs them. Neither side
has controllers: nothing changes but by what is asked.
"""
