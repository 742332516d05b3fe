"""Figures and widgets: functions from tables and images to a `Figure` or a view. They train nothing."""
