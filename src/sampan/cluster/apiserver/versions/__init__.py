"""Kinds that are served in more than one version."""
