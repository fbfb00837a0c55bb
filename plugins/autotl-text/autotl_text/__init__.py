"""Texts for AutoTL: tables and folders of texts, encoders of transformers, augmentations."""
