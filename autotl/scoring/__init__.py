"""Metrics and their confidence intervals, calibration, model comparison and LogME.

Pure functions of NumPy arrays; nothing here uses torch.
"""
