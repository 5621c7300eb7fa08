"""The Common Expression Language as the API server uses it: typed where a schema is known, with Kubernetes' libraries.

`syntax.py` reads, `compiler.py` checks types and makes closures, `library.py` holds the functions as rows. Nothing here
is imported before the first expression is met. A compiled program is pure; a budget bounds how long it may run.
"""

from sampan.cluster.apiserver.cel.compiler import Program, compile_program
from sampan.cluster.apiserver.cel.syntax import SyntaxFault
from sampan.cluster.apiserver.cel.types import BOOL, DYN, INT, STRING, Type, list_of, map_of
from sampan.cluster.apiserver.cel.values import EvaluationFault

__all__ = [
    "BOOL", "DYN", "INT", "STRING", "EvaluationFault", "Program", "SyntaxFault", "Type", "compile_program", "list_of",
    "map_of",
]  # fmt: skip
