"""Changes to objects: the four patch types of the Kubernetes API, and who owns which field.

None of them mutates what it is given; results share what did not change.
"""
