"""The shop: one package, a folder per service. `system.py` declares how they fit together."""
