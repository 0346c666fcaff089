"""Jobs: a task that is optimised again on a calendar, and the champion that each of them owns."""
