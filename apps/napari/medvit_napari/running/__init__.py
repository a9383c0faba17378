"""Running bundles in the background."""
