"""Jobs: tasks that are optimised on a schedule, each with a champion, its candidate in use."""
