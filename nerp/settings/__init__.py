"""The settings of a run: keys, cards, configurations, protocols, and how a request is resolved."""
