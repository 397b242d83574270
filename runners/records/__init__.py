"""Records: what a run leaves in its folder, and what it shows while it goes on."""
