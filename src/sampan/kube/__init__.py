"""Kubernetes as data and as a protocol. Knows neither Sampan's model nor its cluster.

Objects are plain dictionaries in their JSON shape (`objects.Object`): no class per kind, nothing to convert.
Whatever a client or a cache hands out is shared and must not be mutated: copy what you mean to change.
"""
