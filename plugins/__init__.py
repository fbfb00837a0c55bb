"""The plugins that come with AutoTL; they enter by the same entry points as anybody's."""
