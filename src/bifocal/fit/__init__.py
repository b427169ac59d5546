"""How experts and fusions learn, and what is kept of them: each encoder runs once per example."""
