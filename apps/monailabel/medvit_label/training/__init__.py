"""Fine-tuning on the labels of a project."""
