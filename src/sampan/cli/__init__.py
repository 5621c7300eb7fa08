"""The command line. Commands are thin: each parses its arguments and calls into the room that does the work."""
