"""What a benchmark is: cards, layouts on disk, few-shot and base/novel selection, loading."""
