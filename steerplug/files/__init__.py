"""Files and folders: where steerplug keeps things."""
