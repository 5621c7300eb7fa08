"""Orders: takes them, and follows each to its end."""
