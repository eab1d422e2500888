"""The data that a correction has looked at, and the caveats that go with its numbers."""

from collections.abc import Iterable

NOTHING = "nothing"
TRAINING_IMAGES = "training images"
TRAINING_LABELS = "training labels"
SEEN_IMAGES = "test images already seen"
TEST_IMAGES = "test images"
TEST_LABELS = "test labels"
UNKNOWN = "unknown"

# From what needs least caution to what needs most; unknown data may include test labels.
ORDER = (
    NOTHING, TRAINING_IMAGES, TRAINING_LABELS, SEEN_IMAGES, TEST_IMAGES, UNKNOWN, TEST_LABELS
)

CAVEATS = {SEEN_IMAGES: "in a stream", TEST_IMAGES: "transductive", TEST_LABELS: "upper bound"}
# The mark beside a number.
MARKS = {SEEN_IMAGES: "s", TEST_IMAGES: "†", UNKNOWN: "§", TEST_LABELS: "‡"}


def with_caveat(looked_at: str) -> str:
    """What was looked at, with the caveat this puts on a number: "test images (transductive)"."""
    return f"{looked_at} ({CAVEATS[looked_at]})" if looked_at in CAVEATS else looked_at


def most(looked_at: Iterable[str]) -> str:
    """The most serious of several, which has to be said of all of them together."""
    return max(looked_at, key=ORDER.index, default=NOTHING)
