"""What every room may use, and what uses no room: checks, pytrees, files, messages to look at."""
