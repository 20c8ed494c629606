"""Training from the head model: recipes, losses, the loop, checkpoints, export."""
