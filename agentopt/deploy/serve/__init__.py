"""Serves a candidate behind the OpenAI API: `TASK` is the whole workflow, `TASK/SUBTASK` one subtask."""
