"""`everest paper`: finished experiments as tables for LaTeX and Markdown, figures, and where each number is from."""
