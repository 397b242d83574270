"""Records: the files of a run's folder, and the display of its progress."""
