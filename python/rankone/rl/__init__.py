"""Reinforcement learning: exploration, bandits, adversarial losses, with exact planning."""
