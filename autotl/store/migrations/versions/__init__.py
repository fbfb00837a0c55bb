"""The migrations, one file each. A released migration is never edited: add a new one."""
