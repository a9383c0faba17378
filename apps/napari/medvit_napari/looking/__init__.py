"""Display of layers: views, contrast, segments and frames."""
