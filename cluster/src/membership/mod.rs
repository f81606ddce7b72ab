//! Which members vote, and when a joining member becomes active.
