"""What steering costs: tasks with an answer, fluency, and any task of lm-evaluation-harness, steered and not."""
