"""The search space: plugins, their hyperparameters and settings, and configurations of them."""
