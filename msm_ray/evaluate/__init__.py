"""Evaluation: tasks and scorers (pure), statistics (pure), warm vLLM engines, serving."""
