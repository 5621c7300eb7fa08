"""Caches: in the process, over the Redis protocol, and the one in front of the other."""
