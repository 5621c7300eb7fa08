"""Relational databases: engines and sessions, the outbox and the inbox."""
