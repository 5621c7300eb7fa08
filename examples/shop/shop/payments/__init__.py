"""Payments: charge a card once per order."""
