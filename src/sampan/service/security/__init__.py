"""Who calls (authenticators), what they may do (authorization), and the record of it (audit)."""
