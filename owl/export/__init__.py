"""Notebook 04: folders a user ships, each reloaded and measured; advice."""
