"""What a run is asked for: keys, cards, configurations, protocols, and what they come to."""
