"""Inventory: what there is to buy, and how many are left."""
