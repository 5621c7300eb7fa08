"""Small programs that prepare a server before running it, as the entry scripts of its container image do."""
