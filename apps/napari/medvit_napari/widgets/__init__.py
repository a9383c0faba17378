"""Qt widgets of the plugin."""
