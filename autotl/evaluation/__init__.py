"""Evaluation of a model: scores, misclassified images, label issues and saliency maps."""
