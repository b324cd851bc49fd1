"""The emulated ``chat_completion_pipeline``: its specification and its five steps, each a child process that does the real work."""
