"""The network: configuration (without torch), parts, assembly and the loaded model."""
