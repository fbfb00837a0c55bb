"""The built-in plugins of AutoTL, registered through the same entry points as any other."""
