"""The napari side: the only place that names napari, Qt and magicgui."""
