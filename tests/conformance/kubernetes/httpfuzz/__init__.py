"""Requests no client should send, to every route the server has: what must hold is that it answers, and stays well."""
