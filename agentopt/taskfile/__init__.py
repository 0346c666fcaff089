"""A task's folder, read: `task.yaml`, the data, and the functions that it names."""
