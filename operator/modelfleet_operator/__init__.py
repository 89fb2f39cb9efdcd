"""The control plane: reads ModelDeployments, decides, acts. It never imports torch."""
