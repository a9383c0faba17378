"""The annotation server: MONAI Label's protocol in front of medvit's own pipeline."""
