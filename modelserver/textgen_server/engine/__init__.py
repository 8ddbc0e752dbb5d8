"""The mind: who runs when, and which blocks they hold. No torch, no HTTP, no text."""
